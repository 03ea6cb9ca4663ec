"""Which channels of a tensor stay at each width.

Axis 1 of a tensor is a row of *blocks*, one for each part of a concatenation. A block is some
channels on an *axis*, and an axis is a number of *units* that every layer on it slims alike: width w
keeps its first `slim_channels(units, w)`. Tensors that are added share their axes; an axis whose
layers cannot all slim by single channels has units of several (whole groups of a grouped
convolution, or the H W features that flattening makes of one channel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dynams.models import slim_channels

Ranges = tuple[tuple[int, int], ...]
"""Ascending, disjoint (start, stop) of the channels kept."""


class MisfitError(ValueError):
    """What does not fit, to be told together with the module where."""


class Axis:
    """Units that slim together; axes once joined are one.

    Args:
        units: how many; a join leaves their greatest common divisor.
        fixed: keep all of them at every width.
    """

    def __init__(self, units: int, *, fixed: bool = False) -> None:
        self._units = units
        self._fixed = fixed
        self._joined: Axis | None = None

    @property
    def units(self) -> int:
        """How many units slim one by one."""
        return self._root()._units

    @property
    def fixed(self) -> bool:
        """Whether every width keeps all of them."""
        return self._root()._fixed

    def coarsen(self, parts: int) -> None:
        """Slim by whole parts only, the axis having `parts` equal ones.

        Raises:
            MisfitError: nothing is left to slim.
        """
        root = self._root()
        root._units = _common(root._units, parts)

    def fix(self) -> None:
        """Keep all units at every width."""
        self._root()._fixed = True

    def join(self, other: Axis) -> None:
        """Slim together with `other` from now on.

        Raises:
            MisfitError: nothing is left to slim.
        """
        one, two = self._root(), other._root()
        if one is not two:
            one._units = _common(one._units, two._units)
            one._fixed = one._fixed or two._fixed
            two._joined = one

    def _root(self) -> Axis:
        axis = self
        while axis._joined is not None:
            axis = axis._joined
        return axis


def _common(units: int, others: int) -> int:
    common = math.gcd(units, others)
    if common == 1 < max(units, others):
        raise MisfitError(
            f"{units} channels or groups and {others} have no common divisor to slim by: "
            "every width would keep all of them"
        )
    return common


@dataclass(frozen=True)
class Block:
    """Adjacent channels on one axis: a whole number of them for each unit.

    Attributes:
        axis: what they slim with.
        channels: how many at full width.
    """

    axis: Axis
    channels: int

    def kept(self, width: float) -> int:
        """Count the channels at `width`."""
        if self.axis.fixed:
            return self.channels
        units = self.axis.units
        return self.channels // units * slim_channels(units, width)


class Area:
    """Features that flattening makes of one channel, H W; unknown until a layer tells its input size."""

    def __init__(self, value: int | None = None) -> None:
        self.value = value


ONE = Area(1)


@dataclass(frozen=True)
class Layout:
    """A tensor as the analysis sees it.

    Attributes:
        blocks: of axis 1, before flattening; None where every width keeps all channels (the input).
        rank: number of dimensions; None if unknown (the input).
        area: features for each channel of `blocks`.
        pooled: height and width are 1.
    """

    blocks: tuple[Block, ...] | None
    rank: int | None = None
    area: Area = ONE
    pooled: bool = False

    def elements(self, count: int | None = None) -> tuple[Block, ...] | None:
        """Return the blocks of axis 1 as it is, which has `count` elements where that is known.

        Raises:
            MisfitError: it cannot have `count`; or the size of a flattened tensor is still unknown.
        """
        if self.blocks is None:
            return None
        channels = sum(block.channels for block in self.blocks)
        if self.area.value is None and count is not None and count % channels == 0:
            self.area.value = count // channels
        area = self.area.value
        if area is None and count is None:
            raise MisfitError(
                "it takes a flattened tensor of unknown size: combine tensors before they are "
                "flattened, or pool them to 1x1"
            )
        if area is None or (count is not None and channels * area != count):
            raise MisfitError(f"it takes {count} channels or features, of a tensor of {channels}")
        return tuple(Block(block.axis, block.channels * area) for block in self.blocks)


def join(one: Layout, other: Layout) -> Layout:
    """Make two tensors that meet element by element slim alike; return the result's layout.

    Raises:
        MisfitError: their channels do not correspond one to one.
    """
    if None not in (one.rank, other.rank) and one.rank != other.rank:
        raise MisfitError(f"it combines tensors of {one.rank} and {other.rank} dimensions")
    rank = other.rank if one.rank is None else one.rank
    pooled = one.pooled and other.pooled
    if one.blocks is None or other.blocks is None:
        for block in (*(one.blocks or ()), *(other.blocks or ())):
            block.axis.fix()
        area = other.area if one.blocks is None else one.area
        return Layout(one.blocks or other.blocks, rank, area, pooled)
    if one.area is other.area and one.area.value is None:
        ours, theirs, area = one.blocks, other.blocks, one.area
    else:
        if one.area.value is None:
            one, other = other, one
        ours, area = one.elements() or (), ONE
        count = sum(block.channels for block in ours) if other.area.value is None else None
        theirs = other.elements(count) or ()
    for wide, narrow in ((ours, theirs), (theirs, ours)):
        if [block.channels for block in narrow] == [1]:
            return Layout(wide, rank, area, pooled)
    sizes, others = ([block.channels for block in blocks] for blocks in (ours, theirs))
    if sizes != others:
        raise MisfitError(f"it combines channels in parts of {sizes} with parts of {others}")
    for block, twin in zip(ours, theirs, strict=True):
        block.axis.join(twin.axis)
    return Layout(ours, rank, area, pooled)


def concatenate(layouts: Sequence[Layout]) -> Layout:
    """Return the layout of a concatenation along axis 1.

    Raises:
        MisfitError: the number of channels of a part is unknown, or ranks differ.
    """
    parts = [layout.elements() for layout in layouts]
    if None in parts:
        raise MisfitError(
            "it concatenates the network's input, of which the number of channels is not known"
        )
    if len({layout.rank for layout in layouts}) != 1:
        raise MisfitError("it concatenates tensors of different numbers of dimensions")
    blocks = [block for part in parts for block in part or ()]
    return Layout(tuple(blocks), layouts[0].rank, ONE, all(layout.pooled for layout in layouts))


def split_groups(blocks: Sequence[Block], groups: int) -> tuple[int, ...]:
    """Let `blocks` slim by whole groups only; return how many groups each holds.

    Raises:
        MisfitError: a group would reach over two blocks.
    """
    size = sum(block.channels for block in blocks) // groups
    counts = []
    for block in blocks:
        if block.channels % size:
            raise MisfitError(
                f"its groups of {size} channels reach over the parts of a concatenation, "
                f"{[each.channels for each in blocks]}"
            )
        counts.append(block.channels // size)
        block.axis.coarsen(counts[-1])
    return tuple(counts)


def kept_ranges(blocks: Sequence[Block] | None, count: int, width: float) -> Ranges:
    """Return the ranges of `count` channels that `width` keeps."""
    if blocks is None:
        return ((0, count),)
    ranges: list[tuple[int, int]] = []
    start = 0
    for block in blocks:
        stop = start + block.kept(width)
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
        start += block.channels
    return tuple(ranges)
