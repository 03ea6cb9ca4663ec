"""Miniatures of convolutional networks whose channels part: CSP, ghost modules, split and selective kernels."""

from __future__ import annotations

from typing import Any

import torch
from miniature import CLASSES, Slim, blocks, keep
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, **options: Any) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class CSP(nn.Module):
    """One half of the channels goes through blocks, the other passes by; of a stem with GroupNorm."""

    def __init__(self, stem: int, groups: int, half: int, out: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, 2, 1)
        self.norm = nn.GroupNorm(groups, stem)
        self.expand = ConvNorm(stem, 2 * half)
        self.half = half
        self.block = ConvNorm(half, half, 3)
        self.transition = ConvNorm(2 * half, out)
        self.head = nn.Linear(out, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(self.norm(self.stem(x)))
        one, two = x.split(self.half, dim=1)
        two = two + self.block(two)
        return self.head(self.transition(torch.cat([one, two], dim=1)).mean((-2, -1)))


def csp_at(width: float) -> Slim:
    groups, half, out = keep(3, width), keep(5, width), keep(9, width)
    return Slim(
        {"stem": 2 * groups, "groups": groups, "half": half, "out": out},
        {
            "s": range(2 * groups),
            "h": range(half),
            "2h": blocks(5, half, 2),
            "o": range(out),
        },
    )


CSP_TABLE = {
    "stem": "s",
    "norm": "s",
    "expand.0": "2h s",
    "block.0": "h h",
    "transition.0": "o 2h",
    "head": "- o",
}


class EfficientChannelAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * gate.view(x.shape[0], -1, 1, 1).sigmoid().expand_as(x)


class Ghost(nn.Module):
    """Half of the maps is made of the other half, by a depthwise convolution; neighbours gate each other."""

    def __init__(self, stem: int, half: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, stem, 3, stride=2)
        self.primary = ConvNorm(stem, half)
        self.cheap = ConvNorm(half, half, 3, groups=half)
        self.out = 2 * half
        self.head = nn.Linear(2 * half, CLASSES)
        self.eca = EfficientChannelAttention()
        self.last = nn.Conv2d(2 * half, 2 * half, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.primary(self.stem(x))
        x = torch.cat([one, self.cheap(one)], dim=1)[:, : self.out, :, :]
        return self.head((x + self.last(self.eca(x)).sigmoid()).mean((2, 3)))


def ghost_at(width: float) -> Slim:
    stem, half = keep(5, width), keep(6, width)
    return Slim(
        {"stem": stem, "half": half},
        {"s": range(stem), "h": range(half), "2h": blocks(6, half, 2)},
    )


GHOST = {
    "stem.0": "s",
    "primary.0": "h s",
    "cheap.0": "h",
    "eca": "-",
    "last": "2h 2h",
    "head": "- 2h",
}


class SelectiveKernel(nn.Module):
    """Two paths, weighed channel by channel by what both together hold."""

    def __init__(self, stem: int, channels: int, attention: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, stem, 3, stride=2)
        self.paths = nn.ModuleList([ConvNorm(stem, channels, 3), ConvNorm(stem, channels, 1)])
        self.fc_reduce = nn.Conv2d(channels, attention, 1, bias=False)
        self.fc_select = nn.Conv2d(attention, 2 * channels, 1, bias=False)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.stack([path(x) for path in self.paths], dim=1)
        gate = F.relu(self.fc_reduce(x.sum(1).mean((2, 3), keepdim=True)))
        gate = self.fc_select(gate)
        B, C, H, W = gate.shape
        gate = torch.softmax(gate.view(B, 2, C // 2, H, W), dim=1)
        return self.head(torch.sum(x * gate, dim=1).mean((2, 3)))


class SplitAttention(nn.Module):
    """As above, where one grouped convolution makes both paths: of its groups, channels slim."""

    def __init__(self, stem: int, channels: int, attention: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 2 * stem, 3, stride=2)
        self.paths = ConvNorm(2 * stem, 2 * channels, 3, groups=2)
        self.fc_reduce = nn.Conv2d(channels, attention, 1)
        self.fc_select = nn.Conv2d(attention, 2 * channels, 1)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.paths(self.stem(x))
        B, RC, H, W = x.shape
        x = x.reshape((B, 2, RC // 2, H, W))
        gate = F.relu(self.fc_reduce(x.sum(dim=1).mean((2, 3), keepdim=True)))
        gate = self.fc_select(gate).view(B, 1, 2, -1).transpose(1, 2)
        gate = F.softmax(gate, dim=1).reshape(B, -1).view(B, -1, 1, 1)
        out = (x * gate.reshape((B, 2, RC // 2, 1, 1))).sum(dim=1)
        return self.head(out.contiguous().mean((2, 3)))


def split_at(width: float) -> Slim:
    stem, channels, attention = keep(5, width), keep(6, width), keep(4, width)
    return Slim(
        {"stem": stem, "channels": channels, "attention": attention},
        {
            "2s": blocks(5, stem, 2),
            "s": range(stem),
            "2c": blocks(6, channels, 2),
            "c": range(channels),
            "a": range(attention),
        },
    )


SPLIT = {
    "stem.0": "2s",
    "paths": "2c s",
    "fc_reduce": "a c",
    "fc_select": "2c a",
    "head": "- c",
}


def selective_at(width: float) -> Slim:
    stem, channels, attention = keep(5, width), keep(6, width), keep(4, width)
    return Slim(
        {"stem": stem, "channels": channels, "attention": attention},
        {
            "s": range(stem),
            "c": range(channels),
            "2c": blocks(6, channels, 2),
            "a": range(attention),
        },
    )


SELECTIVE = {
    "stem.0": "s",
    "paths": "c s",
    "fc_reduce": "a c",
    "fc_select": "2c a",
    "head": "- c",
}
