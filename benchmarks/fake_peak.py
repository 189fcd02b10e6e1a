"""Peak memory of a training step, measured with fake tensors.

The step runs under `FakeTensorMode`, so models of any size fit, and `MemTracker` tracks every allocation. It runs on
the CPU with an emulation of CUDA where their memory differs: the operations that autocast computes in fp32, dropout
with a one-byte mask, and `ATTENTION`, which saves the tensors of the flash attention kernel.

This is independent of `optadvise.fake_tensors.worker`, so that each can check the other. `memory_error.py` uses it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.hooks import RemovableHandle

ATTENTION = "one-kernel"  # for `attn_implementation`
PRECISIONS = ("fp32", "amp-bf16", "bf16")

# Operations that autocast computes in fp32 on CUDA but not on the CPU (ATen/autocast_mode.h).
_FULL: dict[Any, tuple[str, ...]] = {
    F: ("layer_norm", "group_norm", "cross_entropy", "nll_loss", "softmax", "log_softmax", "mse_loss", "softplus",
        "binary_cross_entropy_with_logits"),
    torch: ("pow", "rsqrt", "softmax", "exp", "log", "sum", "cumsum"),
    torch.Tensor: ("pow", "__pow__", "rsqrt", "softmax", "sum", "cumsum"),
}  # fmt: skip
_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def as_cuda() -> Iterator[None]:
    """Emulate CUDA in operations for which the CPU saves other tensors."""

    def compute_in_fp32(function: Any) -> Any:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if torch.is_autocast_enabled("cpu") and kwargs.get("dtype") is None:
                args = tuple(a.float() if isinstance(a, torch.Tensor) and a.dtype in _HALF else a for a in args)
            return function(*args, **kwargs)

        return run

    originals = [(owner, name, getattr(owner, name)) for owner, names in _FULL.items() for name in names]
    replacements: dict[str, Any] = {"dropout": _dropout, "_can_use_grouped_mm": lambda *_: False}
    originals.append((F, "dropout", F.dropout))
    moe = sys.modules.get("transformers.integrations.moe")
    if moe is not None:  # the kernel supports fake tensors only in bf16; the fallback saves the same tensors
        originals.append((moe, "_can_use_grouped_mm", moe.__dict__["_can_use_grouped_mm"]))
    try:
        for owner, name, function in originals:
            setattr(owner, name, replacements.get(name) or compute_in_fp32(function))
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    if not training or p == 0:
        return input
    out: torch.Tensor = torch.native_dropout(input, p, True)[0]
    return out


class _Flash(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """Attention that saves and allocates the tensors of the flash kernel without computing."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
        batch, heads, length, _ = q.shape
        out = torch.empty(batch, length, heads, v.shape[-1], dtype=q.dtype).transpose(1, 2)
        rows = torch.empty(batch, heads, length, dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, rows, *(() if bias is None else (bias,)))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        q, k, v, _, rows, *biases = ctx.saved_tensors
        scratch = [torch.empty_like(rows)]
        if q.dtype in _HALF:  # sums over blocks of keys are in fp32
            scratch.append(torch.empty(q.shape, dtype=torch.float32))
        gradients = [torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)]
        if k.shape[1] != q.shape[1]:  # gradients per query head, which are then summed
            scratch += [torch.empty_like(q), torch.empty_like(q)]
        if not biases:
            return (*gradients, None)
        each = torch.empty((q.shape[0], *biases[0].shape[1:]), dtype=q.dtype)
        return (*gradients, each.sum(0, keepdim=True))


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any, position_bias: Any = None,
               is_causal: bool | None = None, **_: Any) -> Any:  # fmt: skip
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (t.to(torch.bfloat16) for t in (query, key, value))
    if position_bias is not None and position_bias.requires_grad:
        causal = module.is_causal if is_causal is None else is_causal
        position_bias = position_bias.to(query.dtype)
        if causal:
            size = position_bias.shape[-2:]
            ones = torch.ones(size, dtype=torch.bool).tril()
            position_bias = torch.where(ones, position_bias, torch.finfo(query.dtype).min)
        position_bias = position_bias.contiguous()
    else:
        position_bias = None
    return _Flash.apply(query, key, value, position_bias).transpose(1, 2), None


def register_attention() -> None:
    """Register `attn_implementation=ATTENTION` with Hugging Face's models."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)


def fake_peak(
    make_model: Callable[[], Any],
    make_batch: Callable[[], Mapping[str, Any]],
    make_optimizer: Callable[[Any], Any],
    *,
    precision: str,
    checkpointing: bool = False,
    accumulation: int = 1,
) -> dict[str, int]:
    """Return the bytes at the peak of the second step, by category and in total.

    Args:
        make_model: Returns a model whose output has a `loss`.
        make_batch: Returns the keyword arguments of one forward pass.
        make_optimizer: Returns an optimizer for a list of parameters.
        precision: fp32, amp-bf16 or bf16.
        checkpointing: Recompute every layer, as with `gradient_checkpointing_enable`.
        accumulation: Gradient accumulation steps.

    Example:
        >>> sorted(fake_peak(model, batch, torch.optim.AdamW, precision="fp32"))  # doctest: +SKIP
        ['activation', 'buffer', 'gradient', 'optstate', 'other', 'parameter', 'temp', 'total']
    """
    amp = precision == "amp-bf16"
    with FakeTensorMode():
        default_dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if precision == "bf16" else default_dtype)
        try:
            model = make_model()
        finally:
            torch.set_default_dtype(default_dtype)
        model.train()
        if hasattr(getattr(model, "config", None), "use_cache"):
            model.config.use_cache = False
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad])
        batches = [make_batch() for _ in range(accumulation)]
        tracker = MemTracker()
        tracker.track_external(model, optimizer, *[t for batch in batches for t in batch.values()])
        no_hook = RemovableHandle(OrderedDict())
        for parameter in model.parameters():  # frozen parameters cannot have hooks
            if not parameter.requires_grad:
                tracker._param_to_grad_hook_handles[parameter] = (no_hook, no_hook)
        with tracker, as_cuda():
            for _ in range(2):
                for batch in batches:
                    tracker.reset_mod_stats()  # of the previous micro-batch; the peak is kept
                    with torch.autocast("cpu", dtype=torch.bfloat16) if amp else nullcontext():
                        loss = model(**batch).loss  # as in the Trainer: the logits are freed before backward
                    loss.backward()
                    del loss
                optimizer.step()
                optimizer.zero_grad()
        peak_bytes = {str(k): v for part in tracker.get_tracker_snapshot("peak").values() for k, v in part.items()}
    names = {"PARAM": "parameter", "BUFFER": "buffer", "GRAD": "gradient", "ACT": "activation", "TEMP": "temp",
             "OPT": "optstate", "OTH": "other"}  # fmt: skip
    result = {name: int(peak_bytes.get(f"_MemRefType.{key}", 0)) for key, name in names.items()}
    return {**result, "total": int(peak_bytes["Total"])}


def auto_class(kind: str) -> Any:
    """Return the usual training class of a model type."""
    import transformers

    suffix = {"bert": "MaskedLM", "roberta": "MaskedLM", "distilbert": "MaskedLM", "t5": "Seq2SeqLM",
            "vit": "ImageClassification"}.get(kind, "CausalLM")  # fmt: skip
    return getattr(transformers, f"AutoModelFor{suffix}")
