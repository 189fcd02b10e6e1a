"""Worker process of one arm, as a single process or as one of several ranks."""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.argv[1:]:  # torchrun starts `python -m` in the user's folder
    from optadvise.core.start import remove_current_folder

    remove_current_folder()

import os
import warnings

from optadvise.benchmark import arm_session
from optadvise.benchmark.distributed.rank_files import DEVICE, FOLDER
from optadvise.benchmark.distributed.ranks import Ranks
from optadvise.benchmark.measurement import ArmCommand, StartArm
from optadvise.core.worker import ParentConnection


def main() -> None:
    """Answer commands until the parent ends. With several ranks, rank 0 reads commands and answers for all."""
    has_ranks = FOLDER in os.environ  # RANK may be set by an unrelated job
    connection: ParentConnection | None = None
    if not has_ranks or os.environ["RANK"] == "0":
        connection = ParentConnection()
    else:
        os.dup2(2, 1)  # stdout carries rank 0's answers
        warnings.simplefilter("ignore")
    ranks: Ranks | None = None
    try:
        if has_ranks:
            ranks = Ranks(os.environ.get(DEVICE, "cpu"))
        _serve(connection, ranks)
    except BaseException as error:  # every failure is the arm's result
        failure = arm_session.describe_failure(error)
        if ranks is not None:
            ranks.report_failure(failure)  # the parent determines which rank failed first
            os._exit(1)
        if connection is not None:
            connection.send(failure)
        sys.exit(1)


def _serve(connection: ParentConnection | None, ranks: Ranks | None) -> None:
    """Serve the arm that the parent sends.

    Args:
        connection: Connection to the parent; None for ranks other than 0.
        ranks: Process group of this rank; None for a single process.
    """

    def answer(message: arm_session.Answer) -> None:
        if connection is not None:
            connection.send(message)

    def receive_command() -> ArmCommand:
        command = connection.receive(ArmCommand) if connection is not None else ArmCommand("end")
        return command if ranks is None else ranks.broadcast(command)

    start = connection.receive(StartArm) if connection is not None else None
    start = start if ranks is None else ranks.broadcast(start)
    assert start is not None
    arm_session.serve(start.spec, start.arm, receive_command, answer, ranks)


if __name__ == "__main__":
    if sys.argv[1:]:
        from optadvise.benchmark.distributed import torchrun_entry

        sys.exit(torchrun_entry.main(sys.argv[1:]))
    main()
