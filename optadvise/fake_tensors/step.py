"""One training step of the user's module under fake tensors: counted, not allocated. Imports torch.

The figures are meant to be those of a GPU. Where torch can use one, the fake tensors are said to be on it; elsewhere
they are on the CPU, and `ascuda` changes what would keep other bytes there. Optimizers are always stepped on fake
tensors of the CPU: what a library starts by itself on CUDA (Triton, managed memory) would touch what is not there.

Not seen: what one operation allocates for itself (workspaces of convolutions and of matrix products), the
allocator's rounding, and recurrent layers as cuDNN computes them, which keep less than the CPU's.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from optadvise.benchmark import user_workload
from optadvise.benchmark.optimizer_builder import resolve
from optadvise.core.errors import CannotRunHereError
from optadvise.fake_tensors.cuda_emulation import as_on_cuda, foreach_as_on_cuda
from optadvise.fake_tensors.tracker import OutOfTime, Tracker
from optadvise.fake_tensors.values import Values, tolerant

_AUTOCAST = {"amp-bf16": torch.bfloat16, "amp-fp16": torch.float16}
Doing = Callable[[str], None]


class Stepped(Struct, frozen=True):
    """A step that was taken, ready for optimizers."""

    facts: dict[str, Any]  # what was counted
    mode: FakeTensorMode
    weights: list[nn.Parameter]  # those trained, with their gradients
    resident: int  # bytes alive between the backward pass and the optimizer's step


def take_step(spec: str, *, precision: str, seed: int, device: str | None = None, doing: Doing) -> Stepped:
    """Run the user's function and one step of what it returns; the second is counted, as in a run that goes on.

    Args:
        spec: `package.module:function`, as for `bench.user`.
        precision: `fp32`, `bf16`, `amp-bf16` or `amp-fp16`.
        seed: Of torch's and Python's generators.
        device: Where the fake tensors are said to be; None for the GPU where torch can use one.
        doing: Told what begins.

    Raises:
        InputError: The function, what it returned or its step is wrong, or needs the values of tensors.
    """
    device = device or _device()
    mode, tracker = FakeTensorMode(allow_non_fake_inputs=True), Tracker(device)
    with contextlib.ExitStack() as stack:
        stack.enter_context(tolerant())
        if device == "cpu":  # before the user's module is imported, which may take functions out of torch by name
            stack.enter_context(as_on_cuda(lambda: not tracker.running))
        given = user_workload.called(
            spec, seed=seed, flag="--from", within=partial(_within, mode, Tracker(device)), doing=doing
        )
        doing("its training step")
        begin = time.perf_counter()
        stepped: Stepped = user_workload.guarded(
            f"--from {spec!r}", "its training step", lambda: _step(mode, tracker, given, precision, device)
        )
    return replace(stepped, facts={**stepped.facts, "device": device, "seconds": time.perf_counter() - begin})


def _device() -> str:
    """Return `cuda` where torch has a GPU and fake tensors can be stepped on it, else `cpu`."""
    if not torch.cuda.is_available():
        return "cpu"
    try:
        with FakeTensorMode():
            torch.ones(2, device="cuda", requires_grad=True).sum().backward()
    except RuntimeError:
        return "cpu"
    return "cuda"


@contextlib.contextmanager
def _within(mode: FakeTensorMode, tracker: Tracker) -> Iterator[None]:
    with mode, Values(mode), tracker:
        yield


def _step(mode: FakeTensorMode, tracker: Tracker, given: user_workload.Given, precision: str, device: str) -> Stepped:
    module = given.module
    half = torch.bfloat16 if precision == "bf16" else None
    batch = next(given.batches)  # not under fake tensors: a data loader shuffles by values
    with mode:
        _fake_module(mode, module)
        module.to(device=device, dtype=half)
        batch = user_workload.each_tensor(batch, partial(_fake, mode))
        batch = user_workload.each_tensor(
            batch, partial(user_workload.moved, device=device, dtype=half or torch.float32)
        )
        held: list[Tensor] = []
        user_workload.each_tensor(batch, lambda tensor: held.append(tensor) or tensor)  # type: ignore[func-returns-value]
        facts: dict[str, Any] = {
            "weights_bytes": tracker.add(module.parameters(), "weights"),
            "buffers_bytes": tracker.add(module.buffers(), "other"),
            "batch_bytes": tracker.add(held, "other"),
            "samples": given.samples,
        }
        _iterate(mode, tracker, given, batch, lambda: _autocast(device, precision))
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    facts |= {
        "parameters": sum(weight.numel() for weight in module.parameters()),
        "trainable_parameters": sum(weight.numel() for weight in weights),
        "gradients_bytes": tracker.bytes["gradients"],
        "peak_bytes": tracker.peak,
        "peak": tracker.at_peak,
        "shapes": _shapes(module),
    }
    return Stepped(facts, mode, weights, tracker.total)


def _iterate(
    mode: FakeTensorMode, tracker: Tracker, given: user_workload.Given, batch: Any, autocast: Callable[[], Any]
) -> None:
    """Go forward and backward twice; the tracker keeps the second's peak."""
    for weight in given.module.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(partial(_found, tracker))
    with Values(mode), tracker:
        for _ in range(2):
            given.module.zero_grad(set_to_none=True)
            tracker.forget_peak()
            tracker.kind = "activations"
            with autocast():
                value = given.loss(given.module, batch)
            tracker.kind = "temporaries"
            value.backward()
            del value


def _fake(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor)


def _fake_module(mode: FakeTensorMode, module: nn.Module) -> None:
    """Make what came from numpy or from a file fake; what was made under the mode is."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = _fake(mode, tensor)


def _found(tracker: Tracker, weight: Tensor) -> None:
    if weight.grad is not None:
        tracker.add([weight.grad], "gradients")


def _autocast(device: str, precision: str) -> Any:
    dtype = _AUTOCAST.get(precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device, dtype=dtype)


def _shapes(module: nn.Module) -> list[list[Any]]:
    found = Counter((tuple(w.shape), str(w.dtype).removeprefix("torch."), w.requires_grad) for w in module.parameters())
    return [[list(shape), dtype, trained, count] for (shape, dtype, trained), count in found.items()]


def step_optimizer(entry: Mapping[str, Any], stepped: Stepped, budget: float) -> dict[str, Any]:
    """Step a new optimizer twice on the same gradients and return what it keeps and what its second step adds.

    Args:
        entry: `id`, `import` path, `kwargs` and, for the advice where it is missing, `package`.
        stepped: The step whose weights and gradients it takes.
        budget: Seconds that it may take.
    """
    try:
        figures, reason = _measured(entry, stepped, budget), None
    except CannotRunHereError as error:
        figures, reason = {}, str(error)
    except OutOfTime:
        figures, reason = {}, f"no answer within {budget:g} s"
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        figures, reason = {}, f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    gc.collect()  # what it left in cycles would count for the next
    status = "unsupported" if reason else "measured"
    empty = dict.fromkeys(("state_bytes", "step_peak_bytes", "temporary_bytes"))
    return {"id": entry["id"], "status": status, "reason": reason, **empty, **figures}


def _measured(entry: Mapping[str, Any], stepped: Stepped, budget: float) -> dict[str, int]:
    deadline = time.monotonic() + budget
    made = resolve(entry["import"], entry.get("package") or entry["import"].split(".")[0])
    kwargs = {key: tuple(value) if isinstance(value, list) else value for key, value in entry["kwargs"].items()}
    if "triton" in inspect.signature(made).parameters:  # its kernels would run on what is not there
        kwargs.setdefault("triton", False)
    tracker = Tracker("cpu", deadline=deadline)
    with stepped.mode, foreach_as_on_cuda(FakeTensor):
        weights = [nn.Parameter(weight.detach().to("cpu")) for weight in stepped.weights]
        gradients = [None if weight.grad is None else weight.grad.to("cpu") for weight in stepped.weights]
        tracker.add(weights, "weights")
        tracker.add((gradient for gradient in gradients if gradient is not None), "gradients")
        base = tracker.total
        with Values(stepped.mode, guess=True), tracker:
            optimizer = made(weights, **kwargs)
            if hasattr(optimizer, "train"):
                optimizer.train()
            for _ in range(2):
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient
                tracker.forget_peak()
                optimizer.step()
        gc.collect()
        state = tracker.total - base
        peak = max(tracker.peak - base, state)
    return {"state_bytes": state, "step_peak_bytes": stepped.resident + peak, "temporary_bytes": peak - state}
