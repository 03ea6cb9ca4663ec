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

The work follows from the outline alone, so an estimate is arithmetic. More budget never means less work:
`fit` finds the largest budget within a target by bisection. With constant budget b, Q epochs a
selection, share p of the samples training a proxy of relative cost c, no warm-up and nothing else
that costs (a training step being three forward passes), the saving is 1 - b (1 + p c) - c / (3 Q): it
is positive exactly where the inequality of `Margin` holds. The proxy rests once no selection is
to come, so that of the samples of B blocks at most the share (B - 1) / B trains it.

    rates = measured(seconds, work)  # of a run that was timed, by purpose; total_seconds beside them
    times = Timetable(constant(0.6), epochs=200, refresh_every=5)
    fitted = fit(Outline(50_000, times, proxy_share=1.0), rates, fraction=0.5)
    fitted.budget, fitted.estimate.seconds, fitted.warnings
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from dynams.checks import at_least, interval, one_of
from dynams.cost.purposes import OTHER, OVERHEADS, TABLE
from dynams.cost.rates import Rates, Work
from dynams.selection.schedule import BudgetCurve, build_schedule, constant
from dynams.selection.timetable import Timetable

Scoring = Literal["every refresh", "once", "never"]

# Fitted budgets are multiples of this: finer ones would differ by less than times can be measured.
BUDGET_STEP = 1e-4


@dataclass(frozen=True)
class Outline:
    """The numbers of a configuration that its cost depends on.

    Attributes:
        num_samples: N.
        timetable: when selections are due and how large they are, over a known number of epochs.
        scoring: "every refresh" (margin and its like), "once" (static), or "never" (random).
        scored_share: share of the samples that a refresh scores; below 1 where others are known.
        proxy_share: share of the trained samples that train the proxy too: proxy.share / proxy.every
            with a proxy, 0 without. It counts as long as a scoring is to come.
        evaluate_every: epochs from one evaluation to the next; the last epoch has one in any case.
        holdout: whether a holdout model is trained beforehand.
        dynamic: select anew in every block; False, or scoring "once": only where the budget changes.
        full_steps: an epoch trains on a multiple of so many samples, and leaves out the rest.

    Raises:
        ValueError: a number is out of range, or the epochs are not known.
        TypeError: the schedule is none of `build_schedule`.
    """

    num_samples: int
    timetable: Timetable
    scoring: Scoring = "every refresh"
    scored_share: float = 1.0
    proxy_share: float = 0.0
    evaluate_every: int = 1
    holdout: bool = False
    dynamic: bool = True
    full_steps: int = 1

    def __post_init__(self) -> None:
        at_least("num_samples", self.num_samples, 1)
        at_least("evaluate_every", self.evaluate_every, 1)
        at_least("full_steps", self.full_steps, 1)
        one_of("scoring", self.scoring, get_args(Scoring))
        interval("scored_share", self.scored_share, "[0, 1]")
        interval("proxy_share", self.proxy_share, "[0, 1]")
        if self.timetable.epochs is None:
            raise ValueError("timetable.epochs: got None, want the length of the run")
        if not isinstance(self.timetable.schedule, BudgetCurve):
            came = type(self.timetable.schedule).__name__
            raise TypeError(f"timetable.schedule: got {came}, want a BudgetCurve")

    @property
    def epochs(self) -> int:
        """The epochs of the run, warm-up included."""
        assert self.timetable.epochs is not None
        return self.timetable.epochs

    @property
    def schedule(self) -> BudgetCurve:
        """The budget over the epochs between warm-up and tail."""
        assert isinstance(self.timetable.schedule, BudgetCurve)
        return self.timetable.schedule

    @property
    def sizes(self) -> list[int]:
        """The samples that each epoch trains on."""
        planned = self.timetable.planned_sizes(self.num_samples)
        return [size - size % self.full_steps for size in planned]

    @property
    def work(self) -> Work:
        """The work it is.

        A subset chosen once that follows a schedule counts as selected anew in every block, also in one
        whose size does not differ: so the work grows with the budget without exception.
        """
        sizes, refreshes = self.sizes, self.timetable.refreshes
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

    def everything(self) -> Outline:
        """Return the outline of the same epochs on all samples, without selection or proxy."""
        return replace(
            self,
            timetable=replace(
                self.timetable, schedule=constant(1.0), warmup_epochs=self.epochs, tail=0.0
            ),
            scoring="never",
            proxy_share=0.0,
            holdout=False,
        )

    def with_budget(self, budget: float) -> Outline:
        """Return the outline whose schedule ends at ``budget``, and for a constant begins there too."""
        old = self.schedule
        new = build_schedule(old.kind, budget, start=old.start, exponent=old.exponent)
        return replace(self, timetable=replace(self.timetable, schedule=new))


@dataclass(frozen=True)
class Estimate:
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
    """An outline, what it will cost, and what all samples would.

    Attributes:
        outline: the outline; of `fit`, with the budget found.
        estimate: its cost.
        full: the cost of the same epochs on all samples.
        warnings: what speaks against it, a sentence each.
    """

    outline: Outline
    estimate: Estimate
    full: Estimate
    warnings: tuple[str, ...]

    @property
    def budget(self) -> float:
        """The budget: constant, or where the schedule ends."""
        return self.outline.schedule.end

    @property
    def saving(self) -> float:
        """The fraction of the full run's seconds that is saved; negative where it costs more."""
        return _saving(self.estimate, self.full)


def estimate(outline: Outline | Work, rates: Rates) -> Estimate:
    """Predict seconds by purpose: rate times work.

    Raises:
        ValueError: there is work of a kind whose rate was never measured; the message names it.
    """
    work = outline.work if isinstance(outline, Outline) else outline

    def cost(purpose: str) -> float:
        name, units = TABLE[purpose].rate, getattr(work, TABLE[purpose].unit)
        rate = getattr(rates, name)
        if rate is None and units:
            raise ValueError(
                f"rates.{name}: got None, want what was measured: there is work of that kind"
            )
        return float((rate or 0.0) * units)

    other = rates.epoch * work.epochs + rates.run
    return Estimate({**{purpose: cost(purpose) for purpose in TABLE}, OTHER: other})


def saving(outline: Outline, rates: Rates) -> float:
    """Predict the saving, 1 - total / total of the same epochs on all samples; negative for a loss.

    Raises:
        ValueError: as `estimate`.
    """
    return _saving(estimate(outline, rates), estimate(outline.everything(), rates))


def forecast(outline: Outline, rates: Rates) -> Forecast:
    """Predict the outline's cost beside that of all samples, with a warning where selecting does not pay.

    Raises:
        ValueError: as `estimate`.
    """
    text = warning(outline, rates)
    return Forecast(
        outline,
        estimate(outline, rates),
        estimate(outline.everything(), rates),
        () if text is None else (text,),
    )


def fit(
    outline: Outline,
    rates: Rates,
    *,
    seconds: float | None = None,
    fraction: float | None = None,
    least: float = 0.01,
) -> Forecast:
    """Find the largest budget whose predicted cost is within a target.

    The budget is the constant one, or the end of the outline's schedule, whose start and shape stay. It
    is a multiple of `BUDGET_STEP` (or `least` itself), and its estimate never exceeds the target.

    Args:
        outline: everything but the budget, whose present value does not matter.
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
    full = estimate(outline.everything(), rates)
    target = seconds if seconds is not None else (fraction or 0.0) * full.total
    given = f"seconds={seconds!r}" if seconds is not None else f"fraction={fraction!r}"
    if not 0.0 < target < math.inf:
        raise ValueError(f"target: got {given}, want a positive time")
    budget = _largest_within(outline, rates, target, least)
    if budget is None:
        cheapest = estimate(outline.with_budget(least), rates)
        most = max(cheapest.seconds, key=cheapest.seconds.__getitem__)
        raise ValueError(
            f"target: got {given}, {target:.4g} s, want at least {cheapest.total:.4g} s, "
            f"{cheapest.seconds[most]:.4g} s of them for {most}: a budget of {least:g} takes that"
        )
    found = forecast(outline.with_budget(budget), rates)
    if not found.warnings and budget == 1.0 and found.estimate.total < target:
        idle = (
            f"all samples take {found.estimate.total:.4g} s of the {target:.4g} s: "
            "nothing needs to be left out"
        )
        return replace(found, warnings=(idle,))
    return found


def break_even(outline: Outline, rates: Rates) -> float | None:
    """Return the largest budget, in steps of `BUDGET_STEP`, that loses no time; None if every one does.

    Raises:
        ValueError: as `estimate`.
    """
    return _largest_within(outline, rates, estimate(outline.everything(), rates).total, BUDGET_STEP)


def warning(outline: Outline, rates: Rates) -> str | None:
    """Say that the outline costs more than the same epochs on all samples, and why; None where it saves.

    Raises:
        ValueError: as `estimate`.
    """
    expected, full = estimate(outline, rates), estimate(outline.everything(), rates)
    if expected.total <= full.total:
        return None
    overhead = {name: expected.seconds[name] for name in OVERHEADS}
    most = max(overhead, key=overhead.__getitem__)
    saved = sum(full.seconds[name] - expected.seconds[name] for name in ("training", "data"))
    even = break_even(outline, rates)
    remedy = "no budget would pay" if even is None else f"a budget up to {even:g} would pay"
    return (
        f"selection costs more than it saves: {expected.total:.4g} s, against {full.total:.4g} s on all "
        f"samples. Training on fewer saves {saved:.4g} s, and {most} takes {overhead[most]:.4g} s of the "
        f"{sum(overhead.values()):.4g} s that selecting costs; {remedy}"
    )


def _saving(expected: Estimate, full: Estimate) -> float:
    if full.total == 0.0:
        return 0.0 if expected.total == 0.0 else -math.inf
    return 1.0 - expected.total / full.total


def _largest_within(outline: Outline, rates: Rates, target: float, least: float) -> float | None:
    """The largest multiple of `BUDGET_STEP`, or `least`, that costs at most the target."""

    def affordable(budget: float) -> bool:
        return estimate(outline.with_budget(budget), rates).total <= target

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
