"""The peak memory of a training step, from running it on tensors that hold nothing.

The step runs under `FakeTensorMode`, so a model of any size fits, and `MemTracker` sees every allocation. It runs on
the processor; where CUDA computes otherwise, this makes it do as CUDA does: which operations autocast keeps in full
precision, dropout with a mask of one byte, and `ATTENTION`, which keeps what the flash kernel keeps.

It shares nothing with `optadvise.fake_tensors.worker`, so that the one checks the other; `memory_error.py` uses it.
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

# What CUDA's autocast computes in full precision and the processor's does not (ATen/autocast_mode.h).
_FULL: dict[Any, tuple[str, ...]] = {
    F: ("layer_norm", "group_norm", "cross_entropy", "nll_loss", "softmax", "log_softmax", "mse_loss", "softplus",
        "binary_cross_entropy_with_logits"),
    torch: ("pow", "rsqrt", "softmax", "exp", "log", "sum", "cumsum"),
    torch.Tensor: ("pow", "__pow__", "rsqrt", "softmax", "sum", "cumsum"),
}  # fmt: skip
_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def as_cuda() -> Iterator[None]:
    """Compute as CUDA does where the processor would keep other tensors."""

    def full(function: Any) -> Any:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if torch.is_autocast_enabled("cpu") and kwargs.get("dtype") is None:
                args = tuple(a.float() if isinstance(a, torch.Tensor) and a.dtype in _HALF else a for a in args)
            return function(*args, **kwargs)

        return run

    usual = [(place, name, getattr(place, name)) for place, names in _FULL.items() for name in names]
    own: dict[str, Any] = {"dropout": _dropout, "_can_use_grouped_mm": lambda *_: False}
    usual.append((F, "dropout", F.dropout))
    moe = sys.modules.get("transformers.integrations.moe")
    if moe is not None:  # the kernel's shapes are known for bfloat16 alone; the fallback keeps the same tensors
        usual.append((moe, "_can_use_grouped_mm", moe.__dict__["_can_use_grouped_mm"]))
    try:
        for place, name, function in usual:
            setattr(place, name, own.get(name) or full(function))
        yield
    finally:
        for place, name, function in usual:
            setattr(place, name, function)


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    if not training or p == 0:
        return input
    out: torch.Tensor = torch.native_dropout(input, p, True)[0]
    return out


class _Flash(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """Keeps and allocates what the flash kernel does; computes nothing."""

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
        if q.dtype in _HALF:  # sums over blocks of keys are made in full precision
            scratch.append(torch.empty(q.shape, dtype=torch.float32))
        gradients = [torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)]
        if k.shape[1] != q.shape[1]:  # one for every query head, then summed
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
    """Make `attn_implementation=ATTENTION` known to Hugging Face's models."""
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
    """Return the bytes at the highest moment of a second step, by category, and in total.

    Args:
        make_model: Gives a model whose output has a `loss`.
        make_batch: Gives one forward pass's keyword arguments.
        make_optimizer: Gives an optimizer of the model's parameters.
        precision: fp32, amp-bf16 or bf16.
        checkpointing: Recompute every layer, as `gradient_checkpointing_enable` does.
        accumulation: Forward and backward passes of one step.

    Example:
        >>> sorted(fake_peak(model, batch, torch.optim.AdamW, precision="fp32"))  # doctest: +SKIP
        ['activation', 'buffer', 'gradient', 'optstate', 'other', 'parameter', 'temp', 'total']
    """
    amp = precision == "amp-bf16"
    with FakeTensorMode():
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if precision == "bf16" else usual)
        try:
            model = make_model()
        finally:
            torch.set_default_dtype(usual)
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
        for parameter in model.parameters():  # of which a frozen one can have no hook
            if not parameter.requires_grad:
                tracker._param_to_grad_hook_handles[parameter] = (no_hook, no_hook)
        with tracker, as_cuda():
            for _ in range(2):
                for batch in batches:
                    tracker.reset_mod_stats()  # of the pass before; the peak stays
                    with torch.autocast("cpu", dtype=torch.bfloat16) if amp else nullcontext():
                        loss = model(**batch).loss  # as the Trainer does: the logits go before backward begins
                    loss.backward()
                    del loss
                optimizer.step()
                optimizer.zero_grad()
        found = {str(k): v for part in tracker.get_tracker_snapshot("peak").values() for k, v in part.items()}
    names = {"PARAM": "parameter", "BUFFER": "buffer", "GRAD": "gradient", "ACT": "activation", "TEMP": "temp",
             "OPT": "optstate", "OTH": "other"}  # fmt: skip
    result = {name: int(found.get(f"_MemRefType.{key}", 0)) for key, name in names.items()}
    return {**result, "total": int(found["Total"])}


def auto_class(kind: str) -> Any:
    """Return the class of the network that people train of a family."""
    import transformers

    word = {"bert": "MaskedLM", "roberta": "MaskedLM", "distilbert": "MaskedLM", "t5": "Seq2SeqLM",
            "vit": "ImageClassification"}.get(kind, "CausalLM")  # fmt: skip
    return getattr(transformers, f"AutoModelFor{word}")
