"""Worker process of one stage."""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # `benchmarks` and the checkout

from gpu_check.records import Check, Item, ItemFinished, ItemStarted, StageFinished, StageRequest
from optadvise.core.errors import CannotRunHereError, describe_error
from optadvise.core.worker import ParentConnection


def main() -> None:
    """Measure the items of one stage that are not finished yet."""
    parent = ParentConnection()
    request = parent.receive(StageRequest)
    try:
        items: list[Item] = pkgutil.resolve_name(request.items)(request.settings)
    except CannotRunHereError as error:
        parent.send(StageFinished(skipped=str(error)))
        return
    for item in items:
        if item.name not in request.finished:
            parent.send(ItemStarted(item.name))
            parent.send(ItemFinished(tuple(measure_item(item))))
            check_device(request.settings.device)
    parent.send(StageFinished())


def measure_item(item: Item) -> list[Check]:
    """Return the checks of an item; a failed check if it raises an error."""
    try:
        return item.measure()
    except CannotRunHereError as error:
        return [Check(name=item.name, note=str(error))]
    except Exception as error:  # libraries raise many types
        return [Check(name=item.name, is_right=False, note=describe_error(error))]


def check_device(device: str) -> None:
    """Exit if CUDA cannot be used any more, as after an invalid memory access; a new worker measures the other items.

    A stage that does not use CUDA itself leaves it uninitialized.
    """
    torch = sys.modules.get("torch")
    if device == "cuda" and torch is not None and torch.cuda.is_initialized():
        torch.ones(8, device=device).sum().item()


if __name__ == "__main__":
    main()
