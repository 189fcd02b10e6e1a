"""bitsandbytes 0.50.2: `AdEMAMix32bit` fails for matrices on a CPU

`AdEMAMix(optim_bits=32)` is the same optimizer and works (bitsandbytes#2075).
"""

import torch, bitsandbytes as bnb

w = torch.nn.Parameter(torch.ones(64, 64))
w.grad = torch.ones_like(w)
try:
    bnb.optim.AdEMAMix32bit([w]).step()
    raise AssertionError("no error")
except RuntimeError as error:
    assert "broadcast" in str(error)
