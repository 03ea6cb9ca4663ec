"""Which samples an epoch trains on: budget schedules, strategies and the sampler.

In any training loop three lines change: build a `SubsetSampler`, give it to the DataLoader, and call its
`set_epoch(epoch)` at the start of every epoch. `score_batches` scores a network's samples for it. The
names load on first use, so that knowing the strategies' names does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynams.selection.methods.interface import BatchStrategy, Selection, Strategy
    from dynams.selection.methods.registry import STRATEGIES, build_strategy
    from dynams.selection.refresh import Refresh
    from dynams.selection.sampler import SubsetSampler
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
    from dynams.selection.signals import Signals
    from dynams.selection.switches import with_switches
    from dynams.selection.timetable import Timetable, selection_size

__all__ = [
    "SCHEDULE_KINDS",
    "STRATEGIES",
    "BatchStrategy",
    "BudgetCurve",
    "Refresh",
    "Schedule",
    "Selection",
    "Signals",
    "Strategy",
    "SubsetSampler",
    "Timetable",
    "build_schedule",
    "build_strategy",
    "constant",
    "cosine",
    "linear",
    "power",
    "score_batches",
    "selection_size",
    "with_switches",
]

_MODULES = {
    "refresh": ("Refresh",),
    "sampler": ("SubsetSampler",),
    "schedule": (
        "SCHEDULE_KINDS",
        "BudgetCurve",
        "Schedule",
        "build_schedule",
        "constant",
        "cosine",
        "linear",
        "power",
    ),
    "scoring": ("score_batches",),
    "methods.interface": ("BatchStrategy", "Selection", "Strategy"),
    "methods.registry": ("STRATEGIES", "build_strategy"),
    "signals": ("Signals",),
    "switches": ("with_switches",),
    "timetable": ("Timetable", "selection_size"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
