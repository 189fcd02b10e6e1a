"""bitsandbytes 0.50.2: `LAMB` never changes a weight that is initialized with zeros

It limits the update to a fraction of the weight norm, which is zero. LAMB's authors do not scale such a tensor
(arXiv:1904.00962, whose code uses a ratio of 1). Biases and LoRA's B matrices are initialized with zeros.
"""

import torch, bitsandbytes as bnb

w = torch.nn.Parameter(torch.zeros(64, 64))
optimizer = bnb.optim.LAMB([w], lr=1e-2)
for _ in range(100):
    w.grad = torch.ones_like(w)
    optimizer.step()
assert not w.any()
