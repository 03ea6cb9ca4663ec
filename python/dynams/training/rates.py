"""What a unit of each kind of work takes: seconds measured in a logged run, over the work that it did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from dynams.report.records import Run
from dynams.selection.schedule import constant
from dynams.selection.timetable import Timetable
from dynams.training.cost import PURPOSES


@dataclass(frozen=True)
class Rates:
    """What one unit of each kind of work takes, in seconds; None where it was never measured.

    Attributes:
        training: a sample trained on at full width: forward, backward and its share of the update.
        data: a trained sample's loading and augmentation.
        proxy_loss: a sample that trains the proxy too, on top of `training`.
        scoring: a sample scored.
        selection: one selection.
        evaluation: one evaluation.
        holdout: one holdout model trained beforehand.
        epoch: every epoch, whatever it trains on.
        run: every run, once: loading, building, writing.

    Raises:
        ValueError: a rate is negative or not finite.
    """

    training: float
    data: float = 0.0
    proxy_loss: float | None = None
    scoring: float | None = None
    selection: float | None = None
    evaluation: float | None = None
    holdout: float | None = None
    epoch: float = 0.0
    run: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            rate = getattr(self, item.name)
            if rate is not None and not 0.0 <= rate < math.inf:
                raise ValueError(f"{item.name}: wanted seconds of at least 0, got {rate!r}")

    @classmethod
    def estimated(cls, training: float, proxy_cost: float) -> Rates:
        """Estimate all rates from one: proxy loss c * training, scoring c * training / 3, the rest free.

        A training step is taken for three forward passes. To be used where nothing was measured.

        Args:
            training: seconds a trained sample.
            proxy_cost: c, the cost of the scoring network over that of the whole one; 1 without proxy.
        """
        return cls(
            training,
            proxy_loss=proxy_cost * training,
            scoring=proxy_cost * training / 3.0,
            selection=0.0,
            evaluation=0.0,
        )


@dataclass(frozen=True)
class Work:
    """What a run does, counted.

    Attributes:
        trained: samples trained on; one counts once for every epoch.
        proxy_trained: those of them that trained the proxy too.
        scored: samples scored.
        selections: selections made.
        evaluations: evaluations on the test samples.
        epochs: epochs.
        holdouts: holdout models trained beforehand.
    """

    trained: int
    proxy_trained: float
    scored: float
    selections: int
    evaluations: int
    epochs: int
    holdouts: int = 0


def measured(
    seconds: Mapping[str, float], work: Work, *, total_seconds: float | None = None
) -> Rates:
    """Divide a run's seconds by its work: the inverse of `predict`.

    Seconds that no purpose explains count once a run, as loading and building do; a calibration of few
    epochs would otherwise blow them up.

    Args:
        seconds: by purpose, as `Cost.seconds` gives them.
        work: what was done in them.
        total_seconds: of the whole run; None: the sum of ``seconds``.

    Raises:
        ValueError: nothing was trained, or seconds were measured of a purpose that has no work.
    """
    if work.trained < 1:
        raise ValueError("work: wanted at least one trained sample to measure by, got none")
    units: dict[str, float] = {
        "training": work.trained,
        "data": work.trained,
        "proxy loss": work.proxy_trained,
        "scoring": work.scored,
        "evaluation": work.evaluations,
        "holdout model": work.holdouts,
    }

    def rate(purpose: str) -> float | None:
        spent = seconds.get(purpose, 0.0)
        if not units[purpose]:
            if spent:
                raise ValueError(
                    f"{purpose}: {spent:.4g} s were measured, but no work of that kind"
                )
            return None
        return spent / units[purpose]

    # Looking whether a selection is due is measured too, so a run without any has seconds for it.
    selection = seconds.get("selection", 0.0)
    unexplained = 0.0
    if total_seconds is not None:
        unexplained = max(0.0, total_seconds - sum(seconds.get(name, 0.0) for name in PURPOSES))
    return Rates(
        training=rate("training") or 0.0,
        data=rate("data") or 0.0,
        proxy_loss=rate("proxy loss"),
        scoring=rate("scoring"),
        selection=selection / work.selections if work.selections else None,
        evaluation=rate("evaluation"),
        holdout=rate("holdout model"),
        epoch=0.0 if work.selections or not work.epochs else selection / work.epochs,
        run=unexplained,
    )


def rates_of(run: Run, *, num_samples: int, scored_share: float = 1.0) -> Rates:
    """Measure the rates of a logged run, finished or not.

    The proxy-trained samples are those of the epochs with a proxy loss, times proxy.share / proxy.every
    of the run's configuration. Seconds outside all purposes are known of a run that ended only.

    Args:
        run: as `read_run` gives it.
        num_samples: N, the candidates of every refresh.
        scored_share: share of them that each refresh scored.

    Raises:
        ValueError: the run finished no epoch, or its records contradict each other.
    """
    seconds = dict.fromkeys(PURPOSES, 0.0)
    for epoch in run.epochs:
        for name in PURPOSES:
            seconds[name] += epoch.seconds.get(name, 0.0)
    # A scoring pass shows in its epoch's seconds: a random draw, or a static subset that is cut again
    # from old margins, has a refresh without one.
    passes = sum(1 for epoch in run.epochs if epoch.seconds.get("scoring", 0.0) > 0.0)
    joint = sum(epoch.samples for epoch in run.epochs if epoch.proxy_loss is not None)
    proxy = run.config.get("proxy", {})
    work = Work(
        trained=sum(epoch.samples for epoch in run.epochs),
        proxy_trained=joint * proxy.get("share", 1.0) / proxy.get("every", 1),
        scored=scored_share * num_samples * passes,
        selections=_selections(run),
        evaluations=sum(1 for epoch in run.epochs if epoch.accuracy is not None),
        epochs=len(run.epochs),
        holdouts=int(seconds.get("holdout model", 0.0) > 0.0),
    )
    total = None
    if run.summary is not None and run.summary.completed:
        total = run.summary.total_seconds
    return measured(seconds, work, total_seconds=total)


def _selections(run: Run) -> int:
    """Count the selections of the finished epochs: going back to all samples for a tail is none."""
    tail = run.config.get("selection", {}).get("tail", 0.0)
    epochs = run.config["optim"]["epochs"] if tail else None
    times = Timetable(constant(1.0), epochs=epochs, tail=tail)
    finished = {epoch.epoch for epoch in run.epochs}
    return sum(
        1 for each in run.refreshes if each.epoch in finished and times.phase(each.epoch) != "tail"
    )
