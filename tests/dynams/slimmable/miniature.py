"""Miniatures of the networks people use, each with what is left of it at a width, written by hand.

A miniature takes its sizes as arguments. So a slim width is the same class with smaller sizes, whose parameters are
picked from the full ones by a table: for every module the axes of its parameters, for every axis the positions kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 5


WORDS = 13


def keep(count: int, width: float) -> int:
    return max(1, math.floor(count * width + 0.5))


@dataclass(frozen=True)
class Slim:
    """What a width is: the class's arguments, and the kept positions of the named axes."""

    sizes: dict[str, Any]
    axes: dict[str, Sequence[int]]


@dataclass(frozen=True)
class Miniature:
    """A network in somebody's style.

    Attributes:
        make: makes it of given sizes.
        at: what a width is.
        tables: by a part of a parameter's name (the first that matches counts), the axes of the parameter; "-" and
            those after the last named keep all.
        tokens: it takes tokens, not images.
    """

    make: Callable[..., nn.Module]
    at: Callable[[float], Slim]
    tables: dict[str, str]
    tokens: bool = False

    def picked(self, name: str, tensor: Tensor, width: float) -> tuple[Tensor, ...]:
        """The index of what `width` keeps of a parameter."""
        table = next(table for part, table in self.tables.items() if part in name)
        names = table.split()[: tensor.dim()]
        kept = self.at(width).axes
        indices = [
            torch.arange(size) if name == "-" else torch.tensor(list(kept[name]))
            for name, size in zip([*names, *"-" * tensor.dim()], tensor.shape, strict=False)
        ]
        return torch.meshgrid(*indices, indexing="ij")


def blocks(size: int, kept: int, count: int) -> list[int]:
    """The first `kept` of each of `count` blocks of `size`."""
    return [block * size + at for block in range(count) for at in range(kept)]


class DropPath(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        if keep > 0.0:
            mask.div_(keep)
        return x * mask


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(0.5 + torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
