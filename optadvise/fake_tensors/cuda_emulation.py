"""Emulation of CUDA's memory use by operations on the CPU. Imports torch.

It is for fake tensors on a machine without a GPU: shapes and dtypes are those of CUDA, values are not.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F  # noqa: N812, as everyone calls it
from torch.optim import optimizer as optimizers

IsActive: TypeAlias = Callable[[], bool]
Function: TypeAlias = Callable[..., Any]  # function of torch
# Operations that autocast runs in fp32 on CUDA but not always on the CPU, from the documentation of torch.amp.
_FP32 = [
    "__pow__", "__rpow__", "__rtruediv__", "acos", "asin", "binary_cross_entropy_with_logits", "cdist", "cosh",
    "cosine_embedding_loss", "cosine_similarity", "dist", "erfinv", "exp", "expm1", "group_norm",
    "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "layer_norm", "log", "log10", "log1p", "log2",
    "logsumexp", "margin_ranking_loss", "mse_loss", "multi_margin_loss", "multilabel_margin_loss", "nll_loss",
    "pdist", "poisson_nll_loss", "pow", "reciprocal", "renorm", "rsqrt", "sinh", "smooth_l1_loss",
    "soft_margin_loss", "softplus", "tan", "triplet_margin_loss",
]  # fmt: skip
# These have a dtype argument, and do not copy their input.
_FP32_BY_ARGUMENT = ["cumprod", "cumsum", "log_softmax", "norm", "prod", "softmax", "softmin", "sum"]
_HALF = (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def emulate_cuda(is_active: IsActive) -> Iterator[None]:
    """Replace the functions of torch that differ from CUDA, within the context.

    Args:
        is_active: Returns whether the caller is the user's code; calls by torch within an operation are unchanged.
    """
    with contextlib.ExitStack() as stack:
        replace = functools.partial(_replace, stack)
        for owner in (torch, F, Tensor):
            for name in _FP32:
                replace(owner, name, lambda f: _in_fp32(f, is_active))
            for name in _FP32_BY_ARGUMENT:
                replace(owner, name, lambda f: _to_fp32(f, is_active))
        for owner in (torch, F):
            replace(owner, "dropout", _dropout)
            if _has_fused_rms_norm():
                replace(owner, "rms_norm", lambda f: _rms_norm(f, is_active))
        replace(F, "cross_entropy", lambda f: _cross_entropy(f, is_active))
        replace(F, "scaled_dot_product_attention", _attention)
        yield


def _replace(stack: contextlib.ExitStack, owner: object, name: str, change: Callable[[Function], Function]) -> None:
    if hasattr(owner, name):
        is_inherited = name not in vars(owner)  # then it must be deleted afterwards, not restored
        original = getattr(owner, name)
        setattr(owner, name, functools.wraps(original)(change(original)))
        stack.callback(delattr, owner, name) if is_inherited else stack.callback(setattr, owner, name, original)


def _in_fp32(function: Function, is_active: IsActive) -> Function:
    def change(value: object) -> object:
        return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value

    def wrapped(*args: object, **kwargs: object) -> object:
        if not (torch.is_autocast_enabled("cpu") and is_active()):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return function(*map(change, args), **{key: change(value) for key, value in kwargs.items()})

    return wrapped


def _to_fp32(function: Function, is_active: IsActive) -> Function:
    def wrapped(*args: object, **kwargs: object) -> object:
        first = args[0] if args else kwargs.get("input")
        has_dtype = "dtype" in kwargs or any(isinstance(value, torch.dtype) for value in args)
        is_half = getattr(first, "dtype", None) in _HALF
        if torch.is_autocast_enabled("cpu") and is_active() and not has_dtype and is_half:
            kwargs["dtype"] = torch.float32
        return function(*args, **kwargs)

    return wrapped


def _cross_entropy(function: Function, is_active: IsActive) -> Function:
    """Save log-probabilities in half precision and in fp32, as autocast on CUDA does; on the CPU only in fp32."""

    def cross_entropy(input: Tensor, target: Tensor, *args: object, **kwargs: Any) -> Tensor:
        plain = not args and not target.is_floating_point() and not kwargs.get("label_smoothing")
        if not (plain and input.dtype in _HALF and torch.is_autocast_enabled("cpu") and is_active()):
            return function(input, target, *args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            kwargs.pop("label_smoothing", None)
            logarithms = torch.log_softmax(input, min(1, input.dim() - 1))
            return F.nll_loss(logarithms.float(), target, **kwargs)

    return cross_entropy


def _dropout(function: Function) -> Function:
    """Save a mask of one byte per element, as CUDA does; on the CPU it has the dtype of the input."""

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if training and 0 < p < 1 and not inplace and input.numel():
            return torch.native_dropout(input, p, True)[0]
        return function(input, p, training, **({"inplace": True} if inplace else {}))

    return dropout


def _attention(function: Function) -> Function:
    """Ignore dropout: CUDA kernels recompute it in the backward pass, while the CPU would store attention scores."""

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        *args: object, **kwargs: object,
    ) -> Tensor:  # fmt: skip
        return function(query, key, value, attn_mask, 0.0, *args, **kwargs)

    return attention


def _has_fused_rms_norm() -> bool:
    operation = getattr(torch.ops.aten, "_fused_rms_norm", None)
    # An earlier operation of this name, for Apple devices, returned one tensor.
    return operation is not None and len(operation.default._schema.returns) == 2


def _rms_norm(function: Function, is_active: IsActive) -> Function:
    def rms_norm(
        input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        if not is_active():
            return function(input, normalized_shape, weight, eps)
        return _RmsNorm.apply(input, weight, len(normalized_shape))

    return rms_norm


class _RmsNorm(torch.autograd.Function):  # type: ignore[misc]
    """Save the input and one number per row, as CUDA does; the CPU saves several tensors of the input's size."""

    @staticmethod
    def forward(ctx: FunctionCtx, input: Tensor, weight: Tensor | None, dimensions: int) -> Tensor:
        rows = [*input.shape[: input.dim() - dimensions], *[1] * dimensions]
        ctx.save_for_backward(input, weight, input.new_empty(rows, dtype=torch.float32))
        return torch.empty_like(input)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        input, weight, _ = ctx.saved_tensors
        return torch.empty_like(input), None if weight is None else torch.empty_like(weight), None


@contextlib.contextmanager
def emulate_foreach(kind: type[Tensor]) -> Iterator[None]:
    """Let torch's optimizers choose the foreach implementation for a tensor type on the CPU, as on CUDA."""
    devices, kinds = optimizers._get_foreach_kernels_supported_devices, optimizers._foreach_supported_types
    optimizers._get_foreach_kernels_supported_devices = lambda: [*devices(), "cpu"]
    # A new list, because other libraries use the original one to decide whether to run their own kernels.
    optimizers._foreach_supported_types = [*kinds, kind]
    try:
        yield
    finally:
        optimizers._get_foreach_kernels_supported_devices = devices
        optimizers._foreach_supported_types = kinds
