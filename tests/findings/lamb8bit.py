"""bitsandbytes 0.50.2: `LAMB8bit` computes AdamW's update and `LARS8bit` SGD's

The block-wise update has no trust ratio. For a weight ten times as large, a LAMB or LARS step is ten times as long; the
steps of these classes have the same length. Their state takes two bytes and one byte per parameter, like the 8-bit
states of AdamW and momentum.
"""

import torch, bitsandbytes as bnb


def step_length(optimizer, scale, **hyperparameters):
    w = torch.nn.Parameter(scale * torch.linspace(1, 2, 8192).view(64, 128))
    start = w.detach().clone()
    w.grad = torch.ones_like(w)
    optimizer([w], **hyperparameters).step()
    return float((w.detach() - start).norm())


for optimizer, kwargs in ((bnb.optim.LAMB8bit, {"lr": 1e-3}), (bnb.optim.LARS8bit, {"lr": 1e-3, "momentum": 0.9})):
    assert abs(step_length(optimizer, 10, **kwargs) / step_length(optimizer, 1, **kwargs) - 1) < 0.01
