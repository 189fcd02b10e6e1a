"""Text and image data of the built-in workloads, without a download. Imports torch.

The text is the source of Python's standard library. The images are generated: ten digits of a 5x7 dot font, randomly
rotated, scaled, sheared and shifted, with noise. The data stays in main memory; each batch is moved to the device when
it is read, as a data loader does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError

CLASSES, VOCABULARY = 10, 256  # digits; byte values

# Only the source text of these modules is read.
_TEXT = ("argparse", "difflib", "inspect", "statistics", "tarfile", "typing")


def _text() -> Tensor:
    """Return the source of some standard library modules as bytes, in a fixed order."""
    loaders = [getattr(find_spec(name), "loader", None) for name in _TEXT]
    sources = [loader.get_source(name) or "" for loader, name in zip(loaders, _TEXT, strict=True) if loader]
    data = "".join(sources).encode()
    if not data:
        raise CannotRunHereError(
            "--workload transformer: this Python has no standard library source to train on; use --workload cnn",
            code=ErrorCode.UNSUPPORTED, option="--workload", value="transformer",
        )  # fmt: skip
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def text_batches(batch: int, seq_len: int, seed: int, device: str) -> Iterator[Tensor]:
    """Return infinite batches of token windows of shape (batch, seq_len + 1); the last token is only a target.

    Args:
        seq_len: Input tokens per sequence; a token is a byte.

    Raises:
        InputError: The sequence is longer than the text.
        CannotRunHereError: This Python has no standard library source.
    """
    text = _text()
    if seq_len >= len(text):
        raise InputError(
            f"--seq-len {seq_len}: must be below {len(text)}, the length of the training text in bytes",
            code=ErrorCode.OUT_OF_RANGE, option="--seq-len", value=seq_len,
        )  # fmt: skip
    return _windows(text, batch, seq_len, torch.Generator().manual_seed(seed), device)


def _windows(text: Tensor, batch: int, seq_len: int, generator: torch.Generator, device: str) -> Iterator[Tensor]:
    offsets = torch.arange(seq_len + 1)
    while True:
        starts = torch.randint(len(text) - seq_len, (batch, 1), generator=generator)
        yield text[starts + offsets].long().to(device)


def language_loss(module: nn.Module, batch: Tensor) -> Tensor:
    """Return the mean cross-entropy of next-byte prediction."""
    logits = module(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


# 5x7 font of LCD modules: one byte per column, the lowest bit is the top row.
_DIGITS = (
    "3e5149453e 00427f4000 4261514946 2141454b31 1814127f10 2745454539 3c4a494930 0171090503 3649494936 064949291e"
)


def _glyphs() -> Tensor:
    """Return the digits as a (10, 1, 9, 9) tensor of zeros and ones, with a margin of one pixel or more."""
    columns = torch.tensor([list(bytes.fromhex(digit)) for digit in _DIGITS.split()])
    dots = (columns[:, None, :] >> torch.arange(7)[None, :, None]) & 1
    return F.pad(dots[:, None].float(), (2, 2, 1, 1))


def _draw(image_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, side, side) with zero mean and their labels (N,)."""
    count = max(64, min(2048, 2**23 // image_size**2))  # at most 32 MiB, except for very large images
    labels = torch.randint(CLASSES, (count,), generator=generator)
    angle, scale_x, scale_y, shear, shift_x, shift_y = torch.rand(6, count, generator=generator) * 2 - 1
    angle, shear, cos = angle * 0.4, shear * 0.2, torch.cos(angle * 0.4)
    scale_x, scale_y, sin = 1 + 0.2 * scale_x, 1 + 0.2 * scale_y, torch.sin(angle)
    rows = [cos * scale_x, (shear - sin) * scale_y, 0.2 * shift_x, sin * scale_x, cos * scale_y, 0.2 * shift_y]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [count, 1, image_size, image_size], align_corners=False)
    images = F.grid_sample(_glyphs()[labels], grid, align_corners=False)
    images = images + 0.2 * torch.randn(images.shape, generator=generator)
    return (images - images.mean()) / images.std(), labels


def image_batches(
    batch: int, image_size: int, seed: int, device: str, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield infinite pairs of images (batch, 1, side, side) and labels (batch,)."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = _draw(image_size, generator)
    while True:
        indices = torch.randint(len(images), (batch,), generator=generator)
        yield images[indices].to(device, dtype), labels[indices].to(device)


def default_loss(module: nn.Module, batch: object) -> Tensor:
    """Return cross-entropy or squared error for (inputs, targets), or the module's own `.loss` for a dict."""
    if isinstance(batch, Mapping):
        return getattr(module(**batch), "loss", None)
    if not isinstance(batch, (list, tuple)) or len(batch) != 2:
        raise InputError(
            "--workload: a batch must be (inputs, targets) or a dict; otherwise return (module, batches, loss)",
            code=ErrorCode.INVALID_WORKLOAD, option="--workload",
        )  # fmt: skip
    inputs, targets = batch
    outputs = module(inputs).float()  # the loss is computed in fp32 for every precision
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets.float())
    return F.cross_entropy(outputs, targets)
