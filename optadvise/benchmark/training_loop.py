"""Timed training steps, in a single process or as one of several ranks."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from optadvise.benchmark import optimizer_builder, user_workload, workloads
from optadvise.benchmark.clock import Clock
from optadvise.benchmark.distributed import wrapping
from optadvise.benchmark.distributed.rank_files import MARKS
from optadvise.benchmark.distributed.ranks import Ranks
from optadvise.benchmark.measurement import ArmCounts, RoundSamples
from optadvise.benchmark.spec import Arm, Spec
from optadvise.core.lifeline import exit_if_forked

_MAX_SKIPPED = 40  # steps that a gradient scaler may skip; each halves the scale, which begins at 2^16


def build_rank_workload(spec: Spec, rank: int) -> workloads.Workload:
    """Return the built-in workload with the batches of one rank."""
    batch_size = None if spec.batch_size is None else spec.batch_size // spec.nproc
    return workloads.build(
        spec.workload, size=spec.size, params=spec.params, batch_size=batch_size, seq_len=spec.seq_len, seed=spec.seed,
        rank=rank, device=spec.device, dtype=spec.dtype,
    )  # fmt: skip


class Training:
    """Training of a network, with timed steps."""

    def __init__(self, spec: Spec, arm: Arm, ranks: Ranks | None = None) -> None:
        """Build the workload and the optimizer without taking a step.

        Args:
            ranks: Process group of this rank; None for a single process.
        """
        self.spec, self.arm, self.ranks = spec, arm, ranks
        self.clock = Clock(spec.device)
        self.losses: list[float] = []
        torch.manual_seed(spec.seed)
        self.workload = None if spec.optimizer_only else self._build_workload()
        self._wrapped = None
        if ranks is not None and self.workload is not None:
            self._wrapped = wrapping.wrap(self.workload.module, spec.shard, spec.device)
        named = self._make_shapes() if self.workload is None else list(self.workload.module.named_parameters())
        self.named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        wrap_class = wrapping.make_optimizer_wrapper(spec.shard if ranks is not None else "none")
        module = self.workload and self.workload.module
        self.optimizers = optimizer_builder.build_optimizers(arm, self.named, module, wrap_class)
        schedulers = [optimizer_builder.build_scheduler(arm, optimizer) for optimizer in self.optimizers]
        self.schedulers = [scheduler for scheduler in schedulers if scheduler is not None]
        self._steps = [torch.compile(o.step) if arm.variant == "compiled" else o.step for o in self.optimizers]
        is_scaled = spec.dtype == "amp-fp16" and spec.device.startswith("cuda")
        self._scaler = torch.amp.GradScaler("cuda") if is_scaled else None
        self._forward = self._forward_module()
        self.is_skipped = False  # whether the gradient scaler skipped the last step
        if spec.device_type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # temporaries of building the network are not part of training

    def _build_workload(self) -> workloads.Workload:
        spec, rank = self.spec, 0 if self.ranks is None else self.ranks.rank
        if not spec.user:
            return build_rank_workload(spec, rank)
        # The seed makes the batches of the ranks differ.
        workload = user_workload.load_user(spec.workload, seed=spec.seed + rank, device=spec.device, dtype=spec.dtype)
        if self.ranks is not None:
            wrapping.broadcast_module(workload.module)
        return workload

    def _make_shapes(self) -> list[tuple[str, Tensor]]:
        """Return parameters in a decoder's shapes with random gradients, for timing `step()` alone."""
        dtype = workloads.weights_dtype(self.spec.dtype)
        named, shapes = [], workloads.parameter_shapes(self.spec.params or 1_000_000)
        end_names = {0: "embed", len(shapes) - 1: "head"}  # names by which matrix optimizers exclude them
        for number, shape in enumerate(shapes):
            weight = torch.nn.Parameter(torch.randn(shape, device=self.spec.device, dtype=dtype) * 0.02)
            weight.grad = torch.randn_like(weight) * 1e-3
            named.append((end_names.get(number, f"weight{number}"), weight))
        return named

    def _forward_module(self) -> nn.Module | None:
        """Return the module that the loss calls: wrapped for several ranks, compiled, or the network itself."""
        if self.workload is None or self._wrapped is not None:
            return self._wrapped
        return torch.compile(self.workload.module) if self.spec.compile else self.workload.module

    def step(self) -> dict[str, float]:
        """Run one training step and return the seconds of its parts, and `cpu`: CPU time of the training thread."""
        parts = self._step_optimizers() if self.workload is None else self._train_step(self.workload)
        if self.clock.cpu_seconds is not None and self.ranks is None:  # a rank also waits for the other ranks
            parts["cpu"] = self.clock.cpu_seconds
        for scheduler in self.schedulers:
            scheduler.step()
        exit_if_forked()
        return parts

    def _step_optimizers(self) -> dict[str, float]:
        self.clock.start()
        for step in self._steps:
            step()
        self.clock.mark()
        (seconds,) = self.clock.seconds()
        return {"step": seconds, "optimizer": seconds}

    def _train_step(self, workload: workloads.Workload) -> dict[str, float]:
        self._mark_progress(0)
        batch = next(workload.batches)
        self._mark_progress(1)
        self.clock.start()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = workload.loss(self._forward, batch)
        self.clock.mark()
        self._mark_progress(2)
        (self._scaler.scale(loss) if self._scaler else loss).backward()
        self.clock.mark()
        self._clip()
        self.clock.mark()
        for optimizer, step in zip(self.optimizers, self._steps, strict=True):
            self._scaler.step(optimizer) if self._scaler else step()
        self.clock.mark()
        forward, backward, clip, stepping = self.clock.seconds()
        if self._scaler:
            scale = self._scaler.get_scale()
            self._scaler.update()
            self.is_skipped = self._scaler.get_scale() < scale
        self.losses.append(float(loss.detach()))
        total = forward + backward + clip + stepping
        return {"step": total, "forward": forward, "backward": backward, "optimizer": stepping}

    def _autocast(self) -> AbstractContextManager[None]:
        dtype = workloads.AUTOCAST_DTYPES.get(self.spec.dtype)
        return torch.autocast(self.spec.device_type, dtype=dtype) if dtype else nullcontext()

    def _mark_progress(self, part: int) -> None:
        """Report this rank's progress in a step: 0 before reading the batch, 1 before forward, 2 before backward."""
        if self.ranks is not None:
            self.ranks.mark_progress(MARKS * len(self.losses) + part)

    def _clip(self) -> None:
        if self.arm.max_grad_norm is not None:
            if self._scaler:
                for optimizer in self.optimizers:
                    self._scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([p for _, p in self.named], self.arm.max_grad_norm)

    def step_once(self) -> dict[str, float]:
        """Run steps until the gradient scaler skips none, and return the seconds of the parts of that step.

        Raises:
            OverflowError: The gradients of all steps overflow.
        """
        for _ in range(_MAX_SKIPPED):
            parts = self.step()
            if not self.is_skipped:
                return parts
        raise OverflowError(f"the gradients of {_MAX_SKIPPED} steps overflow in fp16")

    def round(self) -> RoundSamples:
        """Run one round of measured steps and return the seconds of each part."""
        samples: dict[str, list[float]] = {}
        gc.collect()
        gc.disable()
        try:
            for _ in range(self.spec.steps):
                for part, seconds in self.step_once().items():
                    samples.setdefault(part, []).append(seconds)
        finally:
            gc.enable()
        return RoundSamples(samples)

    def counts(self) -> ArmCounts:
        """Count parameters, bytes and samples from the actual tensors."""
        parameters = sum(p.numel() for _, p in self.named)  # of the whole network, also when sharded
        weights = [wrapping.get_local_tensor(p) for _, p in self.named]
        gradients = [wrapping.get_local_tensor(p.grad) for _, p in self.named if p.grad is not None]
        parameter_bytes = sum(p.numel() * p.element_size() for p in weights)
        gradient_bytes = sum(g.numel() * g.element_size() for g in gradients)
        optimizers = [wrapping.get_local_optimizer(optimizer) for optimizer in self.optimizers]
        state_bytes = optimizer_builder.count_state_bytes(optimizers)
        is_cuda = self.spec.device_type == "cuda"
        samples = None if self.workload is None else self.workload.samples_per_step
        processes = 1 if self.ranks is None else self.ranks.world_size
        return ArmCounts(
            parameters=parameters,
            parameter_bytes=parameter_bytes,
            gradient_bytes=gradient_bytes,
            tensors=len(self.named),
            state_bytes=state_bytes,
            state_bytes_per_parameter=state_bytes / parameters,
            paged_bytes=optimizer_builder.count_state_bytes(optimizers, only_paged=True) if is_cuda else None,
            # Minimum traffic of one step: read and write weights and state, read gradients.
            bytes_per_step=2 * parameter_bytes + gradient_bytes + 2 * state_bytes,
            samples_per_step=None if samples is None else samples * processes,
            unit=None if self.workload is None else self.workload.unit,
        )
