"""Real small networks with a real loss that falls, and the user's own by `--workload`.

The text is the source of Python's own standard library. No image set ships with what is installed, so the images are
drawn: ten digits from a 5x7 dot font, rotated, scaled, sheared and shifted at random, with noise. Data stays in main
memory and a batch is moved to the device when it is asked for, as a data loader does: take `next(batches)` outside of
what is timed.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from optadvise.errors import CannotRunHereError, InputError, nearest

DTYPES = ("fp32", "bf16", "amp-bf16", "amp-fp16")
Loss = Callable[[nn.Module, Any], Tensor]


@dataclass
class Workload:
    """A network, its data and its loss."""

    name: str
    module: nn.Module
    batches: Iterator[Any]  # endless, on the module's device; the same for the same seed
    loss: Loss  # loss(module, batch), a scalar; takes the module, so that a compiled one can be passed
    samples_per_step: int
    unit: str  # of the throughput
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Size:
    width: int
    depth: int
    batch: int  # samples per step
    extent: int  # sequence length in tokens, or image side in pixels


# Parameters: transformer 0.83 M, 10.8 M, 85.4 M; cnn 0.69 M, 11.1 M, 69.3 M; mlp 0.66 M, 10.1 M, 51.5 M.
SIZES: dict[str, dict[str, _Size]] = {
    "transformer": {"tiny": _Size(128, 4, 8, 64), "small": _Size(384, 6, 4, 128), "medium": _Size(768, 12, 4, 256)},
    "cnn": {"tiny": _Size(32, 2, 32, 32), "small": _Size(128, 2, 16, 32), "medium": _Size(320, 2, 16, 32)},
    "mlp": {"tiny": _Size(512, 3, 64, 16), "small": _Size(1792, 4, 64, 16), "medium": _Size(4096, 4, 64, 16)},
}
_EXTENT_FLAG = {"transformer": "--seq-len", "cnn": "--image-size", "mlp": "--image-size"}
_LEAST_EXTENT = 16  # three strides of 2 leave a 2x2 image, which batch norm needs for a batch of one
_CLASSES, _VOCABULARY = 10, 256


def build(
    name: str,
    *,
    size: str = "tiny",
    params: int | None = None,
    batch_size: int | None = None,
    seq_len: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "fp32",
) -> Workload:
    """Return a built-in workload; the same arguments give the same weights and batches.

    Args:
        name: `transformer` (bytes of text), `cnn` or `mlp` (both: ten classes of drawn digits).
        size: `tiny`, `small` or `medium`: about 0.7, 10 and 50 to 85 million parameters.
        params: Parameters wanted; chooses width and depth, to within 10 %.
        batch_size: Samples per step: sequences or images.
        seq_len: Tokens per sequence (one token is one byte); only for `transformer`.
        image_size: Side of an image in pixels; not for `transformer`.
        seed: Of the weights and of the batches.
        device: Where the module and the batches go.
        dtype: `bf16` makes weights and images bf16; the `amp-` ones keep fp32 weights and autocast is the caller's.

    Raises:
        InputError: A name is unknown, a number is out of range, or an option does not belong to the workload.
    """
    _check("--workload", name, SIZES)
    _check("--model-size", size, SIZES[name])
    _check("--dtype", dtype, DTYPES)
    shape = SIZES[name][size]
    batch = _at_least(1, batch_size, shape.batch, "--batch-size")
    extent = _extent(name, shape.extent, seq_len, image_size)
    width, depth = (shape.width, shape.depth) if params is None else _fit(name, params, extent)
    if name == "transformer":
        batches, loss = _text_batches(batch, extent, seed, device), _language_loss
    else:
        batches, loss = _image_batches(batch, extent, seed, device, _weights(dtype)), _default_loss
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU, so that every device starts from the same weights
        torch.manual_seed(seed)
        module = _NETWORKS[name](width, depth, extent)
    module.to(device=device, dtype=_weights(dtype))
    details = {"parameters": _count(module), "width": width, "depth": depth, "batch_size": batch, "dtype": dtype}
    details |= {"seq_len": extent} if name == "transformer" else {"image_size": extent}
    return Workload(name, module, batches, loss, batch, "samples/s", details)


def _check(flag: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise InputError(f"{flag} {value!r}: not known; {nearest(value, known)}")


def _at_least(least: int, value: int | None, default: int, flag: str) -> int:
    if value is not None and value < least:
        raise InputError(f"{flag} {value}: must be at least {least}")
    return default if value is None else value


def _extent(name: str, default: int, seq_len: int | None, image_size: int | None) -> int:
    given = {"--seq-len": seq_len, "--image-size": image_size}
    flag = _EXTENT_FLAG[name]
    for other, value in given.items():
        if other != flag and value is not None:
            raise InputError(f"{other}: the {name} workload has none; it takes {flag}")
    return _at_least(_LEAST_EXTENT, given[flag], default, flag)


def _weights(dtype: str) -> torch.dtype:
    return torch.bfloat16 if dtype == "bf16" else torch.float32


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- networks. torch is not followed by mypy, so its classes are Any to it: hence the ignores.


class _Block(nn.Module):  # type: ignore[misc]
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.heads = width // next(size for size in (64, 32, 16, 8) if width % size == 0)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        for layer in (self.qkv, self.up, self.out, self.down):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.out, self.down):  # GPT-2's scaling: the residual stream keeps its size whatever the depth
            layer.weight.data /= math.sqrt(2 * depth)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class _Decoder(nn.Module):  # type: ignore[misc]
    """A language model on bytes, with learned positions; the head is the embedding."""

    def __init__(self, width: int, depth: int, seq_len: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(_VOCABULARY, width), nn.Embedding(seq_len, width)
        for table in (self.embed, self.place):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.Sequential(*(_Block(width, depth) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embed.weight)


class _Residual(nn.Module):  # type: ignore[misc]
    """Two 3x3 convolutions with batch norm, beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        plain = before == width and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def _cnn(width: int, depth: int, image_size: int) -> nn.Module:
    """Three stages of `depth` blocks each, with 1, 2 and 4 times `width` channels."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    before = width
    for stage, block in itertools.product(range(3), range(depth)):
        after = width * 2**stage
        layers.append(_Residual(before, after, 2 if stage and not block else 1))
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, _CLASSES))


def _mlp(width: int, depth: int, image_size: int) -> nn.Module:
    """`depth` hidden layers of `width` on the flattened image."""
    sides = [image_size**2, *[width] * depth]
    layers = [layer for a, b in itertools.pairwise(sides) for layer in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, _CLASSES))


_NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {"transformer": _Decoder, "cnn": _cnn, "mlp": _mlp}


# --- choosing a width and a depth for a number of parameters


def _decoder_count(width: int, depth: int, seq_len: int) -> int:
    return (_VOCABULARY + seq_len) * width + depth * (12 * width**2 + 4 * width) + 2 * width


def _cnn_count(width: int, depth: int, image_size: int) -> int:
    first = sum(
        9 * (before * w + w * w) + 4 * w for before, w in ((width, width), (width, 2 * width), (2 * width, 4 * width))
    )
    more = sum((depth - 1) * (18 * w * w + 4 * w) for w in (width, 2 * width, 4 * width))
    return 11 * width + first + 10 * width**2 + more + (4 * width + 1) * _CLASSES


def _mlp_count(width: int, depth: int, image_size: int) -> int:
    return (image_size**2 + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * _CLASSES


_COUNTS: dict[str, Callable[[int, int, int], int]] = {
    "transformer": _decoder_count,
    "cnn": _cnn_count,
    "mlp": _mlp_count,
}
_ASPECT = {"transformer": 64, "cnn": 24, "mlp": 400}  # width over depth that people build
_WIDTHS = (*range(16, 128, 8), *range(128, 256, 16), *range(256, 1024, 32), *range(1024, 16385, 64))
_DEPTHS = {"transformer": range(1, 97), "cnn": range(1, 9), "mlp": range(1, 13)}


def _fit(name: str, params: int, extent: int) -> tuple[int, int]:
    def count(width: int, depth: int) -> int:
        return _COUNTS[name](width, depth, extent)

    found = _nearest_shape(params, count, _DEPTHS[name], _ASPECT[name])
    reached = count(*found)
    if abs(reached / params - 1) > 0.1:
        raise InputError(f"--params {params}: no {name} comes within 10 % of it; the nearest has {reached} parameters")
    return found


def _nearest_shape(
    params: int, count: Callable[[int, int], int], depths: Iterable[int], aspect: float
) -> tuple[int, int]:
    """Return the (width, depth) of usual proportions among those within 5 % of `params`, else the nearest in size."""

    def misfit(shape: tuple[int, int]) -> tuple[float, float]:
        error = abs(count(*shape) / params - 1)
        return max(error, 0.05), abs(math.log(shape[0] / shape[1] / aspect))

    return min(itertools.product(_WIDTHS, depths), key=misfit)


def parameter_shapes(params: int) -> list[tuple[int, ...]]:
    """Return the parameter shapes of a decoder transformer, for timing `step()` without a model.

    Args:
        params: Parameters wanted, at least 100 000; the shapes hold this many within 5 %.

    Raises:
        InputError: There are too few or too many for a decoder.
    """
    # A large vocabulary on a small model would leave nothing but embeddings, whose shape is no model's.
    vocabulary = 32_000 if params >= 100_000_000 else 8_000 if params >= 10_000_000 else _VOCABULARY

    def count(width: int, depth: int) -> int:
        return 2 * vocabulary * width + depth * (12 * width**2 + 2 * width) + width

    width, depth = _nearest_shape(params, count, range(1, 129), 96) if params > 0 else (16, 1)
    if not params or abs(count(width, depth) / params - 1) > 0.05:
        raise InputError(f"--params {params}: no decoder of that size; write from 100K to 300B")
    layer = [(width,), (3 * width, width), (width, width), (width,), (4 * width, width), (width, 4 * width)]
    return [(vocabulary, width), *layer * depth, (width,), (vocabulary, width)]


# --- data

# No part of these is run: the loader hands over their text.
_TEXT = ("argparse", "difflib", "inspect", "statistics", "tarfile", "typing")


def _text() -> Tensor:
    """Return the bytes of some modules of the standard library, in a fixed order."""
    loaders = [getattr(find_spec(name), "loader", None) for name in _TEXT]
    sources = [loader.get_source(name) or "" for loader, name in zip(loaders, _TEXT, strict=True) if loader]
    data = "".join(sources).encode()
    if not data:
        raise CannotRunHereError(
            "the transformer workload reads the standard library's source, and this Python has none"
        )
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _text_batches(batch: int, seq_len: int, seed: int, device: str) -> Iterator[Tensor]:
    """Yield (batch, seq_len + 1) windows of text: the last token of each is only a target."""
    text = _text()
    if seq_len >= len(text):
        raise InputError(f"--seq-len {seq_len}: the text has {len(text)} bytes; write less")
    return _windows(text, batch, seq_len, torch.Generator().manual_seed(seed), device)


def _windows(text: Tensor, batch: int, seq_len: int, generator: torch.Generator, device: str) -> Iterator[Tensor]:
    offsets = torch.arange(seq_len + 1)
    while True:
        starts = torch.randint(len(text) - seq_len, (batch, 1), generator=generator)
        yield text[starts + offsets].long().to(device)


def _language_loss(module: nn.Module, batch: Tensor) -> Tensor:
    logits = module(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


# The ten digits in five columns, each a byte whose low bit is the top row (the usual 5x7 font of LCD modules).
_DIGITS = (
    "3e5149453e 00427f4000 4261514946 2141454b31 1814127f10 2745454539 3c4a494930 0171090503 3649494936 064949291e"
)


def _glyphs() -> Tensor:
    """Return the digits as a (10, 1, 9, 9) tensor of zeros and ones, with a margin."""
    columns = torch.tensor([list(bytes.fromhex(digit)) for digit in _DIGITS.split()])
    dots = (columns[:, None, :] >> torch.arange(7)[None, :, None]) & 1
    return F.pad(dots[:, None].float(), (2, 2, 1, 1))


def _draw(image_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, side, side) with zero mean and their labels (N,)."""
    count = max(64, min(2048, 2**23 // image_size**2))  # 32 MiB of them at most, but for very large ones
    labels = torch.randint(_CLASSES, (count,), generator=generator)
    angle, scale_x, scale_y, shear, shift_x, shift_y = torch.rand(6, count, generator=generator) * 2 - 1
    angle, shear, cos = angle * 0.4, shear * 0.2, torch.cos(angle * 0.4)
    scale_x, scale_y, sin = 1 + 0.2 * scale_x, 1 + 0.2 * scale_y, torch.sin(angle)
    rows = [cos * scale_x, (shear - sin) * scale_y, 0.2 * shift_x, sin * scale_x, cos * scale_y, 0.2 * shift_y]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [count, 1, image_size, image_size], align_corners=False)
    images = F.grid_sample(_glyphs()[labels], grid, align_corners=False)
    images = images + 0.2 * torch.randn(images.shape, generator=generator)
    return (images - images.mean()) / images.std(), labels


def _image_batches(batch: int, image_size: int, seed: int, device: str, dtype: torch.dtype) -> Iterator[Any]:
    generator = torch.Generator().manual_seed(seed)
    images, labels = _draw(image_size, generator)
    while True:
        chosen = torch.randint(len(images), (batch,), generator=generator)
        yield images[chosen].to(device, dtype), labels[chosen].to(device)


# --- the user's own


def load_user(spec: str, *, seed: int = 0, device: str = "cpu", dtype: str = "fp32") -> Workload:
    """Return the workload that the user's function makes.

    The function is called without arguments, after torch's and Python's generators have been seeded, and returns
    `(module, batches)` or `(module, batches, loss)`:

    - `module`: a `torch.nn.Module`; it is moved to the device, and made bf16 for `--dtype bf16`.
    - `batches`: a list or a data loader, begun again when it ends, or an endless generator. Tensors in it, also inside
      tuples, lists and dicts, are moved likewise. The first dimension of a batch's first tensor counts its samples.
    - `loss`: `loss(module, batch)`, a scalar tensor. Without it a batch is `(inputs, targets)`, with cross-entropy for
      integer targets and squared error for others, or a dict of arguments to a module that returns `.loss`.

    Args:
        spec: `package.module:function`, imported with the current directory on `sys.path`.
        seed: Of torch's and Python's generators, which stay seeded so.
        device: Where the module and the batches go.
        dtype: As for `build`.

    Raises:
        InputError: The spec, the import, the call or what it returned is wrong.
    """
    _check("--dtype", dtype, DTYPES)
    function = _find(spec)
    # For the whole process, not for the call alone: a data loader or a generator draws from them later.
    torch.manual_seed(seed)
    random.seed(seed)
    returned = _guarded(spec, "calling it", function)
    module, batches, loss = _unpack(spec, returned)
    first, endless = _guarded(spec, "taking the first batch", lambda: _peek(spec, batches))
    module.to(device=device, dtype=_weights(dtype) if dtype == "bf16" else None)
    samples = _samples(first)
    parameters = _guarded(spec, "counting its parameters", lambda: _count(module))
    details = {"parameters": parameters, "batch_size": samples, "dtype": dtype, "spec": spec}
    move = partial(_moved, device=device, dtype=_weights(dtype))
    checked = partial(_scalar, spec, loss)
    unit = "samples/s" if samples else "batches/s"  # a batch without tensors has no samples to count
    return Workload(spec, module, map(move, endless), checked, samples or 1, unit, details)


def _bad(spec: str, problem: str) -> InputError:
    return InputError(f"--workload {spec!r}: {' '.join(problem.split())}")


def _guarded(spec: str, doing: str, action: Callable[[], Any]) -> Any:
    """Run the user's code, and say in one line what it raised; running out of memory is a result, not a mistake."""
    try:
        return action()
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise _bad(spec, f"{doing} raised {type(error).__name__}: {error}") from error


def _find(spec: str) -> Callable[[], Any]:
    path, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise _bad(spec, "not package.module:function, such as mypackage.train:workload; it is no path to a file")
    if os.getcwd() not in sys.path:  # noqa: PTH109  # sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    module = _guarded(spec, f"importing {path}", lambda: importlib.import_module(path))
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise _bad(spec, f"{path} has no function {attribute!r}; {nearest(attribute, known)}")
    return function  # type: ignore[no-any-return]


def _unpack(spec: str, returned: Any) -> tuple[nn.Module, Iterable[Any], Loss]:
    wanted = "return (module, batches) or (module, batches, loss)"
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise _bad(spec, f"it returned {type(returned).__name__}; {wanted}")
    module, batches, loss = returned if len(returned) == 3 else (*returned, _default_loss)
    if not isinstance(module, nn.Module) or not any(weight.requires_grad for weight in module.parameters()):
        raise _bad(spec, f"the first of what it returned is no torch.nn.Module with parameters to train; {wanted}")
    if not isinstance(batches, Iterable) or isinstance(batches, (str, Tensor, Mapping)):
        raise _bad(spec, f"batches is a {type(batches).__name__}; return a list, a data loader or a generator")
    if not callable(loss):
        raise _bad(spec, f"loss is a {type(loss).__name__}; return a function of (module, batch)")
    return module, batches, loss


def _peek(spec: str, batches: Iterable[Any]) -> tuple[Any, Iterator[Any]]:
    endless = _endless(spec, batches)
    first = next(endless)
    return first, itertools.chain([first], endless)


def _endless(spec: str, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches over and over; a generator that ends cannot begin again, which is said when it happens."""
    taken = 0
    while True:
        before = taken
        for batch in batches:
            taken += 1
            yield batch
        if taken == before:
            raise _bad(spec, f"batches ended after {taken}; return a list, a data loader or an endless generator")


def _moved(batch: Any, device: str, dtype: torch.dtype) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, dtype if dtype == torch.bfloat16 and batch.is_floating_point() else None)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device, dtype) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        parts = [_moved(value, device, dtype) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _samples(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else None
    parts: Sequence[Any] = list(batch.values()) if isinstance(batch, Mapping) else batch
    found = (_samples(part) for part in parts) if isinstance(parts, (list, tuple)) else iter(())
    return next((count for count in found if count), None)


def _scalar(spec: str, loss: Loss, module: nn.Module, batch: Any) -> Tensor:
    value = loss(module, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise _bad(spec, f"its loss returned {type(value).__name__}; return a tensor with one element")
    return value


def _default_loss(module: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy or squared error of (inputs, targets); what the module itself reports for a dict."""
    if isinstance(batch, Mapping):
        return getattr(module(**batch), "loss", None)
    if not isinstance(batch, (list, tuple)) or len(batch) != 2:
        raise InputError("--workload: a batch is not (inputs, targets) nor a dict; return (module, batches, loss)")
    inputs, targets = batch
    outputs = module(inputs).float()  # losses are taken in fp32 whatever the weights are
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets.float())
    return F.cross_entropy(outputs, targets)
