"""bitsandbytes 0.50.2: `AdEMAMix32bit` fails on a CPU for matrices

`AdEMAMix(optim_bits=32)` is the same optimizer and works (bitsandbytes#2075).
"""

import torch, bitsandbytes as bnb

w = torch.nn.Parameter(torch.ones(64, 64))
w.grad = torch.ones_like(w)
try:
    bnb.optim.AdEMAMix32bit([w]).step()
    raise AssertionError("it works now")
except RuntimeError as error:
    assert "broadcast" in str(error)
