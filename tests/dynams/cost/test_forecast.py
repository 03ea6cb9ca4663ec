"""The budget controller: predictions by hand, against the sampler, and their inverse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dynams.cost.forecast import (
    BUDGET_STEP,
    Outline,
    break_even,
    estimate,
    fit,
    forecast,
    saving,
    warning,
)
from dynams.cost.purposes import PURPOSES
from dynams.cost.rates import Rates, Work, measured
from dynams.selection import BudgetCurve, SubsetSampler, constant, cosine, linear, power
from dynams.selection.timetable import Timetable

HAND = Rates(
    training=0.002,
    data=0.001,
    proxy_loss=0.0005,
    scoring=0.0001,
    selection=0.25,
    evaluation=0.5,
    holdout=30.0,
    epoch=0.125,
    run=2.0,
)


def outline(num_samples: int, epochs: int, schedule: BudgetCurve, **rest: Any) -> Outline:
    """An outline, its timetable's settings among the others."""
    names = ("refresh_every", "warmup_epochs", "tail")
    times = {name: rest.pop(name) for name in names if name in rest}
    return Outline(num_samples, Timetable(schedule, epochs=epochs, **times), **rest)


def budgets() -> st.SearchStrategy[float]:
    return st.integers(1, 10_000).map(lambda steps: steps * BUDGET_STEP)


@st.composite
def schedules(draw: st.DrawFn) -> BudgetCurve:
    end = draw(budgets())
    start = draw(budgets())
    return draw(
        st.sampled_from(
            [constant(end), linear(start, end), cosine(start, end), power(start, end, 2.5)]
        )
    )


@st.composite
def outlines(draw: st.DrawFn) -> Outline:
    return outline(
        num_samples=draw(st.integers(1, 3000)),
        epochs=draw(st.integers(1, 30)),
        schedule=draw(schedules()),
        refresh_every=draw(st.integers(1, 8)),
        warmup_epochs=draw(st.integers(0, 6)),
        scoring=draw(st.sampled_from(["every refresh", "once", "never"])),
        scored_share=draw(st.sampled_from([1.0, 0.5])),
        proxy_share=draw(st.sampled_from([0.0, 0.25, 1.0])),
        evaluate_every=draw(st.integers(1, 5)),
        holdout=draw(st.booleans()),
        tail=draw(st.sampled_from([0.0, 0.2, 0.9])),
    )


@st.composite
def rates(draw: st.DrawFn) -> Rates:
    second = st.floats(0.0, 10.0, allow_subnormal=False)
    names = ("data", "proxy_loss", "scoring", "selection", "evaluation", "holdout", "epoch", "run")
    return Rates(training=draw(st.floats(1e-6, 1.0)), **{name: draw(second) for name in names})


def test_work_by_hand() -> None:
    planned = outline(
        num_samples=1000,
        epochs=7,
        schedule=linear(0.9, 0.5),
        refresh_every=2,
        warmup_epochs=2,
        proxy_share=0.25,
        evaluate_every=3,
    )
    # After the warm-up, epochs 2, 4 and 6 refresh, at progress 0, 1/2 and 1.
    assert planned.timetable.refreshes == [2, 4, 6]
    assert planned.sizes == [1000, 1000, 900, 900, 700, 700, 500]
    assert planned.work == Work(
        trained=5700, proxy_trained=1300.0, scored=3000.0, selections=3, evaluations=3, epochs=7
    )


def test_work_with_a_tail_by_hand() -> None:
    planned = outline(
        num_samples=1000,
        epochs=10,
        schedule=linear(0.9, 0.5),
        refresh_every=2,
        warmup_epochs=1,
        tail=0.4,
        proxy_share=0.5,
    )
    # Epochs 1 to 5 select, at progress 0, 1/2 and 1; from epoch 6 on all are trained on again.
    assert planned.timetable.refreshes == [1, 3, 5]
    assert planned.sizes == [1000, 900, 900, 700, 700, 500, 1000, 1000, 1000, 1000]
    # The last selection is that of epoch 5: from there on the proxy rests.
    assert planned.work.proxy_trained == 0.5 * 4200
    assert (planned.work.scored, planned.work.selections) == (3000, 3)


def test_seconds_by_purpose_by_hand() -> None:
    work = Work(
        trained=5700, proxy_trained=1425.0, scored=3000.0, selections=3, evaluations=3, epochs=7
    )
    prediction = estimate(work, HAND)
    assert prediction.seconds == pytest.approx(
        {
            "training": 11.4,
            "proxy loss": 0.7125,
            "scoring": 0.3,
            "selection": 0.75,
            "data": 5.7,
            "evaluation": 1.5,
            "holdout model": 0.0,
            "other": 2.875,
        }
    )
    assert prediction.total == pytest.approx(23.2375)


def test_saving_by_hand() -> None:
    # Half of 100 samples for 4 epochs, Q = 2: 200 trainings, half of them with the proxy, and 2 passes of 100,
    # against 400 trainings.
    planned = outline(100, 4, constant(0.5), refresh_every=2, proxy_share=1.0)
    cheap = Rates(training=3.0, proxy_loss=0.75, scoring=0.5, selection=0.0, evaluation=0.0)
    assert saving(planned, cheap) == pytest.approx(1 - (600 + 75 + 100) / 1200)


def test_a_holdout_model_is_paid_for_once_and_not_by_the_full_run() -> None:
    planned = outline(100, 4, constant(0.5), holdout=True)
    assert estimate(planned, HAND).seconds["holdout model"] == 30.0
    assert estimate(planned.everything(), HAND).seconds["holdout model"] == 0.0
    assert "holdout model takes 30 s" in str(warning(planned, HAND))


def test_every_purpose_of_the_trainer_is_predicted() -> None:
    assert set(estimate(outline(10, 2, constant(0.5)), HAND).seconds) == {*PURPOSES, "other"}


@pytest.mark.parametrize(
    ("scoring", "selections", "scored", "proxy"),
    [("every refresh", 4, 400, 800), ("once", 1, 100, 200), ("never", 4, 0, 0)],
)
def test_what_each_way_of_scoring_costs(
    scoring: str, selections: int, scored: float, proxy: float
) -> None:
    planned = outline(
        100, 16, constant(0.5), refresh_every=4, warmup_epochs=2, scoring=scoring, proxy_share=1.0
    )
    assert planned.work.trained == 2 * 100 + 14 * 50 == 900
    assert (planned.work.selections, planned.work.scored, planned.work.proxy_trained) == (
        selections,
        scored,
        proxy,
    )


def test_what_is_chosen_once_without_scoring_is_selected_once() -> None:
    planned = outline(100, 16, constant(0.5), refresh_every=4, scoring="never", dynamic=False)
    assert planned.work.selections == 1
    varied = replace(planned.timetable, schedule=linear(1.0, 0.5))
    assert replace(planned, timetable=varied).work.selections == 4


@given(outlines())
def test_sizes_passes_and_the_proxys_samples_are_those_of_the_sampler(planned: Outline) -> None:
    strategy = {"every refresh": "margin", "once": "static-margin", "never": "random"}[
        planned.scoring
    ]
    sampler = SubsetSampler(
        planned.num_samples,
        strategy,
        budget=planned.schedule,
        epochs=planned.epochs,
        refresh_every=planned.timetable.refresh_every,
        warmup_epochs=planned.timetable.warmup_epochs,
        tail=planned.timetable.tail,
    )
    everything = torch.arange(planned.num_samples)
    sizes, passes, joint = [], 0, 0
    for epoch in range(planned.epochs):
        passes += bool(sampler.wanted(epoch))
        sampler.begin_epoch(epoch, lambda: [(everything, everything.double())])
        sizes.append(len(sampler))
        joint += len(sampler) if sampler.wanted_after(epoch) else 0
    assert planned.sizes == sizes
    assert planned.work.proxy_trained == planned.proxy_share * joint
    assert planned.work.scored == planned.scored_share * planned.num_samples * passes


@given(
    b=st.floats(0.01, 1.0),
    c=st.floats(0.01, 1.0),
    p=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    q=st.integers(1, 20),
    blocks=st.integers(1, 3),
)
def test_the_saving_is_positive_where_the_samplers_inequality_holds(
    b: float, c: float, p: float, q: int, blocks: int
) -> None:
    num_samples = 10**9  # so that rounding b * N does not show
    planned = outline(num_samples, q * blocks, constant(b), refresh_every=q, proxy_share=p)
    # A training step is three forward passes, and the proxy's cost c times the whole network's.
    rated = Rates(3.0, proxy_loss=3.0 * c, scoring=c, selection=0.0, evaluation=0.0)
    predicted = saving(planned, rated)
    p *= (blocks - 1) / blocks  # in the last block the proxy rests
    assert predicted == pytest.approx(1 - b * (1 + p * c) - c / (3 * q), abs=1e-6)
    gain = 3 * q * (1 - b) - (c + 3 * q * b * p * c)
    assume(abs(gain) > 1e-4 * q)
    assert (predicted > 0) == (gain > 0)


@given(outlines(), rates(), budgets(), budgets())
def test_more_budget_never_costs_less(
    planned: Outline, rates: Rates, one: float, other: float
) -> None:
    less, more = sorted([one, other])
    cheaper, dearer = planned.with_budget(less), planned.with_budget(more)
    assert all(a <= b for a, b in zip(cheaper.sizes, dearer.sizes, strict=True))
    assert estimate(cheaper, rates).total <= estimate(dearer, rates).total


@given(outlines(), rates(), budgets())
def test_fit_inverts_estimate(planned: Outline, rates: Rates, budget: float) -> None:
    wanted = estimate(planned.with_budget(budget), rates)
    fitted = fit(planned, rates, seconds=wanted.total, least=BUDGET_STEP)
    assert fitted.budget >= budget - BUDGET_STEP / 2
    # A larger budget may be found only where it trains on the very same samples.
    assert fitted.outline.sizes == planned.with_budget(budget).sizes
    assert fitted.estimate.total == pytest.approx(wanted.total)


@given(outlines(), rates(), st.floats(0.05, 1.5))
def test_a_fit_is_within_its_target_and_one_step_more_is_not(
    planned: Outline, rates: Rates, fraction: float
) -> None:
    target = fraction * estimate(planned.everything(), rates).total
    try:
        fitted = fit(planned, rates, fraction=fraction)
    except ValueError:
        assert estimate(planned.with_budget(0.01), rates).total > target
        return
    assert fitted.estimate.total <= target
    assert fitted.saving >= 1 - fraction - 1e-9
    if fitted.budget < 1.0:
        more = min(1.0, fitted.budget + BUDGET_STEP)
        assert estimate(planned.with_budget(more), rates).total > target


@given(outlines(), rates(), st.tuples(st.floats(0.1, 1.2), st.floats(0.1, 1.2)))
def test_a_larger_target_never_gives_a_smaller_budget(
    planned: Outline, rates: Rates, fractions: tuple[float, float]
) -> None:

    def budget(fraction: float) -> float:
        try:
            return fit(planned, rates, fraction=fraction).budget
        except ValueError:
            return 0.0

    assert budget(min(fractions)) <= budget(max(fractions))


def test_a_constant_budget_by_hand() -> None:
    # 10 epochs of 1000 at 1 ms are 10 s; two passes and 10 evaluations take 1.4 s of a target of 6.005 s.
    planned = outline(1000, 10, constant(1.0), refresh_every=5)
    hand = Rates(training=1e-3, scoring=2e-4, selection=0.0, evaluation=0.1)
    fitted = fit(planned, hand, seconds=6.005)
    assert fitted.budget == pytest.approx(0.4604)  # 460 of 1000 samples
    assert fitted.estimate.total == pytest.approx(6.0)
    assert fitted.saving == pytest.approx(1 - 6 / 11)
    assert fitted.outline.schedule == constant(fitted.budget)
    assert not fitted.warnings


def test_the_end_of_a_schedule_by_hand() -> None:
    # Three blocks at 1, (1 + end) / 2 and end: 1.5 (1 + end) of 3 full epochs; 0.75 of them at 0.5.
    planned = outline(1000, 3, linear(1.0, 1.0))
    hand = Rates(training=1.0, scoring=0.0, selection=0.0, evaluation=0.0)
    fitted = fit(planned, hand, fraction=0.75)
    assert fitted.budget == pytest.approx(0.5, abs=2e-3)
    assert fitted.outline.schedule.start == 1.0
    assert fitted.outline.schedule.kind == "linear"
    assert fitted.outline.sizes == [1000, 750, 500]


def test_a_target_that_no_budget_meets_is_refused_and_says_what_takes_the_time() -> None:
    planned = outline(1000, 10, constant(0.5))
    slow = Rates(training=1e-3, scoring=1e-3, selection=0.0, evaluation=0.0)
    with pytest.raises(
        ValueError, match=r"^target: got seconds=5\.0, .* 10\.1 s, 10 s of them for scoring"
    ):
        fit(planned, slow, seconds=5.0)


def test_an_outline_that_costs_more_than_it_saves_is_warned_of_by_the_purpose_that_eats_it() -> (
    None
):
    planned = outline(1000, 10, constant(0.6), refresh_every=5, proxy_share=1.0)
    dear = Rates(training=1e-3, proxy_loss=1.6e-3, scoring=1e-4, selection=0.0, evaluation=0.0)
    text = warning(planned, dear)
    assert text is not None
    # 6 + 3 * 1.6 + 0.2 = 11 s against 10; without loss at 1.8 b + 0.02 = 1.
    assert "11 s, against 10 s" in text
    assert "proxy loss takes 4.8 s of the 5 s" in text
    assert "a budget up to 0.5444 would pay" in text
    assert saving(planned, dear) == pytest.approx(-0.1)
    assert saving(planned.with_budget(0.5444), dear) >= 0
    assert warning(planned.with_budget(0.5444), dear) is None


def test_where_no_budget_pays_the_warning_says_so() -> None:
    planned = outline(1000, 10, constant(0.6))
    dear = Rates(training=1e-3, scoring=2e-3, selection=0.0, evaluation=0.0)
    assert break_even(planned, dear) is None
    assert "scoring takes 20 s of the 20 s that selecting costs; no budget would pay" in str(
        warning(planned, dear)
    )


def test_a_fit_above_the_full_cost_carries_the_warning() -> None:
    planned = outline(1000, 10, constant(0.6))
    hand = Rates(training=1e-3, scoring=1e-4, selection=0.0, evaluation=0.0)
    assert fit(planned, hand, fraction=0.9).warnings == ()
    (costly,) = fit(planned, hand, fraction=1.05).warnings
    assert "scoring takes 1 s" in costly
    free = replace(hand, scoring=0.0)
    (idle,) = fit(planned, free, fraction=1.5).warnings
    assert "nothing needs to be left out" in idle


def test_a_forecast_has_the_cost_the_full_cost_and_the_warning() -> None:
    planned = outline(1000, 10, constant(0.6))
    dear = Rates(training=1e-3, scoring=1e-3, selection=0.0, evaluation=0.0)
    found = forecast(planned, dear)
    assert (found.budget, found.estimate.total) == (0.6, pytest.approx(16.0))
    assert found.full.total == pytest.approx(10.0)
    assert found.saving == pytest.approx(-0.6)
    assert found.warnings == (warning(planned, dear),)
    assert forecast(planned, replace(dear, scoring=1e-4)).warnings == ()


@given(outlines(), rates())
def test_there_is_a_warning_exactly_where_the_saving_is_negative(
    planned: Outline, rates: Rates
) -> None:
    loss = saving(planned, rates)
    assume(abs(loss) > 1e-12)
    assert (warning(planned, rates) is not None) == (loss < 0)


def test_a_rate_that_is_missing_and_needed_is_named() -> None:
    with pytest.raises(ValueError, match=r"rates\.scoring: got None, want"):
        estimate(outline(10, 2, constant(0.5)), Rates(training=1.0, selection=0.0, evaluation=0.0))
    random = outline(10, 2, constant(0.5), scoring="never")
    assert estimate(random, Rates(1.0, selection=0.0, evaluation=0.0)).total == 10.0


@given(outlines(), rates())
def test_measuring_inverts_predicting(planned: Outline, rates: Rates) -> None:
    rates = replace(rates, epoch=0.0)
    prediction = estimate(planned, rates)
    seconds = {name: prediction.seconds[name] for name in PURPOSES}
    again = measured(seconds, planned.work, total_seconds=prediction.total)
    assert estimate(planned, again).seconds == pytest.approx(prediction.seconds, rel=1e-6, abs=1e-6)
    if planned.work.scored:
        assert again.scoring == pytest.approx(rates.scoring)
    else:
        assert again.scoring is None


@pytest.mark.parametrize(
    "target", [{}, {"seconds": 1.0, "fraction": 0.5}, {"seconds": 0.0}, {"fraction": math.nan}]
)
def test_a_target_that_is_none_is_refused(target: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^target: got"):
        fit(outline(10, 2, constant(0.5)), HAND, **target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_samples", 0),
        ("epochs", 0),
        ("refresh_every", 0),
        ("warmup_epochs", -1),
        ("proxy_share", 1.5),
        ("tail", 1.0),
        ("scored_share", math.nan),
        ("scoring", "sometimes"),
    ],
)
def test_an_outline_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got"):
        outline(**{"num_samples": 10, "epochs": 2, "schedule": constant(0.5), name: value})


def test_an_outline_needs_the_epochs_and_a_schedule_that_a_budget_makes() -> None:
    with pytest.raises(ValueError, match=r"^timetable\.epochs: got None"):
        Outline(10, Timetable(constant(0.5)))
    with pytest.raises(TypeError, match=r"^timetable\.schedule: got .*, want a BudgetCurve"):
        Outline(10, Timetable(lambda progress: 0.5, epochs=2))  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [-1.0, math.inf, math.nan])
def test_a_rate_out_of_range_is_refused_by_name(rate: float) -> None:
    with pytest.raises(ValueError, match=r"^scoring: got"):
        Rates(training=1.0, scoring=rate)
