"""Means, spreads and paired differences against cases worked out by hand."""

from __future__ import annotations

import math

import pytest

from dynams.compare.cells import CellKey
from dynams.compare.groups import group_cells, machines, reached_in
from dynams.compare.statistics import paired, spread, t95

from .conftest import HERE, THERE, a_cell


def test_mean_and_deviation_are_those_of_a_sample():
    found = spread([1.0, 2.0, 6.0])
    assert (found.n, found.mean) == (3, 3.0)
    assert found.deviation == pytest.approx(math.sqrt(7.0))  # (4 + 1 + 9) / 2
    assert spread([5.0]).deviation is None
    assert spread([5.0, math.nan]) == spread([5.0])
    assert spread([]).n == 0


def test_differences_are_paired_by_seed():
    found = paired({0: 0.70, 1: 0.80, 2: 0.90, 9: 0.0}, {0: 0.69, 1: 0.78, 2: 0.87, 8: 1.0})
    assert found.n == 3
    assert found.mean == pytest.approx(0.02)
    assert found.error == pytest.approx(0.01 / math.sqrt(3))  # of 1, 2, 3 points
    # 2 points, standard error 0.577: t = 3.46, below 4.30 at two degrees of freedom.
    assert found.verdict == "not distinguishable"


def test_a_difference_beyond_the_spread_is_told_with_its_sign():
    first, second = {0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.85, 1: 0.7501, 2: 0.65}
    assert paired(first, second).verdict == "higher"
    assert paired(second, first).verdict == "lower"
    assert paired(first, first).verdict == "not distinguishable"


def test_one_seed_and_no_common_seed_are_said_plainly():
    assert paired({0: 0.9}, {0: 0.1}).verdict == "one seed"
    assert paired({0: 0.9}, {0: 0.1}).error is None
    assert paired({0: 0.9}, {1: 0.1}).verdict == "no common seed"


@pytest.mark.parametrize(
    ("degrees", "point"), [(1, 12.706), (2, 4.303), (10, 2.228), (31, 2.0395), (60, 2.0003), (10**9, 1.96)]
)  # fmt: skip
def test_student_s_t_is_the_tabled_one(degrees, point):
    assert t95(degrees) == pytest.approx(point, abs=6e-4)


def ladder(make_plan, seconds):
    """A reference of 40, 20 and 10 epochs with two seeds each."""
    plan = make_plan(
        base={"optim.epochs": 40},
        recipes={
            "full": {"selection.strategy": "full"},
            "half": {"selection.strategy": "full", "optim.epochs": 20},
            "quarter": {"selection.strategy": "full", "optim.epochs": 10},
            "margin": {"selection.strategy": "margin"},
            "other": {"selection.strategy": "full", "optim.epochs": 10, "optim.lr": 0.5},
        },
    )
    accuracy = {"full": 0.9, "half": 0.8, "quarter": 0.6, "margin": 0.85, "other": 0.99}
    cells = {}
    for name, value in accuracy.items():
        budget = 0.5 if name == "margin" else None
        for seed in (0, 1):
            key = CellKey(name, budget, seed)
            cells[key] = a_cell(key, value + 0.02 * seed, seconds[name], plan=plan)
    return group_cells(plan, cells)


SECONDS = {"full": 100.0, "half": 50.0, "quarter": 25.0, "margin": 60.0, "other": 1.0}


def test_the_reference_s_shortened_runs_are_those_that_differ_in_epochs_only(make_plan):
    groups = ladder(make_plan, SECONDS)
    assert [g.recipe.name for g in groups if g.is_reference] == ["full", "half", "quarter"]


@pytest.mark.parametrize(
    ("seconds", "first", "kind", "runs"),
    [
        (50.0, 0.8, "measured", "20 epochs in 50.0 s"),
        (50.9, 0.8, "measured", "20 epochs in 50.0 s"),
        (75.0, 0.85, "interpolated", "20 epochs in 50.0 s and 40 epochs in 100.0 s"),
        (30.0, 0.64, "interpolated", "10 epochs in 25.0 s and 20 epochs in 50.0 s"),
        (150.0, 0.9, "longest run", "40 epochs in 100.0 s"),
    ],
)
def test_what_the_reference_reaches_in_a_time_comes_from_whole_runs(
    make_plan, seconds, first, kind, runs
):
    references = [g for g in ladder(make_plan, SECONDS) if g.is_reference]
    reached = reached_in(seconds, references)
    assert reached is not None
    assert (reached.kind, reached.runs) == (kind, runs)
    assert reached.accuracy == pytest.approx({0: first, 1: first + 0.02})


def test_below_the_shortest_run_nothing_is_claimed(make_plan):
    references = [g for g in ladder(make_plan, SECONDS) if g.is_reference]
    assert reached_in(20.0, references) is None
    assert reached_in(20.0, []) is None


def test_seconds_of_a_moved_cell_and_of_other_machines_are_kept_apart(plan):
    key = CellKey("full", None, 0)
    moved = a_cell(key, plan=plan, environments=(HERE, THERE))
    assert moved.machine is None
    cells = {key: moved}
    for seed, where in ((0, HERE), (1, THERE)):
        at = CellKey("margin", 0.5, seed)
        cells[at] = a_cell(at, plan=plan, environments=(where,))
    groups = group_cells(plan, cells)
    assert sorted(machines(groups).values()) == [1, 1]
    for machine in machines(groups):
        assert sum(len(group.on(machine).cells) for group in groups) == 1
