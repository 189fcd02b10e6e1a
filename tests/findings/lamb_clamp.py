"""pytorch-optimizer 4.1.0: `Lamb` limits the weight norm to 10, and its first step is ten times too long

The length of a LAMB step should be the learning rate times the weight norm: 0.064, 0.64 and 0.00064 here. The limit is
a class attribute, `Lamb.clamp`. The factor of ten is 1 / (1 − β1), because only the first moment is bias-corrected.
"""

import torch
from pytorch_optimizer import Lamb

for scale, length in ((1.0, 0.1), (10.0, 0.1), (0.01, 0.0064)):
    w = torch.nn.Parameter(torch.full((64, 64), scale))
    w.grad = torch.ones_like(w)
    Lamb([w], lr=1e-3, weight_decay=0.0).step()
    assert abs(float((w.detach() - scale).norm()) / length - 1) < 0.01
