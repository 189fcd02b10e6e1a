"""What more GPUs would pay: the same run on fewer and on more of them, where its optimizer's state is sharded."""

from __future__ import annotations

from msgspec.structs import replace

from optadvise.core.records import MemoryEstimate, Scale, Scaling, Situation
from optadvise.memory.breakdown import shards
from optadvise.memory.estimator import Sizing

_AROUND = (4, 2, 1)  # how many times fewer GPUs are told; as many times more
_MOST = 10**6  # GPUs; nobody has more


def scaling(sizing: Sizing, situation: Situation, optimizer: str) -> Scaling | None:
    """Return what a run needs on other numbers of GPUs, None where its state is not sharded.

    Args:
        sizing: The arithmetic.
        situation: The run, placed.
        optimizer: Its optimizer's id.
    """
    if situation.gpus == 1 or shards(situation)[2] == 1:
        return None
    here = sizing.estimate(situation, optimizer)
    sample = None if here.activations is None else here.activations // (situation.micro_batch or 1)
    enough = _enough(sizing, situation, optimizer, sample) if sample is not None and any(_sharded(here)) else None
    counts = {situation.gpus // n for n in _AROUND if situation.gpus % n == 0} | {situation.gpus * n for n in _AROUND}
    counts |= {enough} if enough is not None else set()
    told = sorted(n for n in counts if 1 < n <= _MOST and _shares(situation, n))
    return Scaling(sample, enough, tuple(_scale(sizing, _on(situation, n), optimizer) for n in told))


def _on(situation: Situation, gpus: int) -> Situation:
    """Return the run on another number of GPUs, its passes still to be placed where nobody said how large they are."""
    return replace(situation.withdraw("micro_batch"), gpus=gpus)


def _shares(situation: Situation, gpus: int) -> bool:
    """Can so many GPUs take equal shares of the batch, in passes as large as was said?"""
    if situation.batch_size is None:
        return True
    micro = 1 if "micro_batch" in situation.assumed else situation.micro_batch or 1
    return situation.batch_size % (gpus * micro) == 0


def _sharded(memory: MemoryEstimate) -> list[int]:
    """Return the bytes on one GPU of state, and of the fp32 copy of the weights where that is sharded with it."""
    parts = {line.part: line.bytes or 0 for line in memory.ledger}
    return [parts.get(part, 0) for part in ("optimizer state", "master copy")]


def _enough(sizing: Sizing, situation: Situation, optimizer: str, sample: int) -> int:
    """Return the smallest power of two of GPUs from which on every doubling frees less than a sample keeps."""

    def there(gpus: int) -> int:
        return sum(_sharded(sizing.estimate(replace(situation, gpus=gpus), optimizer)))

    found = 1 << _MOST.bit_length()
    more = there(found)
    while found > 1 and (less := there(found // 2)) - more < sample:
        found, more = found // 2, less
    return found


def _scale(sizing: Sizing, situation: Situation, optimizer: str) -> Scale:
    placed = sizing.placed(situation, optimizer)
    memory = sizing.estimate(placed, optimizer)
    sent = sizing.traffic(placed)
    state, master = _sharded(memory)
    return Scale(
        gpus=placed.gpus, optimizer_bytes=state, master_bytes=master, total=memory.total, fits=memory.fits,
        micro_batch=placed.micro_batch or 1, largest_pass=sizing.largest_pass(placed, optimizer),
        sent=0 if sent is None else sent.sent,
    )  # fmt: skip
