"""Networks of the built-in workloads: a decoder transformer, a residual CNN and an MLP. Imports torch.

mypy does not follow torch's imports, so its classes are Any, which requires the ignores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from optadvise.benchmark.workload_data import CLASSES, VOCABULARY
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError


class _Block(nn.Module):  # type: ignore[misc]
    """Pre-norm transformer block: attention and MLP."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.heads = width // next(size for size in (64, 32, 16, 8) if width % size == 0)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        for layer in (self.qkv, self.up, self.out, self.down):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.out, self.down):  # GPT-2's scaling: the residual stream's variance does not grow with depth
            layer.weight.data /= math.sqrt(2 * depth)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class _Decoder(nn.Module):  # type: ignore[misc]
    """Byte-level language model with learned positions and tied embeddings."""

    def __init__(self, width: int, depth: int, seq_len: int) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(seq_len, width)
        for table in (self.embed, self.position):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.Sequential(*(_Block(width, depth) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embed.weight)


class _Residual(nn.Module):  # type: ignore[misc]
    """Residual block: two 3x3 convolutions with batch norm and a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        is_identity = in_channels == width and stride == 1
        self.shortcut = nn.Identity() if is_identity else nn.Conv2d(in_channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def _cnn(width: int, depth: int, image_size: int) -> nn.Module:
    """Build three stages of `depth` blocks each, with 1, 2 and 4 times `width` channels."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage, block in itertools.product(range(3), range(depth)):
        stage_width = width * 2**stage
        layers.append(_Residual(channels, stage_width, 2 if stage and not block else 1))
        channels = stage_width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def _mlp(width: int, depth: int, image_size: int) -> nn.Module:
    """Build `depth` hidden layers of `width` units on the flattened image."""
    widths = [image_size**2, *[width] * depth]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, CLASSES))


# Constructors with arguments width, depth, and sequence length or image side.
NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {"transformer": _Decoder, "cnn": _cnn, "mlp": _mlp}


# --- width and depth for a given number of parameters


def _decoder_count(width: int, depth: int, seq_len: int) -> int:
    return (VOCABULARY + seq_len) * width + depth * (12 * width**2 + 4 * width) + 2 * width


def _cnn_count(width: int, depth: int, image_size: int) -> int:
    first = sum(
        9 * (before * w + w * w) + 4 * w for before, w in ((width, width), (width, 2 * width), (2 * width, 4 * width))
    )
    more = sum((depth - 1) * (18 * w * w + 4 * w) for w in (width, 2 * width, 4 * width))
    return 11 * width + first + 10 * width**2 + more + (4 * width + 1) * CLASSES


def _mlp_count(width: int, depth: int, image_size: int) -> int:
    return (image_size**2 + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * CLASSES


_COUNTS: dict[str, Callable[[int, int, int], int]] = {
    "transformer": _decoder_count,
    "cnn": _cnn_count,
    "mlp": _mlp_count,
}
_ASPECT = {"transformer": 64, "cnn": 24, "mlp": 400}  # typical width / depth
_WIDTHS = (*range(16, 128, 8), *range(128, 256, 16), *range(256, 1024, 32), *range(1024, 16385, 64))
_DEPTHS = {"transformer": range(1, 97), "cnn": range(1, 9), "mlp": range(1, 13)}


def fit(name: str, params: int, extent: int) -> tuple[int, int]:
    """Return the width and depth of a network with about `params` parameters.

    Args:
        name: Key of NETWORKS.
        extent: Sequence length or image side.

    Raises:
        InputError: No shape is within 10 % of `params`.
    """

    def count(width: int, depth: int) -> int:
        return _COUNTS[name](width, depth, extent)

    width, depth = nearest_shape(params, count, _DEPTHS[name], _ASPECT[name])
    actual = count(width, depth)
    if abs(actual / params - 1) > 0.1:
        raise InputError(
            f"--params {params}: no {name} size is within 10 %; the nearest has {actual} parameters",
            code=ErrorCode.OUT_OF_RANGE, option="--params", value=params,
        )  # fmt: skip
    return width, depth


def nearest_shape(
    params: int, count: Callable[[int, int], int], depths: Iterable[int], aspect: float
) -> tuple[int, int]:
    """Return the (width, depth) within 5 % of `params` that is closest to `aspect`, else the closest in size.

    Args:
        count: Returns the number of parameters for a width and a depth.
        aspect: Typical width / depth.
    """

    def misfit(shape: tuple[int, int]) -> tuple[float, float]:
        error = abs(count(*shape) / params - 1)
        return max(error, 0.05), abs(math.log(shape[0] / shape[1] / aspect))

    return min(itertools.product(_WIDTHS, depths), key=misfit)
