"""Launcher of the ranks on this machine, with torchrun's launcher; its argument is their number.

Ranks inherit stdin and stdout, which only rank 0 uses; stderr goes to one file per rank.
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from optadvise.benchmark.distributed.rank_files import FOLDER, FOLDER_PREFIX, write_exit_codes
from optadvise.core.lifeline import remove_with_parent
from optadvise.core.worker import module_command


def main() -> int:
    """Start the ranks and wait for them; if the parent ends, so do they, and their files are removed."""
    folder = Path(os.environ[FOLDER])
    if folder.name.startswith(FOLDER_PREFIX):  # never a folder that another program or a person named
        remove_with_parent(str(folder))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=int(sys.argv[1]), run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=Std.ERR),
    )  # fmt: skip
    try:
        python, *arguments = module_command("optadvise.benchmark.worker")
        elastic_launch(config, python)("-u", *arguments)
    except ChildFailedError as error:  # the parent reads the reason
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        write_exit_codes(folder, codes)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
