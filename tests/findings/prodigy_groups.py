"""pytorch-optimizer 4.1.0: `Prodigy` uses one learning rate for all groups

Like the authors' code, it applies the largest learning rate of all groups to every group. A learning rate per layer, or
for the head alone, has no effect.
"""

import torch
from pytorch_optimizer import Prodigy

a, b = (torch.nn.Parameter(torch.ones(8)) for _ in range(2))
optimizer = Prodigy([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.1}])
for _ in range(20):
    a.grad, b.grad = torch.ones(8), torch.ones(8)
    optimizer.step()
assert a[0] < 1
assert torch.equal(a, b)
