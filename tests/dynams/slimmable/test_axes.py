"""Axes: whatever is made of them and united, each keeps what NumPy says by what it was made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dynams.slimmable.axes import (
    Axis,
    concatenated,
    factored,
    parted,
    product,
    settle,
    unite,
    whole,
)

WIDTHS = (0.1, 0.3, 0.5, 0.75, 1.0)
Kept = NDArray[np.bool_]


def outer(parts: Sequence[Kept]) -> Kept:
    return functools.reduce(lambda a, b: (a[:, None] & b[None, :]).ravel(), parts, np.ones(1, bool))


class World:
    """Axes, and what is known of them."""

    def __init__(self) -> None:
        self.axes = [Axis(size) for size in (2, 3, 4, 4, 6, 8, 8, 12)] + [whole(1), whole(3)]
        self.products: list[tuple[Axis, tuple[Axis, ...]]] = []
        self.sums: list[tuple[Axis, tuple[Axis, ...]]] = []
        self.united: list[tuple[Axis, Axis]] = []
        self.fixed: list[Axis] = []

    def do(self, what: str, one: int, other: int, third: int) -> None:
        axis = self.axes[one % len(self.axes)]
        second = self.axes[other % len(self.axes)]
        if what == "leaf":
            self.axes.append(Axis(1 + one % 24, fixed=third % 5 == 0))
        elif what == "product":
            if axis.size * second.size <= 96:
                self.axes.append(product((axis, second)))
                self.products.append((self.axes[-1], (axis, second)))
        elif what == "sum":
            parts = (axis, second, axis) if third % 3 == 0 else (axis, second)
            self.axes.append(concatenated(parts))
            self.sums.append((self.axes[-1], parts))
        elif what == "factored":
            divisors = [each for each in range(1, axis.size + 1) if axis.size % each == 0]
            first = divisors[other % len(divisors)]
            rest = axis.size // first
            last = math.gcd(rest, 1 + third)
            parts = factored(axis, (first, rest // last, last))
            assert [each.size for each in parts] == [first, rest // last, last]
            self.axes += parts
            self.products.append((axis, parts))
        elif what == "parted":
            cuts = sorted((other % (axis.size + 1), third % (axis.size + 1)))
            sizes = cuts[0], cuts[1] - cuts[0], axis.size - cuts[1]
            parts = parted(axis, sizes)
            assert tuple(each.size for each in parts) == sizes
            self.axes += [each for each in parts if each.size]
            self.sums.append((axis, parts))
        elif what == "unite":
            alike = [each for each in self.axes if each.size == axis.size]
            self.united.append((axis, alike[other % len(alike)]))
            unite(*self.united[-1])
        elif what == "meet" and axis.size > 2:
            if third % 2:
                cut = 1 + other % (axis.size - 1)
                parts = Axis(cut), Axis(axis.size - cut)
                self.sums.append((concatenated(parts), parts))
            else:
                divisors = [each for each in range(1, axis.size) if axis.size % each == 0]
                size = divisors[other % len(divisors)]
                parts = Axis(size), Axis(axis.size // size)
                self.products.append((product(parts), parts))
            made = (self.sums if third % 2 else self.products)[-1][0]
            self.axes += [made, *parts]
            self.united.append((axis, made))
            unite(axis, made)
        elif what == "fix":
            before = [axis.kept(width) for width in WIDTHS]
            axis.fix()
            assert all(not (b & ~axis.kept(w)).any() for b, w in zip(before, WIDTHS, strict=True))
            self.fixed.append(axis)

    def check(self) -> None:
        for width in WIDTHS:
            for axis in self.axes:
                kept = axis.kept(width)
                assert kept.shape == (axis.size,)
                assert kept.any()
                assert kept.all() or not (width == 1.0 or axis.fixed)
                assert axis.count(width) == kept.sum()
                told = [at for start, stop in axis.ranges(width) for at in range(start, stop)]
                assert told == list(np.flatnonzero(kept))
            for axis, parts in self.products:
                assert (axis.kept(width) == outer([each.kept(width) for each in parts])).all()
            for axis, parts in self.sums:
                assert (axis.kept(width) == np.concatenate([p.kept(width) for p in parts])).all()
            for one, other in self.united:
                assert (one.kept(width) == other.kept(width)).all()
            assert all(axis.kept(width).all() for axis in self.fixed)


OPERATIONS = st.tuples(
    st.sampled_from(
        ["leaf", "product", "sum", "factored", "parted", "unite", "meet", "meet", "fix"]
    ),
    *[st.integers(0, 255)] * 3,
)


@given(st.lists(OPERATIONS, max_size=30))
@settings(max_examples=40)
def test_what_is_made_of_axes_keeps_what_they_keep(
    operations: list[tuple[str, int, int, int]],
) -> None:
    world = World()
    for each in operations:
        world.do(*each)
    world.check()
    for axis in world.axes:
        settle(axis)
    world.check()
    for _, parts in world.products:
        assert sum(not each.fixed for each in parts) <= 1
    masks = [axis.kept(0.5) for axis in world.axes]
    for axis in world.axes:
        settle(axis)
        unite(axis, axis)
    assert all((a.kept(0.5) == m).all() for a, m in zip(world.axes, masks, strict=True))


def test_heads_are_what_slims_of_a_joint_projection() -> None:
    qkv = Axis(3 * 4 * 2)
    three, heads, inside = factored(qkv, (3, 4, 2))
    three.fix()
    settle(qkv)
    assert (three.fixed, heads.fixed, inside.fixed) == (True, False, True)
    assert qkv.ranges(0.5) == ((0, 4), (8, 12), (16, 20))
    # The same as three parts, each of heads.
    cut = Axis(3 * 4 * 2)
    queries, *others = parted(cut, (8, 8, 8))
    for each in others:
        unite(queries, each)
    factored(queries, (4, 2))
    settle(cut)
    assert cut.ranges(0.5) == qkv.ranges(0.5)


def test_channels_are_what_slims_of_a_flattened_picture() -> None:
    channels = Axis(6)
    features = product((channels, whole(2), whole(3)))
    weight = Axis(36)
    unite(weight, features)
    settle(weight)
    assert weight.ranges(0.5) == ((0, 18),)
    last = product((whole(2), Axis(3)))
    assert last.ranges(0.3) == ((0, 1), (3, 4))


def test_a_shuffle_of_groups_slims_both_its_ends_alike() -> None:
    channels = Axis(12)
    groups, inside = factored(channels, (2, 6))
    shuffled = product((inside, groups))
    unite(shuffled, Axis(12))
    groups.fix()
    settle(channels)
    settle(shuffled)
    assert channels.ranges(0.5) == ((0, 3), (6, 9))
    assert shuffled.ranges(0.5) == ((0, 6),)


def test_what_cannot_slim_alike_is_kept_whole() -> None:
    for one, other in (
        (product((Axis(2), Axis(3))), product((Axis(3), Axis(2)))),
        (Axis(7), whole(7)),
    ):
        unite(one, other)
        assert one.fixed
        assert other.fixed
    one, other = concatenated((Axis(3), Axis(4))), Axis(7)
    unite(one, other)
    assert one.ranges(0.5) == other.ranges(0.5) == ((0, 2), (3, 5))


def test_thousands_of_parts_are_cut_one_after_another() -> None:
    rest = channels = Axis(6000)
    heads = []
    while rest.size > 2:
        head, rest = parted(rest, (2, rest.size - 2))
        heads.append(head)
    assert channels.count(0.5) == 3000
    assert len(parted(Axis(3000), (1,) * 3000)) == 3000
    unite(concatenated(heads), Axis(5998))
    settle(channels)
    channels.fix()
    assert heads[-1].fixed


def test_an_axis_of_nothing_stays_one() -> None:
    assert [each.size for each in factored(whole(0), (0, 4))] == [0, 4]
    assert [each.size for each in parted(whole(0), (0, 0))] == [0, 0]
    assert whole(0).kept(0.5).shape == product((whole(0), Axis(4))).kept(0.5).shape == (0,)
