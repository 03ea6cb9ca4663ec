"""Budget schedules: ranges, end points, monotony, formulas and refusals."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynams.selection import (
    SCHEDULE_KINDS,
    BudgetCurve,
    Schedule,
    build_schedule,
    constant,
    cosine,
    linear,
    power,
)

budgets = st.floats(1e-6, 1.0)
exponents = st.floats(0.05, 20.0)
progresses = st.floats(0.0, 1.0)
curves = st.one_of(
    st.builds(constant, budgets),
    st.builds(linear, budgets, budgets),
    st.builds(cosine, budgets, budgets),
    st.builds(power, budgets, budgets, exponents),
)


@given(curves, progresses)
@example(cosine(1.0, 0.1), 1 - 1e-9)  # its shape rounds to 1, and 1.0 + (0.1 - 1.0) < 0.1
def test_budgets_lie_between_start_and_end(curve: BudgetCurve, progress: float) -> None:
    assert min(curve.start, curve.end) <= curve(progress) <= max(curve.start, curve.end)


@given(curves)
def test_end_points_are_exact(curve: BudgetCurve) -> None:
    assert curve(0.0) == curve.start
    assert curve(1.0) == curve.end


@given(curves, progresses, progresses)
def test_budgets_move_one_way(curve: BudgetCurve, one: float, other: float) -> None:
    early, late = curve(min(one, other)), curve(max(one, other))
    slack = 1e-15  # one rounding of the cosine or the power
    if curve.start >= curve.end:
        assert early >= late - slack
    else:
        assert early <= late + slack


@given(curves, progresses)
def test_budgets_follow_the_documented_formula(curve: BudgetCurve, progress: float) -> None:
    shape = {
        "constant": 0.0,
        "linear": np.float64(progress),
        "cosine": np.sin(np.pi * progress / 2) ** 2,
        "power": np.power(progress, curve.exponent),
    }[curve.kind]
    expected = (1 - shape) * curve.start + shape * curve.end
    assert curve(progress) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(budgets, budgets, progresses)
def test_power_of_exponent_one_is_linear(start: float, end: float, progress: float) -> None:
    assert power(start, end, 1.0)(progress) == linear(start, end)(progress)


@given(curves)
def test_repr_is_the_call_that_makes_the_schedule(curve: BudgetCurve) -> None:
    names = {"constant": constant, "linear": linear, "cosine": cosine, "power": power}
    assert eval(repr(curve), names) == curve


def test_repr_reads_well() -> None:
    assert repr(power(1.0, 0.6, 2.0)) == "power(start=1.0, end=0.6, exponent=2.0)"
    assert repr(constant(0.6)) == "constant(0.6)"


def test_a_larger_exponent_keeps_more_for_longer() -> None:
    assert power(1.0, 0.2, 0.5)(0.5) < power(1.0, 0.2, 1.0)(0.5) < power(1.0, 0.2, 3.0)(0.5)


def test_schedules_are_schedules_and_numbers_are_not() -> None:
    assert isinstance(constant(0.5), Schedule)
    assert not isinstance(0.5, Schedule)


def test_schedules_are_values() -> None:
    assert linear(1.0, 0.5) == linear(1.0, 0.5)
    assert hash(linear(1.0, 0.5)) == hash(linear(1.0, 0.5))
    assert pickle.loads(pickle.dumps(power(1.0, 0.5, 2.0))) == power(1.0, 0.5, 2.0)


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.0001, math.nan, math.inf])
def test_budgets_outside_their_range_are_refused(budget: float) -> None:
    makers: list[Any] = [
        lambda: constant(budget),
        lambda: linear(budget, 0.5),
        lambda: linear(0.5, budget),
        lambda: cosine(budget, 0.5),
        lambda: power(0.5, budget, 1.0),
        lambda: build_schedule("linear", budget),
        lambda: build_schedule("linear", 0.5, start=budget),
    ]
    for make in makers:
        with pytest.raises(
            ValueError, match=r"^(budget|start|end): got .*, want a number in \(0, 1\]"
        ):
            make()


@pytest.mark.parametrize("exponent", [0.0, -1.0, math.inf, math.nan])
def test_exponents_outside_their_range_are_refused(exponent: float) -> None:
    with pytest.raises(ValueError, match=r"exponent: got .*, want a number in \(0, inf\)"):
        power(1.0, 0.6, exponent)


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_progress_outside_its_range_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match=r"progress: got .*, want a number in \[0, 1\]"):
        linear(1.0, 0.5)(progress)


def test_a_curve_of_no_known_kind_or_of_two_constants_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: got 'step', want one of constant, linear"):
        BudgetCurve("step", 1.0, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"start: got 1\.0, want 0\.5: a constant has one budget"):
        BudgetCurve("constant", 1.0, 0.5)


@pytest.mark.parametrize("kind", SCHEDULE_KINDS)
def test_a_built_schedule_ends_at_the_budget(kind: str) -> None:
    schedule = build_schedule(kind, 0.6, start=0.9, exponent=2.0)
    assert schedule.kind == kind
    assert schedule(1.0) == 0.6
    assert schedule(0.0) == (0.6 if kind == "constant" else 0.9)


def test_a_built_power_schedule_takes_the_exponent() -> None:
    assert build_schedule("power", 0.6, exponent=3.0) == power(1.0, 0.6, 3.0)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="kind: got 'exp', want one of constant, linear, cosine, power"
    ):
        build_schedule("exp", 0.6)
