"""Which samples an epoch trains on: budget schedules, strategies and the margin sampler.

In any training loop three lines change: build the sampler, give it to the DataLoader, and call
`sampler.begin_epoch(epoch, score)` at the start of every epoch.
"""

from __future__ import annotations

from dynams.selection.sampler import MarginSampler, Refresh
from dynams.selection.schedule import (
    SCHEDULE_KINDS,
    BudgetCurve,
    Schedule,
    build_schedule,
    constant,
    cosine,
    linear,
    power,
)
from dynams.selection.scoring import score_batches
from dynams.selection.strategy import STRATEGIES, Strategy, selection_size

__all__ = [
    "SCHEDULE_KINDS",
    "STRATEGIES",
    "BudgetCurve",
    "MarginSampler",
    "Refresh",
    "Schedule",
    "Strategy",
    "build_schedule",
    "constant",
    "cosine",
    "linear",
    "power",
    "score_batches",
    "selection_size",
]
