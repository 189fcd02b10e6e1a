"""Times and bytes of training steps on one device, inside a worker."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optadvise.benchmark import optimizer_builder, user_workload, workloads
from optadvise.benchmark.distributed import wrapping
from optadvise.benchmark.distributed.rank_files import MARKS
from optadvise.benchmark.spec import Arm, Spec

if TYPE_CHECKING:
    from optadvise.benchmark.distributed.ranks import Ranks

_AUTOCAST = {"amp-bf16": torch.bfloat16, "amp-fp16": torch.float16}


class Clock:
    """Marks points of a step and reads the seconds between them, by device events on CUDA."""

    def __init__(self, device: str) -> None:
        """Choose the clock of a device."""
        self._cuda = device.startswith("cuda")
        self._events: list[Any] = []
        self._times: list[float] = []

    def start(self) -> None:
        """Forget earlier marks and make the first."""
        self._events, self._times = [], []
        if self._cuda:
            torch.cuda.synchronize()
        self.mark()

    def mark(self) -> None:
        """Make a mark."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Wait for the device and return the seconds between neighbouring marks."""
        if self._cuda:
            torch.cuda.synchronize()
            pairs = zip(self._events, self._events[1:], strict=False)
            return [a.elapsed_time(b) / 1e3 for a, b in pairs]
        return [b - a for a, b in zip(self._times, self._times[1:], strict=False)]


class Training:
    """A network with an optimizer, stepped and timed."""

    def __init__(self, spec: Spec, arm: Arm, ranks: Ranks | None = None) -> None:
        """Build the workload and the optimizer; nothing is stepped yet.

        Args:
            spec: The conditions.
            arm: The optimizer.
            ranks: This process among several that train together, None for one by itself.
        """
        self.spec, self.arm, self.ranks = spec, arm, ranks
        self.clock = Clock(spec.device)
        self.losses: list[float] = []
        torch.manual_seed(spec.seed)
        self.workload = None if spec.optimizer_only else self._workload()
        self._spread = None
        if ranks is not None and self.workload is not None:
            self._spread = wrapping.spread(self.workload.module, spec.shard, spec.device)
        named = self._shapes() if self.workload is None else list(self.workload.module.named_parameters())
        self.named = [(n, p) for n, p in named if p.requires_grad]
        through = wrapping.constructor(spec.shard if ranks is not None else "none")
        self.optimizers = optimizer_builder.optimizers(arm, self.named, self.workload and self.workload.module, through)
        self._train_mode()
        self.schedulers = [s for s in (optimizer_builder.scheduler(arm, o) for o in self.optimizers) if s is not None]
        self._steps = [self._compiled(o.step) if arm.variant == "compiled" else o.step for o in self.optimizers]
        scaled = spec.dtype == "amp-fp16" and spec.device.startswith("cuda")
        self._scaler = torch.amp.GradScaler("cuda") if scaled else None
        self._forward = self._module()

    def _workload(self) -> workloads.Workload:
        spec = self.spec
        if spec.user:
            seed = spec.seed if self.ranks is None else spec.seed + self.ranks.number  # batches of its own
            found = user_workload.load_user(spec.workload, seed=seed, device=spec.device, dtype=spec.dtype)
            if self.ranks is not None:
                wrapping.make_alike(found.module)
            return found
        return workloads.build(**self.shape)

    @property
    def shape(self) -> dict[str, Any]:
        """What the built-in workload is built with: of the batch, this process's share."""
        spec = self.spec
        batch = spec.batch_size if spec.batch_size is None else spec.batch_size // spec.nproc
        rank = 0 if self.ranks is None else self.ranks.number
        return {
            "name": spec.workload, "size": spec.size, "params": spec.params, "batch_size": batch,
            "seq_len": spec.seq_len, "seed": spec.seed, "rank": rank, "device": spec.device, "dtype": spec.dtype,
        }  # fmt: skip

    def _shapes(self) -> list[tuple[str, Tensor]]:
        dtype = torch.bfloat16 if self.spec.dtype == "bf16" else torch.float32
        named, shapes = [], workloads.parameter_shapes(self.spec.params or 1_000_000)
        ends = {0: "embed", len(shapes) - 1: "head"}  # the optimizers that take matrices leave these to others
        for number, shape in enumerate(shapes):
            weight = torch.nn.Parameter(torch.randn(shape, device=self.spec.device, dtype=dtype) * 0.02)
            weight.grad = torch.randn_like(weight) * 1e-3
            named.append((ends.get(number, f"weight{number}"), weight))
        return named

    def _train_mode(self) -> None:
        if self.arm.train_mode:
            for optimizer in map(wrapping.inner, self.optimizers):
                if hasattr(optimizer, "train"):
                    optimizer.train()

    def _compiled(self, step: Callable[[], Any]) -> Callable[[], Any]:
        compiled: Callable[[], Any] = torch.compile(step)
        return compiled

    def _module(self) -> Any:
        if self.workload is None or self._spread is not None:
            return self._spread
        return torch.compile(self.workload.module) if self.spec.compile else self.workload.module

    def step(self) -> dict[str, float]:
        """Take one step and return the seconds of its parts."""
        parts = self._step_only() if self.workload is None else self._whole_step()
        for scheduler in self.schedulers:
            scheduler.step()
        return parts

    def _step_only(self) -> dict[str, float]:
        self.clock.start()
        for step in self._steps:
            step()
        self.clock.mark()
        (taken,) = self.clock.seconds()
        return {"step": taken, "optimizer": taken}

    def _whole_step(self) -> dict[str, float]:
        assert self.workload is not None
        self._mark(0)
        batch = next(self.workload.batches)
        self._mark(1)
        autocast = _AUTOCAST.get(self.spec.dtype)
        context: Any = torch.autocast(self.spec.device.split(":")[0], dtype=autocast) if autocast else (
            contextlib.nullcontext()
        )  # fmt: skip
        self.clock.start()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with context:
            loss = self.workload.loss(self._forward, batch)
        self.clock.mark()
        self._mark(2)
        (self._scaler.scale(loss) if self._scaler else loss).backward()
        self.clock.mark()
        self._clip()
        self.clock.mark()
        for optimizer, step in zip(self.optimizers, self._steps, strict=True):
            self._scaler.step(optimizer) if self._scaler else step()
        self.clock.mark()
        forward, backward, clip, taken = self.clock.seconds()
        if self._scaler:
            self._scaler.update()
        self.losses.append(float(loss.detach()))
        return {"step": forward + backward + clip + taken, "forward": forward, "backward": backward, "optimizer": taken}

    def _mark(self, part: int) -> None:
        """Tell how far this rank is: before its batch, with it, or before the backward pass of a step."""
        if self.ranks is not None:
            self.ranks.stepped(MARKS * len(self.losses) + part)

    def _clip(self) -> None:
        if self.arm.max_grad_norm is not None:
            if self._scaler:
                for optimizer in self.optimizers:
                    self._scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([p for _, p in self.named], self.arm.max_grad_norm)

    def round(self) -> dict[str, list[float]]:
        """Take one round of measured steps and return each part's samples."""
        samples: dict[str, list[float]] = {}
        gc.collect()
        gc.disable()
        try:
            for _ in range(self.spec.steps):
                for part, taken in self.step().items():
                    samples.setdefault(part, []).append(taken)
        finally:
            gc.enable()
        return samples

    def counts(self) -> dict[str, Any]:
        """Return what is counted from the tensors themselves."""
        parameters = sum(p.numel() for _, p in self.named)  # of the whole network, whatever this rank holds
        held = [wrapping.local(p) for _, p in self.named]
        grads = [wrapping.local(p.grad) for _, p in self.named if p.grad is not None]
        parameter_bytes = sum(p.numel() * p.element_size() for p in held)
        gradient_bytes = sum(g.numel() * g.element_size() for g in grads)
        state = optimizer_builder.state_bytes(map(wrapping.inner, self.optimizers))
        samples = None if self.workload is None else self.workload.samples_per_step
        return {
            "parameters": parameters,
            "parameter_bytes": parameter_bytes,
            "gradient_bytes": gradient_bytes,
            "tensors": len(self.named),
            "state_bytes": state,
            "state_bytes_per_parameter": state / parameters,
            # Least traffic of one step: weights are read and written, gradients read, state read and written.
            "bytes_per_step": 2 * parameter_bytes + gradient_bytes + 2 * state,
            "samples_per_step": samples if samples is None or self.ranks is None else samples * self.ranks.count,
            "unit": None if self.workload is None else self.workload.unit,
        }
