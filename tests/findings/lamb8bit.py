"""bitsandbytes 0.50.2: `LAMB8bit` takes AdamW's step and `LARS8bit` takes SGD's

The block-wise update has no trust ratio. For a weight ten times as long LAMB and LARS take a step ten times as long;
these take the same one. They cost two and one bytes a parameter, as AdamW's and momentum's 8-bit states do.
"""

import torch, bitsandbytes as bnb


def way(made, scale, **numbers):
    w = torch.nn.Parameter(scale * torch.linspace(1, 2, 8192).view(64, 128))
    start = w.detach().clone()
    w.grad = torch.ones_like(w)
    made([w], **numbers).step()
    return float((w.detach() - start).norm())


for made, numbers in ((bnb.optim.LAMB8bit, {"lr": 1e-3}), (bnb.optim.LARS8bit, {"lr": 1e-3, "momentum": 0.9})):
    assert abs(way(made, 10, **numbers) / way(made, 1, **numbers) - 1) < 0.01
