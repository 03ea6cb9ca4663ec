"""The timetable of selections against a plain walk through the epochs: phases, blocks, budgets, sizes, steps."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import Timetable, constant, linear, selection_size


@st.composite
def timetables(draw: st.DrawFn) -> Timetable:
    start, end = draw(st.floats(0.05, 1.0)), draw(st.floats(0.05, 1.0))
    return Timetable(
        linear(start, end),
        budgeted=draw(st.booleans()),
        epochs=draw(st.integers(1, 30)),
        refresh_every=draw(st.integers(1, 7)),
        warmup_epochs=draw(st.integers(0, 9)),
        tail=draw(st.floats(0.0, 0.99)),
    )


def walked(times: Timetable) -> list[tuple[str, int | None, float]]:
    """The oracle: phase, block and planned budget of every epoch, counted one epoch after the other."""
    assert times.epochs is not None
    tail = int(Fraction(times.tail * times.epochs) + Fraction(1, 2))
    selected = max(0, times.epochs - tail - times.warmup_epochs)
    rows: list[tuple[str, int | None, float]] = []
    block, left, budget = -1, 0, 1.0
    for epoch in range(times.epochs):
        if epoch < times.warmup_epochs:
            rows.append(("warm-up", None, 1.0))
        elif epoch >= times.epochs - tail:
            rows.append(("tail", None, 1.0))
        else:
            if left == 0:
                place = epoch - times.warmup_epochs
                way = place / (selected - 1) if selected > 1 else 1.0
                block, left = block + 1, times.refresh_every
                budget = times.schedule(way) if times.budgeted else 1.0
            left -= 1
            rows.append(("selected", block, budget))
    return rows


@given(timetables(), st.integers(1, 5000), st.integers(1, 300))
def test_every_epoch_is_as_a_walk_through_the_epochs_finds_it(
    times: Timetable, n: int, batch_size: int
) -> None:
    rows = walked(times)
    epochs = range(len(rows))
    assert [times.phase(epoch) for epoch in epochs] == [phase for phase, _, _ in rows]
    assert [times.block(epoch) for epoch in epochs] == [block for _, block, _ in rows]
    assert [times.planned_budget(epoch) for epoch in epochs] == [budget for _, _, budget in rows]
    blocks = [block for _, block, _ in rows]
    assert times.refreshes == [
        epoch
        for epoch in epochs
        if blocks[epoch] is not None and blocks[epoch] not in blocks[:epoch]
    ]
    sizes = [selection_size(n, budget) for _, _, budget in rows]
    assert times.planned_sizes(n) == sizes
    batches = [[range(n)[i : i + batch_size] for i in range(0, size, batch_size)] for size in sizes]
    assert times.total_steps(n, batch_size) == sum(map(len, batches))
    whole = [size // batch_size for size in sizes]
    assert times.total_steps(n, batch_size, drop_last=True) == sum(whole)


@given(st.integers(1, 10**9), st.integers(1, 64))
def test_a_size_is_the_nearest_whole_number_and_at_least_one(n: int, parts: int) -> None:
    exact = Fraction(n * parts, 64)
    assert selection_size(n, parts / 64) == max(1, int(exact + Fraction(1, 2)))


@given(st.integers(1, 10**9), st.floats(1e-9, 1.0))
def test_a_size_is_within_the_samples(n: int, budget: float) -> None:
    assert 1 <= selection_size(n, budget) <= n
    assert selection_size(n, 1.0) == n


def test_without_a_length_every_epoch_has_the_one_budget() -> None:
    times = Timetable(constant(0.5), refresh_every=3, warmup_epochs=2)
    assert [times.block(epoch) for epoch in (1, 2, 4, 5, 1000)] == [None, 0, 0, 1, 332]
    assert times.planned_size(10**6, 40) == 20
    for ask in (lambda: times.refreshes, lambda: times.total_steps(40, 8)):
        with pytest.raises(ValueError, match="epochs: got None, want the length of the training"):
            ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: got 0, want at least 1"),
        ({"refresh_every": 0}, "refresh_every: got 0, want at least 1"),
        ({"warmup_epochs": -1}, "warmup_epochs: got -1, want at least 0"),
        ({"tail": 1.0}, r"tail: got 1.0, want a number in \[0, 1\)"),
        ({"tail": 0.5}, "epochs: got None with tail=0.5, want the length"),
        ({"schedule": linear(1.0, 0.5)}, r"epochs: got None with budget=linear\(.*\), want"),
        ({"schedule": lambda progress: 0.5}, "epochs: got None with budget="),
    ],
)
def test_a_timetable_out_of_range_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timetable(**{"schedule": constant(0.5), **options})


def test_a_size_out_of_range_is_refused_by_name() -> None:
    for n, budget, name in ((0, 0.5, "num_samples"), (5, 0.0, "budget"), (5, 1.5, "budget")):
        with pytest.raises(ValueError, match=f"^{name}: got"):
            selection_size(n, budget)
    with pytest.raises(ValueError, match="batch_size: got 0, want at least 1"):
        Timetable(constant(0.5), epochs=2).total_steps(10, 0)
    with pytest.raises(TypeError, match=r"refresh_every: got 1\.5, want a whole number"):
        Timetable(constant(0.5), refresh_every=1.5)  # type: ignore[arg-type]


def test_a_foreign_schedule_is_checked_where_it_is_asked() -> None:
    times = Timetable(lambda progress: 0.5 - progress, epochs=3)
    assert times.budget(0) == 0.5
    with pytest.raises(ValueError, match=r"the budget of .*: got -0.5, want a number in \(0, 1\]"):
        times.budget(2)
