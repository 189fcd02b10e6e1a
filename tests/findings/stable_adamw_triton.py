"""torch-optimi 0.3.3: `StableAdamW` cannot step on a CPU where Triton is installed

torch's CUDA builds bring Triton. Without a GPU the class decides for it before it has seen the group's weights;
`triton=False` helps, and is what optadvise writes.
"""

import torch, optimi

w = torch.nn.Parameter(torch.ones(64, 64))
w.grad = torch.ones_like(w)
try:
    optimi.StableAdamW([w], lr=1e-3).step()
    raise AssertionError("it works now")
except RuntimeError as error:
    assert "active drivers" in str(error)
