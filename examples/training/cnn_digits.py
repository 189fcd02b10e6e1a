"""A small convolutional network on real images: scikit-learn's 1,797 handwritten digits.

The optimizer, its schedule and the training loop are what this printed; the network and the data are ours:

    optadvise recommend --model cnn --batch-size 64 --steps 400 --precision fp32 --tuning high --format python
"""

# SGD + momentum under cosine, by optadvise 0.1.0 (rules ed434d2c645d).
# CON120: with time to tune, optimizers come into reach that reward it
# OPT090: the flowchart gives convolutions momentum and a cosine wherever the schedule can be tuned
# SCH030: one smooth decay, and no milestones to choose
# Needs: pip install torch

import sys

import sklearn.datasets
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
total_steps = 400
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
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.0002, fused=True)
    return optimizer, schedule(optimizer)


def schedule(optimizer):
    """Return the schedule, which counts optimizer steps and not epochs."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=400, eta_min=0.0)


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


def images():
    """Return the images and their digits, shuffled; the last fifth is held out."""
    digits = sklearn.datasets.load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(digits.target)[order]
    cut = len(y) * 4 // 5
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def stand_in():
    """Return the network and batches of 64 images."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 3, padding=1),
        torch.nn.BatchNorm2d(64),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64 * 16, 10),
    )
    (x, y), _ = images()
    picks = torch.randint(len(y), (total_steps, 64))
    return model, ((x[pick], y[pick]) for pick in picks)


def loss_of(model, x, y):
    return torch.nn.functional.cross_entropy(model(x), y)


@torch.no_grad()
def accuracy(model):
    """Return the share of held-out images whose digit is found."""
    _, (x, y) = images()
    model.eval()
    right = (model(x.to(device)).argmax(1) == y.to(device)).float().mean().item()
    model.train()
    return right


def main(steps=total_steps):
    """Train, and say what it was good for."""
    model, batches = stand_in()
    before = accuracy(model.to(device))
    train(model, batches, checkpoint=sys.argv[1] if len(sys.argv) > 1 else None, steps=steps)
    after = accuracy(model)
    print(f"held out: {before:.1%} right before, {after:.1%} after")
    return before, after


if __name__ == "__main__":
    main()
