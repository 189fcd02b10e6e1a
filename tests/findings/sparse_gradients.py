"""bitsandbytes 0.50.2: `Adagrad` and `SGD` raise on sparse gradients

Those of torch take them. The message tells of memory formats, not of sparsity.
"""

import torch, bitsandbytes as bnb

for made, numbers in ((bnb.optim.Adagrad, {}), (bnb.optim.SGD, {"lr": 0.1, "momentum": 0.9})):
    table = torch.nn.Embedding(128, 64, sparse=True)
    table(torch.tensor([1])).sum().backward()
    try:
        made(table.parameters(), **numbers).step()
        raise AssertionError("it works now")
    except RuntimeError as error:
        assert "memory format" in str(error)
