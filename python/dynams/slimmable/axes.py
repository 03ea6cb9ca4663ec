"""Which positions along an axis of a tensor stay at each width.

An axis is a number of *units*. Width w keeps the first `slim_channels(units, w)` of them, or all if the
axis is fixed. An axis can be made of others: the *product* of an outer and an inner one (heads and what
each holds, as a reshape joins them, or the groups of a convolution), or the *sum* of several, end to end
(a concatenation). Two axes that meet, because tensors are added or multiplied along them, are *united*:
from then on each position is kept in both or in neither. What cannot be united so is kept whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dynams.slimmable.widths import slim_channels

Ranges = tuple[tuple[int, int], ...]
"""Ascending, disjoint (start, stop) of the positions kept."""


class Axis:
    """Units that slim together.

    Args:
        size: how many.
        fixed: keep all of them at every width.

    Attributes:
        size: as given.
    """

    __slots__ = ("_fixed", "_kind", "_parts", "size")

    def __init__(self, size: int, *, fixed: bool = False) -> None:
        self.size = size
        self._fixed = fixed or size < 2
        self._kind: Literal["leaf", "same", "product", "sum"] = "leaf"
        self._parts: tuple[Axis, ...] = ()

    @property
    def fixed(self) -> bool:
        """Whether every width keeps all of them."""
        axis = _found(self)
        return axis._fixed if axis._kind == "leaf" else all(each.fixed for each in _parts(axis))

    def fix(self) -> None:
        """Keep all of them at every width."""
        axis = _found(self)
        axis._fixed = True
        for each in _parts(axis):
            each.fix()

    def kept(self, width: float) -> NDArray[np.bool_]:
        """Return for each position whether ``width`` keeps it."""
        axis = _found(self)
        if axis._kind == "product":
            kept = np.ones(1, bool)
            for each in _parts(axis):
                kept = np.logical_and.outer(kept, each.kept(width)).ravel()
            return kept
        if axis._kind == "sum":
            return np.concatenate([each.kept(width) for each in _parts(axis)])
        kept = np.ones(axis.size, bool)
        if not axis._fixed:
            kept[slim_channels(axis.size, width) :] = False
        return kept

    def count(self, width: float) -> int:
        """Count the positions that ``width`` keeps."""
        return int(self.kept(width).sum())

    def ranges(self, width: float) -> Ranges:
        """Return the positions that ``width`` keeps."""
        edges = np.flatnonzero(np.diff(np.pad(self.kept(width).astype(np.int8), 1)))
        return tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))

    def __repr__(self) -> str:
        axis = _found(self)
        if axis._kind == "leaf":
            return f"{axis.size}{'' if axis._fixed else '*'}"
        return f"({(' ' if axis._kind == 'product' else ' + ').join(map(repr, _parts(axis)))})"


def whole(size: int) -> Axis:
    """Make an axis of which every width keeps all."""
    return Axis(size, fixed=True)


def product(axes: Iterable[Axis]) -> Axis:
    """Join axes, outer to inner, as flattening a tensor does."""
    return _made("product", [each for axis in axes for each in _factors(axis)], 1)


def concatenated(axes: Iterable[Axis]) -> Axis:
    """Join axes end to end."""
    return _made("sum", [each for axis in axes for each in _terms(axis)], 0)


def unite(one: Axis, other: Axis) -> None:
    """Slim two axes of one size alike from now on; what cannot be is kept whole in both."""
    one, other = _found(one), _found(other)
    assert one.size == other.size, (one, other)
    if one is other:
        return
    if one.fixed or other.fixed:
        one.fix()
        other.fix()
    elif one._kind == "leaf":
        _bind(one, "same", other)
    elif other._kind == "leaf":
        _bind(other, "same", one)
    elif one._kind == other._kind == "product":
        _unite_parts(one, other, _factors, _common, _divided)
    else:
        _unite_parts(one, other, _terms, min, _cut)


def factored(axis: Axis, sizes: Sequence[int]) -> tuple[Axis, ...]:
    """Split an axis into ``sizes``, outer to inner, as a reshape does."""
    assert math.prod(sizes) == axis.size, (axis, sizes)
    if axis.size == 0:
        return tuple(map(whole, sizes))
    left = [axis]
    parts = []
    for size in sizes:
        taken: list[Axis] = []
        while size > 1:
            first = _next(left, _factors)
            common = math.gcd(size, first.size)
            if common == 1:
                # The digits do not line up: nothing of what is left can slim.
                for each in (first, *left):
                    each.fix()
                taken.append(whole(size))
                left = [whole(math.prod(each.size for each in (first, *left)) // size)]
                break
            if common < first.size:
                first, inner = _divided(first, common)
                left.append(inner)
            taken.append(first)
            size //= common
        parts.append(product(taken))
    return tuple(parts)


def parted(axis: Axis, sizes: Sequence[int]) -> tuple[Axis, ...]:
    """Cut an axis into parts of ``sizes``, end to end, as a split does."""
    assert sum(sizes) == axis.size, (axis, sizes)
    left = [axis]
    parts = []
    for size in sizes:
        taken: list[Axis] = []
        while size > 0:
            first = _next(left, _terms)
            if first.size > size:
                first, rest = _cut(first, size)
                left.append(rest)
            taken.append(first)
            size -= first.size
        parts.append(concatenated(taken))
    return tuple(parts)


def settle(axis: Axis) -> None:
    """Let every product slim by its outermost part that can: heads, groups, channels before pixels."""
    axis = _found(axis)
    parts = _parts(axis)
    for each in parts:
        settle(each)
    if axis._kind == "product":
        free = [each for each in parts if not each.fixed]
        for each in free[1:]:
            each.fix()


def _found(axis: Axis) -> Axis:
    while axis._kind == "same":
        (other,) = axis._parts
        if other._kind == "same":
            axis._parts = other._parts  # shorter from now on
        axis = other
    return axis


def _bind(leaf: Axis, kind: Literal["same", "product", "sum"], *parts: Axis) -> None:
    leaf._kind, leaf._parts = kind, parts


def _made(kind: Literal["product", "sum"], parts: list[Axis], neutral: int) -> Axis:
    if len(parts) == 1:
        return parts[0]
    if all(each.fixed for each in parts):
        sizes = [each.size for each in parts]
        return whole(math.prod(sizes) if kind == "product" else sum(sizes))
    axis = Axis(neutral)
    sizes = [each.size for each in parts]
    axis.size = math.prod(sizes) if kind == "product" else sum(sizes)
    _bind(axis, kind, *parts)
    return axis


def _opened(axis: Axis, kind: str, neutral: int) -> list[Axis]:
    # No recursion: an axis from which one part after another was cut is as deep as it has parts.
    axis = _found(axis)
    opened: list[Axis] = []
    left = [axis]
    while left:
        each = _found(left.pop())
        if each._kind == kind:
            left.extend(reversed(each._parts))
        elif each.size != neutral:
            opened.append(each)
    if axis._kind == kind:
        axis._parts = tuple(opened)
    return opened


def _factors(axis: Axis) -> list[Axis]:
    return _opened(axis, "product", 1)


def _terms(axis: Axis) -> list[Axis]:
    return _opened(axis, "sum", 0)


def _parts(axis: Axis) -> list[Axis]:
    if axis._kind == "leaf":
        return []
    return _factors(axis) if axis._kind == "product" else _terms(axis)


def _next(left: list[Axis], opened: Callable[[Axis], list[Axis]]) -> Axis:
    """Take the first part of the last of ``left``: what was done since may have divided it."""
    left.extend(reversed(opened(left.pop())))
    return left.pop()


def _unite_parts(
    one: Axis,
    other: Axis,
    opened: Callable[[Axis], list[Axis]],
    shared: Callable[[int, int], int],
    divided: Callable[[Axis, int], tuple[Axis, Axis]],
) -> None:
    """Unite part by part, dividing the larger of two to the size that both share; 0: they share none."""
    ours, theirs = [one], [other]
    while ours:
        first, second = _next(ours, opened), _next(theirs, opened)
        size = shared(first.size, second.size)
        if not size:
            for each in (first, second, *ours, *theirs):
                each.fix()
            return
        if size < first.size:
            first, rest = divided(first, size)
            ours.append(rest)
        if size < second.size:
            second, rest = divided(second, size)
            theirs.append(rest)
        unite(first, second)


def _common(one: int, other: int) -> int:
    common = math.gcd(one, other)
    return common if common > 1 else 0


def _divided(axis: Axis, outer: int) -> tuple[Axis, Axis]:
    """Divide what is no product into ``outer`` and the rest."""
    inner = axis.size // outer
    if axis.fixed:
        return whole(outer), whole(inner)
    if axis._kind == "leaf":
        parts = Axis(outer), Axis(inner)
        _bind(axis, "product", *parts)
        return parts
    terms = _terms(axis)
    if any(each.size % inner for each in terms):
        axis.fix()
        return whole(outer), whole(inner)
    # A sum of products whose inner parts are one: (q + k + v) x head.
    outers, inners = zip(
        *(factored(each, (each.size // inner, inner)) for each in terms), strict=True
    )
    for each in inners[1:]:
        unite(inners[0], each)
    return concatenated(outers), inners[0]


def _cut(axis: Axis, at: int) -> tuple[Axis, Axis]:
    """Cut what is no sum in two."""
    if axis.fixed:
        return whole(at), whole(axis.size - at)
    if axis._kind == "leaf":
        parts = Axis(at), Axis(axis.size - at)
        _bind(axis, "sum", *parts)
        return parts
    outer, *inner = _factors(axis)
    size = math.prod(each.size for each in inner)
    if at % size:
        axis.fix()
        return whole(at), whole(axis.size - at)
    first, rest = parted(outer, (at // size, outer.size - at // size))
    return product((first, *inner)), product((rest, *inner))
