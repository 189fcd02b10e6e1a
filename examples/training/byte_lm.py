"""A byte-level language model that learns Python from the standard library's own source.

The optimizer, its schedule and the training loop are what this printed; the network and the data are ours:

    optadvise recommend --model transformer --params 1M --batch-size 16 --steps 300 --precision fp32 --format python
"""

# AdamW under warmup-cosine, by optadvise 0.1.0 (rules ed434d2c645d).
# CON999: nothing unusual was said
# OPT120: AdamW is what transformers are trained with, from BERT to Llama
# SCH010: attention is easily destabilised early, and a cosine after the ramp is the standard decay
# Needs: pip install torch

import math
import os
import pathlib
import sys

import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
total_steps = 300
micro_batch = 16  # samples of one pass
save_every = 1000  # steps; the last is saved too
save_to = "checkpoint.pt"


def configure(model):
    """Return the optimizer and the schedule that were advised."""
    trained = [p for p in model.parameters() if p.requires_grad]
    # Weight decay is for matrices; biases and norms (everything with one axis) get none.
    parameters = [
        {"params": [p for p in trained if p.ndim >= 2]},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=0.001,
        betas=(0.9, 0.95),
        eps=1e-08,
        weight_decay=0.1,
        fused=True,
    )
    return optimizer, schedule(optimizer)


def schedule(optimizer):
    """Return the schedule, which counts optimizer steps and not epochs."""
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, end_factor=1.0, total_iters=3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=297, eta_min=0.0001)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[3])


def train(model, batches, checkpoint=None, steps=total_steps):
    """Train over batches, from the first again when they end; what save() wrote continues its run."""
    model = model.to(device)
    optimizer, scheduler = configure(model)
    # Steps that are done, batches of this epoch that were seen, and what the epoch shuffles by.
    step, seen, order, random = 0, 0, torch.get_rng_state(), None
    if checkpoint is not None:
        step, seen, order, random = resume(checkpoint, model, optimizer, scheduler)
    model.train()
    while step < steps:
        torch.set_rng_state(order)
        stream = iter(batches)
        for _ in range(seen):
            next(stream)
        if seen:  # a run goes on
            restore(random)
        for x, y in stream:
            seen += 1
            x, y = x.to(device), y.to(device)
            loss = loss_of(model, x, y)
            loss.backward()
            rate = scheduler.get_last_lr()[0]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()  # after the optimizer, once a step
            optimizer.zero_grad(set_to_none=True)
            if step % 10 == 0:
                print(f"step {step}: loss {loss.item():.4f}, lr {rate:.3g}")
            step += 1
            if step % save_every == 0 or step == steps:
                save(save_to, step, seen, order, model, optimizer, scheduler)
            if step == steps:
                return
        if not seen:
            raise RuntimeError(f"there are no more batches, after {step} of {steps} steps")
        seen, order = 0, torch.get_rng_state()


def save(file, step, seen, order, model, optimizer, scheduler):
    """Write all that a run needs to go on as if it had not stopped."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    state = {
        "step": step,
        "seen": seen,
        "order": order,
        "random": [torch.get_rng_state(), *cuda],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    torch.save(state, file)


def resume(file, model, optimizer, scheduler):
    """Read what save() wrote, and return where the run was."""
    state = torch.load(file, map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return state["step"], state["seen"], state["order"], state["random"]


def restore(random):
    """Set torch's generators: the CPU's, and those of as many GPUs as there are."""
    torch.set_rng_state(random[0])
    for number, state in zip(range(torch.cuda.device_count()), random[1:]):
        torch.cuda.set_rng_state(state, number)


class Block(torch.nn.Module):
    """Attention and a feed-forward layer, normalised before each."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm_1(x)).chunk(3, dim=-1)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm_2(x))))


class Bytes(torch.nn.Module):
    """A decoder over bytes."""

    def __init__(self, width=128, layers=4, heads=4, length=128):
        super().__init__()
        self.embed = torch.nn.Embedding(256, width)
        self.position = torch.nn.Embedding(length, width)
        self.blocks = torch.nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, 256)

    def forward(self, x):
        here = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.embed(x) + self.position(here))))


def text():
    """Return the standard library's modules as bytes."""
    files = sorted(pathlib.Path(os.__file__).parent.glob("*.py"))
    return torch.tensor(list(b"".join(file.read_bytes() for file in files)[: 2**21]), dtype=torch.uint8)


def stand_in(length=128):
    """Return the network, and batches of 16 stretches of text with the byte that follows each."""
    torch.manual_seed(0)
    seen = text()[: -(2**16)]  # what comes after is held out
    starts = torch.randint(len(seen) - length - 1, (total_steps, micro_batch))
    batches = (
        (rows[:, :-1], rows[:, 1:])
        for rows in (torch.stack([seen[s : s + length + 1] for s in batch]).long() for batch in starts)
    )
    return Bytes(length=length), batches


def loss_of(model, x, y):
    return torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


@torch.no_grad()
def bits_per_byte(model, length=128):
    """Return what the model needs for a byte of text that it has not seen."""
    unseen = text()[-(2**14) :].long().to(device)
    rows = unseen[: len(unseen) // length * length].view(-1, length)
    return loss_of(model, rows[:, :-1], rows[:, 1:]).item() / math.log(2)


def main(steps=total_steps):
    """Train, and say what it was good for."""
    model, batches = stand_in()
    before = bits_per_byte(model.to(device))
    train(model, batches, checkpoint=sys.argv[1] if len(sys.argv) > 1 else None, steps=steps)
    after = bits_per_byte(model)
    print(f"held out: {before:.2f} bits a byte before, {after:.2f} after")
    return before, after


if __name__ == "__main__":
    main()
