"""One training step of the user's module under fake tensors, in a process of its own. Imports torch.

Reads a JSON object, one line on stdin, and answers with JSON lines, each as soon as it is known, so that the parent
keeps what was measured before a process went away:

- `{"doing": …}` before each thing that may hang or crash;
- `{"step": …}`, the figures of the forward and the backward pass;
- `{"optimizer": …}` for each optimizer;
- `{"wrong": …}` or `{"cannot": …}`, one line of text, where the user's function is at fault or the machine.

As in `worker`, the answers go out through a copy of stdout that nothing else knows, and the process ends with its
stdin.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from optadvise.core.errors import CannotRunHereError, InputError


def main() -> None:
    """Answer one request."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")

    def say(**line: Any) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _serve(request, say)
    except InputError as error:
        say(wrong=_explained(request["spec"], error))
    except CannotRunHereError as error:
        say(cannot=str(error))
    except MemoryError:
        say(cannot=f"--from {request['spec']!r}: out of memory; make tensors by torch, which are fake, not by numpy")
    os._exit(0)  # what was loaded need not be taken down, which some libraries do badly


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(0)


def _serve(request: dict[str, Any], say: Any) -> None:
    say(doing="importing torch")
    try:
        import torch

        from optadvise.fake_tensors import step
    except ImportError as error:
        raise CannotRunHereError(f"torch cannot be imported ({error}); pip install torch") from error

    torch.compile = _as_it_is
    spec, precision, seed = request["spec"], request["precision"], request["seed"]
    stepped = step.take_step(spec, precision=precision, seed=seed, doing=lambda what: say(doing=what))
    say(step=stepped.facts)
    gc.freeze()  # the module stays, so that no collection has to look at it again
    for entry in request["optimizers"]:
        say(doing=f"stepping {entry['id']}")
        say(optimizer=step.step_optimizer(entry, stepped, request["budget"]))


def _as_it_is(model: Any = None, **_: Any) -> Any:
    """Stand in for `torch.compile`, which would compile code for tensors that are not there."""
    return model if model is not None else _as_it_is


def _explained(spec: str, error: InputError) -> str:
    """Return what to tell the user: where it was, and in more words where fake tensors are the reason."""
    from torch._subclasses import fake_tensor

    cause = error.__cause__
    if cause is None or isinstance(cause, InputError):
        return str(error)
    doing, place = str(error).split(" raised ")[0], _place(cause)
    real = f"or measure for real with optadvise bench --workload {spec}"
    if isinstance(cause, (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException)):
        return (
            f"{doing} needs the values of tensors ({type(cause).__name__}{place}), which fake tensors do not have; "
            f"take them from shapes or plain numbers, {real}"
        )
    if isinstance(cause, fake_tensor.UnsupportedOperatorException):
        return f"{doing} uses {cause}{place}, which has no fake implementation; leave it out, {real}"
    return f"{str(error).rstrip('.')}{place}{_hint(cause)}"


def _place(error: BaseException) -> str:
    """Return ` at file:line` of the innermost frame that is neither torch's nor ours."""
    import torch

    own = (*(str(Path(str(m.__file__)).parent) for m in (torch, importlib)), str(Path(__file__).parent), "<frozen")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(own)]
    if not frames:
        return ""
    file = Path(frames[-1].filename)
    with contextlib.suppress(ValueError):
        file = file.relative_to(Path.cwd())
    return f" at {file}:{frames[-1].lineno}"


def _hint(error: BaseException) -> str:
    import torch

    if "cuda" in str(error).lower() and not torch.cuda.is_available():
        return "; there is no GPU here, so name no device: the step is counted as on one"
    if ".numpy()" in str(error):
        return "; fake tensors hold no values, so make by numpy what numpy needs"
    return ""


if __name__ == "__main__":
    main()
