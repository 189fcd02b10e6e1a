"""Machine and software of this process. Imports no torch."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from optadvise.benchmark.records import Machine
from optadvise.core.hardware import count_cores, name_processor
from optadvise.core.version import __version__


def read_machine() -> Machine:
    """Return the machine and software that a result depends on."""
    return Machine(
        optadvise=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=name_processor(),
        cores=count_cores(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        executable=Path(sys.executable).name,
    )
