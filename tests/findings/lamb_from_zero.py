"""bitsandbytes 0.50.2: `LAMB` never moves a weight that starts at zero

It bounds the update by a share of the weight's norm, and a share of zero is zero. LAMB's authors leave such a tensor
unscaled (arXiv:1904.00962, whose code takes a ratio of 1 there). Biases and LoRA's B matrices start at zero.
"""

import torch, bitsandbytes as bnb

w = torch.nn.Parameter(torch.zeros(64, 64))
optimizer = bnb.optim.LAMB([w], lr=1e-2)
for _ in range(100):
    w.grad = torch.ones_like(w)
    optimizer.step()
assert not w.any()
