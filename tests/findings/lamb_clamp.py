"""pytorch-optimizer 4.1.0: `Lamb` caps the weight's norm at 10, and its first step is ten times too long

LAMB's step is the learning rate times the weight's norm: 0.064, 0.64 and 0.00064 here. The cap is a class attribute,
`Lamb.clamp`; the factor is 1 / (1 − β1), as of the two moments only the first is corrected for its start.
"""

import torch
from pytorch_optimizer import Lamb

for scale, found in ((1.0, 0.1), (10.0, 0.1), (0.01, 0.0064)):
    w = torch.nn.Parameter(torch.full((64, 64), scale))
    w.grad = torch.ones_like(w)
    Lamb([w], lr=1e-3, weight_decay=0.0).step()
    assert abs(float((w.detach() - scale).norm()) / found - 1) < 0.01
