"""The timetable that a configuration describes. Nothing here imports torch."""

from __future__ import annotations

from dynams.selection.schedule import build_schedule
from dynams.selection.timetable import Timetable
from dynams.training.config import TrainConfig


def timetable_of(config: TrainConfig, *, budgeted: bool = True) -> Timetable:
    """Return when ``config`` selects and how much.

    Args:
        config: the whole run.
        budgeted: whether its strategy keeps as many samples as the budget says.
    """
    chosen = config.selection
    return Timetable(
        build_schedule(
            chosen.schedule, chosen.budget, start=chosen.start, exponent=chosen.exponent
        ),
        budgeted=budgeted,
        epochs=config.optim.epochs,
        refresh_every=chosen.refresh_every,
        warmup_epochs=chosen.warmup_epochs,
        tail=chosen.tail,
    )
