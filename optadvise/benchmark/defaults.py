"""Defaults of `optadvise bench`, and dimensions of its workloads. Imported at every start of `recommend`."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

CONTROL: Final = "adamw"
WORKLOAD: Final = "transformer"
PRECISION: Final = "fp32"


class WorkloadSize(Struct, frozen=True):
    """Dimensions of a network and its batches."""

    width: int
    depth: int
    batch: int  # samples per step
    extent: int  # sequence length in tokens, or image side in pixels


# Parameters: transformer 0.83 M, 10.8 M, 85.4 M; cnn 0.69 M, 11.1 M, 69.3 M; mlp 0.66 M, 10.1 M, 51.5 M.
SIZES: Final[Mapping[str, Mapping[str, WorkloadSize]]] = {
    "transformer": {
        "tiny": WorkloadSize(width=128, depth=4, batch=8, extent=64),
        "small": WorkloadSize(width=384, depth=6, batch=4, extent=128),
        "medium": WorkloadSize(width=768, depth=12, batch=4, extent=256),
    },
    "cnn": {
        "tiny": WorkloadSize(width=32, depth=2, batch=32, extent=32),
        "small": WorkloadSize(width=128, depth=2, batch=16, extent=32),
        "medium": WorkloadSize(width=320, depth=2, batch=16, extent=32),
    },
    "mlp": {
        "tiny": WorkloadSize(width=512, depth=3, batch=64, extent=16),
        "small": WorkloadSize(width=1792, depth=4, batch=64, extent=16),
        "medium": WorkloadSize(width=4096, depth=4, batch=64, extent=16),
    },
}
TEXT_WORKLOADS: Final = frozenset({"transformer"})  # the others train on square images
