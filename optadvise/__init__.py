"""Optimizer advice for PyTorch: recommendations, memory estimates and measurements."""

from optadvise.core.version import __version__ as __version__

TYPE_CHECKING = False  # as in `typing`, which is not imported before __main__ has removed the current folder

__all__ = ["Advice", "Estimate", "Measurement", "Run", "bench", "estimate", "recommend"]

if TYPE_CHECKING:
    from optadvise.api import Advice, Estimate, Measurement, Run, bench, estimate, recommend


def __getattr__(name: str) -> object:
    """Import `optadvise.api` on first access, to keep the start of the command line fast."""
    if name not in __all__:
        raise AttributeError(f"module 'optadvise' has no attribute {name!r}")
    from optadvise import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """List the public names without importing `optadvise.api`."""
    return sorted({*globals(), *__all__})
