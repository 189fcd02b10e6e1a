"""Trace of a training step of the user's module with fake tensors, without allocation. Imports torch.

The results estimate the memory of a GPU. If torch can use one, the fake tensors are on it; otherwise they are on
the CPU, and `cuda_emulation` changes the operations that save other tensors on CUDA. Optimizers always run with fake
tensors on the CPU: custom CUDA kernels of a library (Triton, managed memory) would access memory that does not exist.

Not included: workspaces of operations (convolutions, matrix products), rounding of the allocator, and the smaller
memory of recurrent layers in cuDNN.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from msgspec import Struct
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import Optimizer

from optadvise.benchmark import user_workload
from optadvise.benchmark.optimizer_builder import iterate_tensors, resolve
from optadvise.benchmark.workloads import AUTOCAST_DTYPES
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, describe_error
from optadvise.fake_tensors.cuda_emulation import emulate_cuda, emulate_foreach
from optadvise.fake_tensors.records import (
    OptimizerFigures,
    OptimizerRequest,
    OptimizerStep,
    ParameterShape,
    PeakBytes,
    StepFigures,
)
from optadvise.fake_tensors.tracker import OutOfTime, Tracker
from optadvise.fake_tensors.values import KeptValues, allow_fake_modules
from optadvise.rulebase.constructor import convert_lists


class SteppedModule(Struct, frozen=True):
    """Module after its training step."""

    figures: StepFigures
    mode: FakeTensorMode
    weights: list[nn.Parameter]  # trainable parameters with their gradients


class _Stepper(Struct, frozen=True):
    """Context of a traced step."""

    mode: FakeTensorMode
    tracker: Tracker
    device: str
    precision: str


def take_step(spec: str, *, precision: str, device: str | None = None, report: Callable[[str], None]) -> SteppedModule:
    """Run the user's function and two training steps of its module, and measure the second one.

    Args:
        spec: `package.module:function`, as for `user_workload`.
        precision: `fp32`, `bf16`, `amp-bf16` or `amp-fp16`.
        device: Device type of the fake tensors; None for `cuda` if torch can use a GPU, else `cpu`.
        report: Receives the next action, before it may hang or crash.

    Raises:
        InputError: The function, its result or its training step fails or reads values of tensors.
    """
    device = device or _choose_device()
    mode, tracker = FakeTensorMode(allow_non_fake_inputs=True), Tracker(device)
    emulation = emulate_cuda(lambda: not tracker.is_running) if device == "cpu" else contextlib.nullcontext()
    with allow_fake_modules(), emulation:  # before the user's module imports functions of torch by name
        workload = user_workload.call_user_function(
            spec, flag="--workload", call_context=partial(_fake_context, mode, Tracker(device)), announce=report
        )
        report("its training step")
        stepper = _Stepper(mode=mode, tracker=tracker, device=device, precision=precision)
        return user_workload.run_guarded(
            f"--workload {spec!r}", "its training step", lambda: _measure_step(stepper, workload)
        )


def _choose_device() -> str:
    """Return `cuda` if fake tensors work on a GPU, else `cpu`."""
    if not torch.cuda.is_available():
        return "cpu"
    try:
        with FakeTensorMode():
            torch.ones(2, device="cuda", requires_grad=True).sum().backward()
    except RuntimeError:
        return "cpu"
    return "cuda"


@contextlib.contextmanager
def _fake_context(mode: FakeTensorMode, tracker: Tracker) -> Iterator[None]:
    with mode, KeptValues(mode), tracker:
        yield


def _measure_step(stepper: _Stepper, workload: user_workload.UserWorkload) -> SteppedModule:
    begin = time.perf_counter()
    mode, tracker, module = stepper.mode, stepper.tracker, workload.module
    batch = next(workload.batches)  # outside fake mode, because data loaders read values to shuffle
    with mode:
        batch = _prepare(stepper, module, batch)
        tensors: list[Tensor] = []
        user_workload.map_tensors(batch, lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
        weights_bytes = tracker.add(module.parameters(), "weights")
        buffers_bytes = tracker.add(module.buffers(), "other")
        batch_bytes = tracker.add(tensors, "other")
        _step_twice(stepper, workload, batch)
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    figures = StepFigures(
        parameters=sum(weight.numel() for weight in module.parameters()),
        trainable_parameters=sum(weight.numel() for weight in trained),
        weights_bytes=weights_bytes,
        buffers_bytes=buffers_bytes,
        batch_bytes=batch_bytes,
        gradients_bytes=tracker.bytes["gradients"],
        peak=PeakBytes(**tracker.at_peak),
        samples=workload.samples,
        shapes=_count_shapes(module),
        seconds=time.perf_counter() - begin,
    )
    return SteppedModule(figures=figures, mode=mode, weights=trained)


def _prepare(stepper: _Stepper, module: nn.Module, batch: object) -> object:
    """Convert the module's and the batch's tensors to fake tensors on the device, and return the batch."""
    half = torch.bfloat16 if stepper.precision == "bf16" else None
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:  # tensors from numpy or a file are not fake yet
                    tensors[name] = _make_fake(stepper.mode, tensor)
    module.to(device=stepper.device, dtype=half)
    batch = user_workload.map_tensors(batch, partial(_make_fake, stepper.mode))
    move = partial(user_workload.move_tensor, device=stepper.device, dtype=half or torch.float32)
    return user_workload.map_tensors(batch, move)


def _make_fake(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor)


def _step_twice(stepper: _Stepper, workload: user_workload.UserWorkload, batch: object) -> None:
    """Run forward and backward pass twice; the tracker has the peak of the second run."""
    tracker = stepper.tracker
    dtype = AUTOCAST_DTYPES.get(stepper.precision)
    for weight in workload.module.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(partial(_track_gradient, tracker))
    with KeptValues(stepper.mode), tracker:
        for _ in range(2):
            workload.module.zero_grad(set_to_none=True)
            tracker.reset_peak()
            tracker.kind = "activations"
            with contextlib.nullcontext() if dtype is None else torch.autocast(stepper.device, dtype=dtype):
                loss = workload.loss(workload.module, batch)
            tracker.kind = "temporaries"
            loss.backward()
            del loss


def _track_gradient(tracker: Tracker, weight: Tensor) -> None:
    if weight.grad is not None:
        tracker.add([weight.grad], "gradients")


def _count_shapes(module: nn.Module) -> tuple[ParameterShape, ...]:
    counts = Counter((tuple(weight.shape), weight.requires_grad) for weight in module.parameters())
    return tuple(ParameterShape(*parameter, count) for parameter, count in counts.items())


# -- optimizers -------------------------------------------------------------------------------------------------------


def step_optimizer(request: OptimizerRequest, stepped: SteppedModule, budget: float) -> OptimizerStep:
    """Trace two steps of an optimizer; errors become the reason in the result.

    Args:
        budget: Time limit in seconds.
    """
    figures, reason = None, None
    try:
        figures = measure_optimizer(request, stepped, budget)
    except CannotRunHereError as error:
        reason = str(error)
    except OutOfTime:
        reason = f"did not finish within {budget:g} s"
    except (Exception, SystemExit) as error:
        reason = describe_error(error)
    gc.collect()  # free reference cycles, which would count for the next optimizer
    return OptimizerStep(id=request.id, figures=figures, reason=reason)


def measure_optimizer(request: OptimizerRequest, stepped: SteppedModule, budget: float) -> OptimizerFigures:
    """Trace two steps of an optimizer with the same gradients, and return its state and the peak of the second step.

    Args:
        budget: Time limit in seconds.

    Raises:
        CannotRunHereError: The optimizer cannot be imported, or not be traced.
        OutOfTime: The time limit is exceeded.
    """
    deadline = time.monotonic() + budget
    build = resolve(request.path, request.package or request.path.split(".")[0])
    kwargs = convert_lists(request.kwargs)
    if "triton" in inspect.signature(build).parameters:  # Triton kernels would access memory that does not exist
        kwargs.setdefault("triton", False)
    tracker = Tracker("cpu", deadline=deadline)
    with stepped.mode, emulate_foreach(FakeTensor):
        weights = [nn.Parameter(weight.detach().to("cpu")) for weight in stepped.weights]
        gradients = [None if weight.grad is None else weight.grad.to("cpu") for weight in stepped.weights]
        tracker.add(weights, "weights")
        tracker.add((gradient for gradient in gradients if gradient is not None), "gradients")
        base = tracker.total
        with KeptValues(stepped.mode, guess=True), tracker:
            optimizer = build(weights, **kwargs)
            if hasattr(optimizer, "train"):
                optimizer.train()
            for _ in range(2):
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient
                tracker.reset_peak()
                optimizer.step()
        _check_state(optimizer, [w for w, gradient in zip(weights, gradients, strict=True) if gradient is not None])
        gc.collect()
        state = tracker.total - base
        peak = max(tracker.peak - base, state)
    return OptimizerFigures(state, peak - state)


def _check_state(optimizer: Optimizer, weights: Sequence[Tensor]) -> None:
    """Reject an optimizer that distinguishes weights by their addresses, which fake tensors share.

    Raises:
        CannotRunHereError: Only some weights have state.
    """
    count = sum(any(tensor.ndim for tensor in iterate_tensors(optimizer.state.get(weight))) for weight in weights)
    if 0 < count < len(weights):
        message = f"only {count} of {len(weights)} weights have state"
        raise CannotRunHereError(message, code=ErrorCode.UNSUPPORTED)
