"""What a unit of each kind of work takes: seconds that were measured, over the work done in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from dynams.cost.purposes import PURPOSES, TABLE


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
                raise ValueError(f"{item.name}: got {rate!r}, want seconds of at least 0")


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
    """Divide a run's seconds by its work: the inverse of `estimate`.

    Seconds that no purpose explains count once a run, as loading and building do; a calibration of few
    epochs would otherwise blow them up.

    Args:
        seconds: by purpose, as `Clock.seconds` gives them.
        work: what was done in them.
        total_seconds: of the whole run; None: the sum of ``seconds``.

    Raises:
        ValueError: nothing was trained, or seconds were measured of a purpose that has no work.
    """
    if work.trained < 1:
        raise ValueError("work.trained: got 0, want at least one sample to measure by")

    def rate(purpose: str) -> float | None:
        spent, units = seconds.get(purpose, 0.0), getattr(work, TABLE[purpose].unit)
        if not units:
            if spent:
                raise ValueError(
                    f"{purpose}: got {spent:.4g} s, want none where there was no work of that kind"
                )
            return None
        return float(spent / units)

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
