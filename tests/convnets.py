"""Convolutional networks as in torchvision, for memory measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def conv(wide: int, out: int, k: int = 1, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(wide, out, k, stride, k // 2, groups=groups, bias=bias)


def conv_bn(wide: int, out: int, k: int = 1, stride: int = 1, groups: int = 1, act: Any = None) -> nn.Sequential:
    parts = [conv(wide, out, k, stride, groups), nn.BatchNorm2d(out), *([act()] if act else [])]
    return nn.Sequential(*parts)


def relu_() -> nn.Module:
    return nn.ReLU(inplace=True)


def relu6_() -> nn.Module:
    return nn.ReLU6(inplace=True)


def silu_() -> nn.Module:
    return nn.SiLU(inplace=True)


class Residual(nn.Module):  # type: ignore[misc]
    """A residual block: the sum of a body and a shortcut, with an optional activation."""

    def __init__(self, body: nn.Module, short: nn.Module | None = None, act: nn.Module | None = None,
                 in_place: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.body, self.short, self.act, self.in_place = body, short or nn.Identity(), act or nn.Identity(), in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        short = self.short(x)
        if self.in_place:
            y += short
        else:
            y = y + short
        out: Tensor = self.act(y)
        return out


class Pooled(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def resnet(depths: tuple[int, ...], bottleneck: bool) -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2, act=relu_), nn.MaxPool2d(3, 2, 1)]
    wide = 64
    for index, depth in enumerate(depths):
        mid = 64 << index
        out = 4 * mid if bottleneck else mid
        for number in range(depth):
            stride = 2 if index and not number else 1
            if bottleneck:
                body = nn.Sequential(
                    conv_bn(wide, mid, act=relu_), conv_bn(mid, mid, 3, stride, act=relu_), conv_bn(mid, out)
                )
            else:
                body = nn.Sequential(conv_bn(wide, out, 3, stride, act=relu_), conv_bn(out, out, 3))
            short = conv_bn(wide, out, 1, stride) if stride > 1 or wide != out else None
            layers.append(Residual(body, short, relu_()))
            wide = out
    return nn.Sequential(*layers, Pooled(), nn.Linear(wide, 1000))


class Thin(nn.Module):  # type: ignore[misc]
    """A strided shortcut that pads the channels with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))


def resnet20() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 16, 3, act=relu_)]
    wide = 16
    for out in (16, 32, 64):
        for _ in range(3):
            body = nn.Sequential(conv_bn(wide, out, 3, out // wide, act=relu_), conv_bn(out, out, 3))
            layers.append(Residual(body, Thin() if out > wide else None, relu_()))
            wide = out
    return nn.Sequential(*layers, Pooled(), nn.Linear(wide, 10))


class Wide(nn.Module):  # type: ignore[misc]
    """A pre-activation residual block: normalization and activation before each convolution."""

    def __init__(self, wide: int, out: int, stride: int) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.BatchNorm2d(wide), relu_())
        self.body = nn.Sequential(conv_bn(wide, out, 3, stride, act=relu_), conv(out, out, 3))
        self.short = conv(wide, out, 1, stride) if wide != out else None

    def forward(self, x: Tensor) -> Tensor:
        r = self.start(x)
        y: Tensor = self.body(r)
        return y + (x if self.short is None else self.short(r))


def wide_resnet() -> nn.Module:
    layers: list[nn.Module] = [conv(3, 16, 3)]
    wide = 16
    for out in (160, 320, 640):
        for number in range(4):
            layers.append(Wide(wide, out, 2 if out > 160 and not number else 1))
            wide = out
    return nn.Sequential(*layers, nn.BatchNorm2d(wide), relu_(), Pooled(), nn.Linear(wide, 10))


class Dropout(nn.Module):  # type: ignore[misc]
    """Dropout as on CUDA: saves one byte per element."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.native_dropout(x, 0.5, True)[0]
        return out


def vgg(widths: tuple[int, ...], bn: bool) -> nn.Module:
    layers: list[nn.Module] = []
    wide = 3
    for out in widths:
        if out:
            layers += [conv(wide, out, 3, bias=True), *([nn.BatchNorm2d(out)] if bn else []), relu_()]
            wide = out
        else:
            layers.append(nn.MaxPool2d(2))
    rows = [nn.Linear(wide * 49, 4096), relu_(), Dropout(), nn.Linear(4096, 4096), relu_(), Dropout()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *rows, nn.Linear(4096, 1000))


class Norm(nn.LayerNorm):  # type: ignore[misc]
    """Layer norm in full precision under autocast, as on CUDA; optionally over the channels of an image."""

    def __init__(self, width: int, image: bool = False) -> None:
        super().__init__(width)
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1) if self.image else x
        x = super().forward(x.float() if torch.is_autocast_enabled("cpu") else x)
        return x.permute(0, 3, 1, 2) if self.image else x


class Scaled(nn.Module):  # type: ignore[misc]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.permute(0, 3, 1, 2)


class Last(nn.Module):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def convnext(depths: tuple[int, ...], first: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, first, 4, 4), Norm(first, image=True)]
    for index, depth in enumerate(depths):
        wide = first << index
        if index:
            layers += [Norm(wide // 2, image=True), nn.Conv2d(wide // 2, wide, 2, 2)]
        layers += [
            Residual(nn.Sequential(conv(wide, wide, 7, groups=wide, bias=True), Last(), Norm(wide),
                                   nn.Linear(wide, 4 * wide), nn.GELU(), nn.Linear(4 * wide, wide), Scaled(wide)))
            for _ in range(depth)
        ]  # fmt: skip
    return nn.Sequential(*layers, Pooled(), Norm(wide), nn.Linear(wide, 1000))


class Excite(nn.Module):  # type: ignore[misc]
    """Squeeze-and-excitation: scales each channel by a number between 0 and 1."""

    def __init__(self, wide: int, squeeze: int, act: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv(wide, squeeze, bias=True), act(), conv(squeeze, wide, bias=True), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) * x
        return out


def mobilenet_v2() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=relu6_)]
    wide = 32
    for times, out, depth, first in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                     (6, 160, 3, 2), (6, 320, 1, 1)):  # fmt: skip
        for number in range(depth):
            mid, stride = times * wide, 1 if number else first
            body = nn.Sequential(*([conv_bn(wide, mid, act=relu6_)] if times > 1 else []),
                                 conv_bn(mid, mid, 3, stride, mid, relu6_), conv_bn(mid, out))  # fmt: skip
            layers.append(Residual(body, in_place=False) if stride == 1 and wide == out else body)
            wide = out
    return nn.Sequential(*layers, conv_bn(wide, 1280, act=relu6_), Pooled(), Dropout(), nn.Linear(1280, 1000))


def efficientnet_b0() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=silu_)]
    wide = 32
    for times, k, first, out, depth in ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3),
                                        (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)):  # fmt: skip
        for number in range(depth):
            mid, stride = times * wide, 1 if number else first
            body = nn.Sequential(*([conv_bn(wide, mid, act=silu_)] if times > 1 else []),
                                 conv_bn(mid, mid, k, stride, mid, silu_),
                                 Excite(mid, wide // 4, silu_, nn.Sigmoid), conv_bn(mid, out))  # fmt: skip
            layers.append(Residual(body) if stride == 1 and wide == out else body)
            wide = out
    return nn.Sequential(*layers, conv_bn(wide, 1280, act=silu_), Pooled(), Dropout(), nn.Linear(1280, 1000))


class Dense(nn.Module):  # type: ignore[misc]
    """A dense block: each layer gets the concatenation of all previous outputs."""

    def __init__(self, wide: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(wide + 32 * i), relu_(), conv_bn(wide + 32 * i, 128, act=relu_),
                          conv(128, 32, 3))
            for i in range(depth)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(layer(torch.cat(seen, 1)))
        return torch.cat(seen, 1)


def densenet(depths: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2, act=relu_), nn.MaxPool2d(3, 2, 1)]
    wide = 64
    for index, depth in enumerate(depths):
        if index:
            layers += [nn.BatchNorm2d(wide), relu_(), conv(wide, wide // 2), nn.AvgPool2d(2)]
            wide //= 2
        layers.append(Dense(wide, depth))
        wide += 32 * depth
    return nn.Sequential(*layers, nn.BatchNorm2d(wide), relu_(), Pooled(), nn.Linear(wide, 1000))


def regnety_400mf() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=relu_)]
    wide = 32
    for out, depth in ((48, 1), (104, 3), (208, 6), (440, 6)):
        for number in range(depth):
            stride = 1 if number else 2
            body = nn.Sequential(conv_bn(wide, out, act=relu_), conv_bn(out, out, 3, stride, out // 8, relu_),
                                 Excite(out, round(wide / 4), nn.ReLU, nn.Sigmoid), conv_bn(out, out))  # fmt: skip
            short = None if number else conv_bn(wide, out, 1, stride)
            layers.append(Residual(body, short, relu_(), in_place=False))
            wide = out
    return nn.Sequential(*layers, Pooled(), nn.Linear(wide, 1000))
