"""bitsandbytes 0.50.2: `Adagrad` and `SGD` raise on sparse gradients

torch's implementations accept them. The error message is about memory formats, not about sparse gradients.
"""

import torch, bitsandbytes as bnb

for optimizer, kwargs in ((bnb.optim.Adagrad, {}), (bnb.optim.SGD, {"lr": 0.1, "momentum": 0.9})):
    table = torch.nn.Embedding(128, 64, sparse=True)
    table(torch.tensor([1])).sum().backward()
    try:
        optimizer(table.parameters(), **kwargs).step()
        raise AssertionError("no error")
    except RuntimeError as error:
        assert "memory format" in str(error)
