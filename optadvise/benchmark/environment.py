"""What the machine is, without torch."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from optadvise.core.hardware import processor
from optadvise.core.version import __version__


def environment() -> dict[str, Any]:
    """Return what a reader of a result has to know about the machine."""
    return {
        "optadvise": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "executable": Path(sys.executable).name,
    }
