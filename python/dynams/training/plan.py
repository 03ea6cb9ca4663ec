"""The budget that fits a time: what a run will cost by purpose, and the inverse of that.

A run's cost is linear in its work, `total = sum over purposes of rate * work`:

    training    seconds a trained sample        * samples trained, summed over the epochs
    data        seconds a trained sample        * the same
    proxy loss  seconds a proxy-trained sample  * those of them that train the proxy too
    scoring     seconds a scored sample         * samples scored, summed over the refreshes
    selection   seconds a selection             * selections
    evaluation  seconds an evaluation           * evaluations
    holdout model  seconds a model              * models
    other       seconds an epoch * epochs + seconds a run

The work follows from the plan alone, so a prediction is arithmetic. More budget never means less work:
`fit` finds the largest budget within a target by bisection. With constant budget b, Q epochs a
selection, share p of the samples training a proxy of relative cost c, no warm-up and nothing else
that costs (a training step being three forward passes), the saving is 1 - b (1 + p c) - c / (3 Q): it
is positive exactly where the inequality of `Margin` holds. The proxy rests once no selection is
to come, so that of the samples of B blocks at most the share (B - 1) / B trains it.

    rates = rates_of(read_run(calibration), num_samples=50_000)
    fitted = fit(Plan(50_000, 200, constant(0.6), refresh_every=5, proxy_share=1.0), rates, fraction=0.5)
    fitted.budget, fitted.prediction.seconds, fitted.warnings
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from dynams.checks import at_least, interval, one_of
from dynams.selection.schedule import BudgetCurve, build_schedule, constant
from dynams.selection.timetable import Timetable
from dynams.training.rates import Rates, Work

Scoring = Literal["every refresh", "once", "never"]

OTHER = "other"
# The purposes that training on everything does not have.
OVERHEADS = ("proxy loss", "scoring", "selection", "holdout model")
# Fitted budgets are multiples of this: finer ones would differ by less than times can be measured.
BUDGET_STEP = 1e-4


@dataclass(frozen=True)
class Plan:
    """The numbers of a configuration that its cost depends on.

    Attributes:
        num_samples: N.
        epochs: E, warm-up included.
        schedule: the budget over the epochs between warm-up and tail.
        refresh_every: Q, epochs that train on one selection.
        warmup_epochs: first epochs, on all samples.
        scoring: "every refresh" (margin and its like), "once" (static), or "never" (random).
        scored_share: share of the samples that a refresh scores; below 1 where others are known.
        proxy_share: share of the trained samples that train the proxy too: proxy.share / proxy.every
            with a proxy, 0 without. It counts as long as a scoring is to come.
        evaluate_every: epochs from one evaluation to the next; the last epoch has one in any case.
        holdout: whether a holdout model is trained beforehand.
        tail: fraction of the epochs, at the end, on all samples.
        dynamic: select anew in every block; False, or scoring "once": only where the budget changes.

    Raises:
        ValueError: a number is out of range.
    """

    num_samples: int
    epochs: int
    schedule: BudgetCurve
    refresh_every: int = 1
    warmup_epochs: int = 0
    scoring: Scoring = "every refresh"
    scored_share: float = 1.0
    proxy_share: float = 0.0
    evaluate_every: int = 1
    holdout: bool = False
    tail: float = 0.0
    dynamic: bool = True

    def __post_init__(self) -> None:
        at_least("num_samples", self.num_samples, 1)
        at_least("evaluate_every", self.evaluate_every, 1)
        one_of("scoring", self.scoring, get_args(Scoring))
        interval("scored_share", self.scored_share, "[0, 1]")
        interval("proxy_share", self.proxy_share, "[0, 1]")
        _ = self._timetable  # refuses the rest

    @property
    def refreshes(self) -> list[int]:
        """The epochs that begin a block of `refresh_every` epochs, ascending."""
        return self._timetable.refreshes

    @property
    def sizes(self) -> list[int]:
        """The samples that each epoch trains on."""
        return self._timetable.planned_sizes(self.num_samples)

    @property
    def work(self) -> Work:
        """The work it is.

        A subset chosen once that follows a schedule counts as selected anew in every block, also in one
        whose size does not differ: so the work grows with the budget without exception.
        """
        sizes, refreshes = self.sizes, self.refreshes
        scorings = {
            "every refresh": refreshes,
            "once": refreshes[:1],
            "never": [],
        }[self.scoring]
        selections = len(refreshes)
        if (self.scoring == "once" or not self.dynamic) and self.schedule.kind == "constant":
            selections = min(selections, 1)
        joint = sum(sizes[: scorings[-1]]) if scorings else 0
        return Work(
            trained=sum(sizes),
            proxy_trained=self.proxy_share * joint,
            scored=self.scored_share * self.num_samples * len(scorings),
            selections=selections,
            evaluations=-(-self.epochs // self.evaluate_every),
            epochs=self.epochs,
            holdouts=int(self.holdout),
        )

    def everything(self) -> Plan:
        """Return the plan of the same epochs on all samples, without selection or proxy."""
        return replace(
            self,
            schedule=constant(1.0),
            warmup_epochs=self.epochs,
            scoring="never",
            proxy_share=0.0,
            holdout=False,
        )

    def with_budget(self, budget: float) -> Plan:
        """Return the plan whose schedule ends at ``budget``, and for a constant begins there too."""
        old = self.schedule
        new = build_schedule(old.kind, budget, start=old.start, exponent=old.exponent)
        return replace(self, schedule=new)

    @property
    def _timetable(self) -> Timetable:
        return Timetable(
            self.schedule,
            epochs=self.epochs,
            refresh_every=self.refresh_every,
            warmup_epochs=self.warmup_epochs,
            tail=self.tail,
        )


@dataclass(frozen=True)
class Prediction:
    """What a run will cost.

    Attributes:
        seconds: by purpose: `PURPOSES` and "other".
    """

    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return math.fsum(self.seconds.values())


@dataclass(frozen=True)
class Forecast:
    """A plan, what it will cost, and what all samples would.

    Attributes:
        plan: the plan; of `fit`, with the budget found.
        prediction: its cost.
        full: the cost of the same epochs on all samples.
        warnings: what speaks against it, a sentence each.
    """

    plan: Plan
    prediction: Prediction
    full: Prediction
    warnings: tuple[str, ...]

    @property
    def budget(self) -> float:
        """The budget: constant, or where the schedule ends."""
        return self.plan.schedule.end

    @property
    def saving(self) -> float:
        """The fraction of the full run's seconds that is saved; negative where it costs more."""
        return _saving(self.prediction, self.full)


def predict(plan: Plan | Work, rates: Rates) -> Prediction:
    """Predict seconds by purpose: rate times work.

    Raises:
        ValueError: there is work of a kind whose rate was never measured; the message names it.
    """
    work = plan.work if isinstance(plan, Plan) else plan

    def cost(name: str, rate: float | None, units: float) -> float:
        if rate is None and units:
            raise ValueError(f"rates.{name}: not measured, and the plan needs it")
        return (rate or 0.0) * units

    return Prediction(
        {
            "training": rates.training * work.trained,
            "proxy loss": cost("proxy_loss", rates.proxy_loss, work.proxy_trained),
            "scoring": cost("scoring", rates.scoring, work.scored),
            "selection": cost("selection", rates.selection, work.selections),
            "data": rates.data * work.trained,
            "evaluation": cost("evaluation", rates.evaluation, work.evaluations),
            "holdout model": cost("holdout", rates.holdout, work.holdouts),
            OTHER: rates.epoch * work.epochs + rates.run,
        }
    )


def saving(plan: Plan, rates: Rates) -> float:
    """Predict the saving, 1 - total / total of the same epochs on all samples; negative for a loss.

    Raises:
        ValueError: as `predict`.
    """
    return _saving(predict(plan, rates), predict(plan.everything(), rates))


def forecast(plan: Plan, rates: Rates) -> Forecast:
    """Predict the plan's cost beside that of all samples, with a warning where selecting does not pay.

    Raises:
        ValueError: as `predict`.
    """
    text = warning(plan, rates)
    return Forecast(
        plan,
        predict(plan, rates),
        predict(plan.everything(), rates),
        () if text is None else (text,),
    )


def fit(
    plan: Plan,
    rates: Rates,
    *,
    seconds: float | None = None,
    fraction: float | None = None,
    least: float = 0.01,
) -> Forecast:
    """Find the largest budget whose predicted cost is within a target.

    The budget is the constant one, or the end of the plan's schedule, whose start and shape stay. It
    is a multiple of `BUDGET_STEP` (or `least` itself), and its prediction never exceeds the target.

    Args:
        plan: everything but the budget, whose present value does not matter.
        rates: what a unit of each kind of work takes.
        seconds: the target, everything counted; either this or ``fraction``.
        fraction: the target over the cost of the same epochs on all samples.
        least: smallest budget worth training with, in (0, 1].

    Raises:
        ValueError: none or both of the targets are given, one is not positive and finite, ``least`` is
            out of range, a rate is missing, or the target cannot be met even with ``least``: the
            message says what that would take, and which purpose takes most of it.
    """
    if (seconds is None) == (fraction is None):
        came = "neither" if seconds is None else "both"
        raise ValueError(f"target: got {came}, want either seconds or fraction")
    interval("least", least, "(0, 1]")
    full = predict(plan.everything(), rates)
    target = seconds if seconds is not None else (fraction or 0.0) * full.total
    given = f"seconds={seconds!r}" if seconds is not None else f"fraction={fraction!r}"
    if not 0.0 < target < math.inf:
        raise ValueError(f"target: got {given}, want a positive time")
    budget = _largest_within(plan, rates, target, least)
    if budget is None:
        cheapest = predict(plan.with_budget(least), rates)
        most = max(cheapest.seconds, key=cheapest.seconds.__getitem__)
        raise ValueError(
            f"target: {given} is {target:.4g} s, but even a budget of {least:g} takes "
            f"{cheapest.total:.4g} s, {cheapest.seconds[most]:.4g} s of them for {most}"
        )
    found = forecast(plan.with_budget(budget), rates)
    if not found.warnings and budget == 1.0 and found.prediction.total < target:
        idle = (
            f"all samples take {found.prediction.total:.4g} s of the {target:.4g} s: "
            "nothing needs to be left out"
        )
        return replace(found, warnings=(idle,))
    return found


def break_even(plan: Plan, rates: Rates) -> float | None:
    """Return the largest budget, in steps of `BUDGET_STEP`, that loses no time; None if every one does.

    Raises:
        ValueError: as `predict`.
    """
    return _largest_within(plan, rates, predict(plan.everything(), rates).total, BUDGET_STEP)


def warning(plan: Plan, rates: Rates) -> str | None:
    """Say that the plan costs more than the same epochs on all samples, and why; None where it saves.

    Raises:
        ValueError: as `predict`.
    """
    prediction, full = predict(plan, rates), predict(plan.everything(), rates)
    if prediction.total <= full.total:
        return None
    overhead = {name: prediction.seconds[name] for name in OVERHEADS}
    most = max(overhead, key=overhead.__getitem__)
    left_out = sum(full.seconds[name] - prediction.seconds[name] for name in ("training", "data"))
    even = break_even(plan, rates)
    remedy = "no budget would pay" if even is None else f"a budget up to {even:g} would pay"
    return (
        f"selection costs more than it saves: {prediction.total:.4g} s, against {full.total:.4g} s on all "
        f"samples. Training on fewer saves {left_out:.4g} s, and {most} takes {overhead[most]:.4g} s of the "
        f"{sum(overhead.values()):.4g} s that selecting costs; {remedy}"
    )


def _saving(prediction: Prediction, full: Prediction) -> float:
    if full.total == 0.0:
        return 0.0 if prediction.total == 0.0 else -math.inf
    return 1.0 - prediction.total / full.total


def _largest_within(plan: Plan, rates: Rates, target: float, least: float) -> float | None:
    """The largest multiple of `BUDGET_STEP`, or `least`, that costs at most the target."""

    def affordable(budget: float) -> bool:
        return predict(plan.with_budget(budget), rates).total <= target

    if not affordable(least):
        return None
    steps = round(1.0 / BUDGET_STEP)
    # Invariant: `low` steps are affordable or not above `least`; `high` steps and more are not.
    low, high = math.floor(least * steps), steps + 1
    while high - low > 1:
        middle = (low + high) // 2
        if affordable(middle / steps):
            low = middle
        else:
            high = middle
    return max(least, low / steps)
