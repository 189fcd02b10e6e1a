"""The process that audits and makes experiments: a question a line in, its answer a line out.

What libraries print cannot get between.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import convert

from optadvise.benchmark.spec import Arm
from optadvise.core.errors import CannotRunHereError
from optadvise.core.records import Surface
from optadvise.verify.target import Subject

Answer = dict[str, Any]


def main() -> int:
    """Answer every line of stdin."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from optadvise.verify.builder import one_thread
    from optadvise.verify.training import Trainings

    one_thread()
    trainings = Trainings()
    answers: Mapping[str, Callable[[Answer], Answer]] = {
        "audit": _audit, "devices": _devices, "experiment": lambda told: _experiment(told, trainings),
    }  # fmt: skip
    for line in sys.stdin:
        told = json.loads(line)
        out.write(json.dumps(answers[told["ask"]](told)) + "\n")
        out.flush()
    return 0


def _audit(told: Answer) -> Answer:
    from optadvise.benchmark.optimizer_builder import resolve
    from optadvise.verify.audit import audit, go_on

    subject = Subject(**told["subject"])
    try:
        made = resolve(subject.path, told["package"], remedy=told["remedy"])
    except CannotRunHereError as error:
        return {"missing": str(error)}
    except Exception as error:  # whatever importing somebody else's code does
        return {"missing": f"{subject.path} cannot be imported ({type(error).__name__}: {str(error)[:120]})"}
    return audit(subject, made) if told["run"] is None else go_on(subject, made, told["run"])


def _devices(told: Answer) -> Answer:
    import torch

    return {"devices": ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]}


def _experiment(told: Answer, trainings: Any) -> Answer:
    from optadvise.verify.builder import line
    from optadvise.verify.experiments import Experiment, Side, Undecidable, measured

    sides = [
        Side(convert(side["arm"], Arm), {float(rate): convert(arm, Arm) for rate, arm in side["rates"]}, side["warmup"])
        for side in told["sides"]
    ]
    surface = None if told["surface"] is None else Surface(**told["surface"])
    made = Experiment(sides, told["setting"], told["device"], trainings, surface)
    try:
        return {"figure": measured(told["experiment"], made, told["seed"])}
    except (Undecidable, CannotRunHereError) as error:
        return {"undecidable": str(error)}
    except Exception as error:  # whatever somebody else's code does
        return {"error": line(error)}


if __name__ == "__main__":
    sys.exit(main())
