"""bitsandbytes 0.50.2: `PytorchLARS` raises without momentum, which is its default"""

import torch, bitsandbytes as bnb

w = torch.nn.Parameter(torch.ones(64, 64))
w.grad = torch.ones_like(w)
try:
    bnb.optim.PytorchLARS([w], lr=1e-3).step()
    raise AssertionError("no error")
except UnboundLocalError as error:
    assert "update" in str(error)
