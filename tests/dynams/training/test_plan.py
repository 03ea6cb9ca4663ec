"""The budget controller: predictions by hand, against the sampler, and their inverse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from dynams.selection import BudgetCurve, SubsetSampler, constant, cosine, linear, power
from dynams.training.cost import PURPOSES
from dynams.training.plan import (
    BUDGET_STEP,
    Plan,
    break_even,
    fit,
    forecast,
    predict,
    saving,
    warning,
)
from dynams.training.rates import Rates, Work, measured

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
def plans(draw: st.DrawFn) -> Plan:
    return Plan(
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
    plan = Plan(
        num_samples=1000,
        epochs=7,
        schedule=linear(0.9, 0.5),
        refresh_every=2,
        warmup_epochs=2,
        proxy_share=0.25,
        evaluate_every=3,
    )
    # After the warm-up, epochs 2, 4 and 6 refresh, at progress 0, 1/2 and 1.
    assert plan.refreshes == [2, 4, 6]
    assert plan.sizes == [1000, 1000, 900, 900, 700, 700, 500]
    assert plan.work == Work(
        trained=5700, proxy_trained=1300.0, scored=3000.0, selections=3, evaluations=3, epochs=7
    )


def test_work_with_a_tail_by_hand() -> None:
    plan = Plan(
        num_samples=1000,
        epochs=10,
        schedule=linear(0.9, 0.5),
        refresh_every=2,
        warmup_epochs=1,
        tail=0.4,
        proxy_share=0.5,
    )
    # Epochs 1 to 5 select, at progress 0, 1/2 and 1; from epoch 6 on all are trained on again.
    assert plan.refreshes == [1, 3, 5]
    assert plan.sizes == [1000, 900, 900, 700, 700, 500, 1000, 1000, 1000, 1000]
    # The last selection is that of epoch 5: from there on the proxy rests.
    assert plan.work.proxy_trained == 0.5 * 4200
    assert (plan.work.scored, plan.work.selections) == (3000, 3)


def test_seconds_by_purpose_by_hand() -> None:
    work = Work(
        trained=5700, proxy_trained=1425.0, scored=3000.0, selections=3, evaluations=3, epochs=7
    )
    prediction = predict(work, HAND)
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
    plan = Plan(100, 4, constant(0.5), refresh_every=2, proxy_share=1.0)
    cheap = Rates(training=3.0, proxy_loss=0.75, scoring=0.5, selection=0.0, evaluation=0.0)
    assert saving(plan, cheap) == pytest.approx(1 - (600 + 75 + 100) / 1200)


def test_a_holdout_model_is_paid_for_once_and_not_by_the_full_run() -> None:
    plan = Plan(100, 4, constant(0.5), holdout=True)
    assert predict(plan, HAND).seconds["holdout model"] == 30.0
    assert predict(plan.everything(), HAND).seconds["holdout model"] == 0.0
    assert "holdout model takes 30 s" in str(warning(plan, HAND))


def test_every_purpose_of_the_trainer_is_predicted() -> None:
    assert set(predict(Plan(10, 2, constant(0.5)), HAND).seconds) == {*PURPOSES, "other"}


@pytest.mark.parametrize(
    ("scoring", "selections", "scored", "proxy"),
    [("every refresh", 4, 400, 800), ("once", 1, 100, 200), ("never", 4, 0, 0)],
)
def test_what_each_way_of_scoring_costs(
    scoring: str, selections: int, scored: float, proxy: float
) -> None:
    plan = Plan(
        100, 16, constant(0.5), refresh_every=4, warmup_epochs=2, scoring=scoring, proxy_share=1.0
    )
    assert plan.work.trained == 2 * 100 + 14 * 50 == 900
    assert (plan.work.selections, plan.work.scored, plan.work.proxy_trained) == (
        selections,
        scored,
        proxy,
    )


def test_what_is_chosen_once_without_scoring_is_selected_once() -> None:
    plan = Plan(100, 16, constant(0.5), refresh_every=4, scoring="never", dynamic=False)
    assert plan.work.selections == 1
    assert replace(plan, schedule=linear(1.0, 0.5)).work.selections == 4


@given(plans())
def test_sizes_passes_and_the_proxys_samples_are_those_of_the_sampler(plan: Plan) -> None:
    strategy = {"every refresh": "margin", "once": "static-margin", "never": "random"}[plan.scoring]
    sampler = SubsetSampler(
        plan.num_samples,
        strategy,
        budget=plan.schedule,
        epochs=plan.epochs,
        refresh_every=plan.refresh_every,
        warmup_epochs=plan.warmup_epochs,
        tail=plan.tail,
    )
    everything = torch.arange(plan.num_samples)
    sizes, passes, joint = [], 0, 0
    for epoch in range(plan.epochs):
        passes += bool(sampler.wanted(epoch))
        sampler.begin_epoch(epoch, lambda: [(everything, everything.double())])
        sizes.append(len(sampler))
        joint += len(sampler) if sampler.wanted_after(epoch) else 0
    assert plan.sizes == sizes
    assert plan.work.proxy_trained == plan.proxy_share * joint
    assert plan.work.scored == plan.scored_share * plan.num_samples * passes


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
    plan = Plan(num_samples, q * blocks, constant(b), refresh_every=q, proxy_share=p)
    predicted = saving(plan, Rates.estimated(1e-3, c))
    p *= (blocks - 1) / blocks  # in the last block the proxy rests
    assert predicted == pytest.approx(1 - b * (1 + p * c) - c / (3 * q), abs=1e-6)
    gain = 3 * q * (1 - b) - (c + 3 * q * b * p * c)
    assume(abs(gain) > 1e-4 * q)
    assert (predicted > 0) == (gain > 0)


@given(plans(), rates(), budgets(), budgets())
def test_more_budget_never_costs_less(plan: Plan, rates: Rates, one: float, other: float) -> None:
    less, more = sorted([one, other])
    cheaper, dearer = plan.with_budget(less), plan.with_budget(more)
    assert all(a <= b for a, b in zip(cheaper.sizes, dearer.sizes, strict=True))
    assert predict(cheaper, rates).total <= predict(dearer, rates).total


@given(plans(), rates(), budgets())
def test_fit_inverts_predict(plan: Plan, rates: Rates, budget: float) -> None:
    wanted = predict(plan.with_budget(budget), rates)
    fitted = fit(plan, rates, seconds=wanted.total, least=BUDGET_STEP)
    assert fitted.budget >= budget - BUDGET_STEP / 2
    # A larger budget may be found only where it trains on the very same samples.
    assert fitted.plan.sizes == plan.with_budget(budget).sizes
    assert fitted.prediction.total == pytest.approx(wanted.total)


@given(plans(), rates(), st.floats(0.05, 1.5))
def test_a_fit_is_within_its_target_and_one_step_more_is_not(
    plan: Plan, rates: Rates, fraction: float
) -> None:
    target = fraction * predict(plan.everything(), rates).total
    try:
        fitted = fit(plan, rates, fraction=fraction)
    except ValueError:
        assert predict(plan.with_budget(0.01), rates).total > target
        return
    assert fitted.prediction.total <= target
    assert fitted.saving >= 1 - fraction - 1e-9
    if fitted.budget < 1.0:
        more = min(1.0, fitted.budget + BUDGET_STEP)
        assert predict(plan.with_budget(more), rates).total > target


@given(plans(), rates(), st.tuples(st.floats(0.1, 1.2), st.floats(0.1, 1.2)))
def test_a_larger_target_never_gives_a_smaller_budget(
    plan: Plan, rates: Rates, fractions: tuple[float, float]
) -> None:

    def budget(fraction: float) -> float:
        try:
            return fit(plan, rates, fraction=fraction).budget
        except ValueError:
            return 0.0

    assert budget(min(fractions)) <= budget(max(fractions))


def test_a_constant_budget_by_hand() -> None:
    # 10 epochs of 1000 at 1 ms are 10 s; two passes and 10 evaluations take 1.4 s of a target of 6.005 s.
    plan = Plan(1000, 10, constant(1.0), refresh_every=5)
    hand = Rates(training=1e-3, scoring=2e-4, selection=0.0, evaluation=0.1)
    fitted = fit(plan, hand, seconds=6.005)
    assert fitted.budget == pytest.approx(0.4604)  # 460 of 1000 samples
    assert fitted.prediction.total == pytest.approx(6.0)
    assert fitted.saving == pytest.approx(1 - 6 / 11)
    assert fitted.plan.schedule == constant(fitted.budget)
    assert not fitted.warnings


def test_the_end_of_a_schedule_by_hand() -> None:
    # Three blocks at 1, (1 + end) / 2 and end: 1.5 (1 + end) of 3 full epochs; 0.75 of them at 0.5.
    plan = Plan(1000, 3, linear(1.0, 1.0))
    hand = Rates(training=1.0, scoring=0.0, selection=0.0, evaluation=0.0)
    fitted = fit(plan, hand, fraction=0.75)
    assert fitted.budget == pytest.approx(0.5, abs=2e-3)
    assert fitted.plan.schedule.start == 1.0
    assert fitted.plan.schedule.kind == "linear"
    assert fitted.plan.sizes == [1000, 750, 500]


def test_a_target_that_no_budget_meets_is_refused_and_says_what_takes_the_time() -> None:
    plan = Plan(1000, 10, constant(0.5))
    slow = Rates(training=1e-3, scoring=1e-3, selection=0.0, evaluation=0.0)
    with pytest.raises(ValueError, match=r"seconds=5\.0 .* 10\.1 s, 10 s of them for scoring"):
        fit(plan, slow, seconds=5.0)


def test_a_plan_that_costs_more_than_it_saves_is_warned_of_by_the_purpose_that_eats_it() -> None:
    plan = Plan(1000, 10, constant(0.6), refresh_every=5, proxy_share=1.0)
    dear = Rates(training=1e-3, proxy_loss=1.6e-3, scoring=1e-4, selection=0.0, evaluation=0.0)
    text = warning(plan, dear)
    assert text is not None
    # 6 + 3 * 1.6 + 0.2 = 11 s against 10; without loss at 1.8 b + 0.02 = 1.
    assert "11 s, against 10 s" in text
    assert "proxy loss takes 4.8 s of the 5 s" in text
    assert "a budget up to 0.5444 would pay" in text
    assert saving(plan, dear) == pytest.approx(-0.1)
    assert saving(plan.with_budget(0.5444), dear) >= 0
    assert warning(plan.with_budget(0.5444), dear) is None


def test_where_no_budget_pays_the_warning_says_so() -> None:
    plan = Plan(1000, 10, constant(0.6))
    dear = Rates(training=1e-3, scoring=2e-3, selection=0.0, evaluation=0.0)
    assert break_even(plan, dear) is None
    assert "scoring takes 20 s of the 20 s that selecting costs; no budget would pay" in str(
        warning(plan, dear)
    )


def test_a_fit_above_the_full_cost_carries_the_warning() -> None:
    plan = Plan(1000, 10, constant(0.6))
    hand = Rates(training=1e-3, scoring=1e-4, selection=0.0, evaluation=0.0)
    assert fit(plan, hand, fraction=0.9).warnings == ()
    (costly,) = fit(plan, hand, fraction=1.05).warnings
    assert "scoring takes 1 s" in costly
    free = replace(hand, scoring=0.0)
    (idle,) = fit(plan, free, fraction=1.5).warnings
    assert "nothing needs to be left out" in idle


def test_a_forecast_has_the_cost_the_full_cost_and_the_warning() -> None:
    plan = Plan(1000, 10, constant(0.6))
    dear = Rates(training=1e-3, scoring=1e-3, selection=0.0, evaluation=0.0)
    found = forecast(plan, dear)
    assert (found.budget, found.prediction.total) == (0.6, pytest.approx(16.0))
    assert found.full.total == pytest.approx(10.0)
    assert found.saving == pytest.approx(-0.6)
    assert found.warnings == (warning(plan, dear),)
    assert forecast(plan, replace(dear, scoring=1e-4)).warnings == ()


@given(plans(), rates())
def test_there_is_a_warning_exactly_where_the_saving_is_negative(plan: Plan, rates: Rates) -> None:
    loss = saving(plan, rates)
    assume(abs(loss) > 1e-12)
    assert (warning(plan, rates) is not None) == (loss < 0)


def test_a_rate_that_is_missing_and_needed_is_named() -> None:
    with pytest.raises(ValueError, match=r"rates\.scoring: not measured"):
        predict(Plan(10, 2, constant(0.5)), Rates(training=1.0, selection=0.0, evaluation=0.0))
    random = Plan(10, 2, constant(0.5), scoring="never")
    assert predict(random, Rates(1.0, selection=0.0, evaluation=0.0)).total == 10.0


@given(plans(), rates())
def test_measuring_inverts_predicting(plan: Plan, rates: Rates) -> None:
    rates = replace(rates, epoch=0.0)
    prediction = predict(plan, rates)
    seconds = {name: prediction.seconds[name] for name in PURPOSES}
    again = measured(seconds, plan.work, total_seconds=prediction.total)
    assert predict(plan, again).seconds == pytest.approx(prediction.seconds, rel=1e-6, abs=1e-6)
    if plan.work.scored:
        assert again.scoring == pytest.approx(rates.scoring)
    else:
        assert again.scoring is None


@pytest.mark.parametrize(
    "target", [{}, {"seconds": 1.0, "fraction": 0.5}, {"seconds": 0.0}, {"fraction": math.nan}]
)
def test_a_target_that_is_none_is_refused(target: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^target: got"):
        fit(Plan(10, 2, constant(0.5)), HAND, **target)  # type: ignore[arg-type]


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
def test_a_plan_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got"):
        replace(Plan(10, 2, constant(0.5)), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [-1.0, math.inf, math.nan])
def test_a_rate_out_of_range_is_refused_by_name(rate: float) -> None:
    with pytest.raises(ValueError, match=r"^scoring: wanted"):
        Rates(training=1.0, scoring=rate)
