"""Which samples an epoch trains on: budget schedules, strategies and the sampler.

In any training loop three lines change: build a `SubsetSampler`, give it to the DataLoader, and call its
`set_epoch(epoch)` at the start of every epoch. `score_batches` scores a network's samples for it. The
names load on first use, so that knowing the strategies' names does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynams._lazy import lazy_names

if TYPE_CHECKING:
    from dynams.selection.exchange import gather_scores as gather_scores
    from dynams.selection.methods.interface import BatchSelection as BatchSelection
    from dynams.selection.methods.interface import BatchStrategy as BatchStrategy
    from dynams.selection.methods.interface import Selection as Selection
    from dynams.selection.methods.interface import Strategy as Strategy
    from dynams.selection.methods.registry import STRATEGIES as STRATEGIES
    from dynams.selection.methods.registry import build_strategy as build_strategy
    from dynams.selection.refresh import Refresh as Refresh
    from dynams.selection.sampler import SubsetSampler as SubsetSampler
    from dynams.selection.schedule import SCHEDULE_KINDS as SCHEDULE_KINDS
    from dynams.selection.schedule import BudgetCurve as BudgetCurve
    from dynams.selection.schedule import Schedule as Schedule
    from dynams.selection.schedule import build_schedule as build_schedule
    from dynams.selection.schedule import constant as constant
    from dynams.selection.schedule import cosine as cosine
    from dynams.selection.schedule import linear as linear
    from dynams.selection.schedule import power as power
    from dynams.selection.scoring import score_batches as score_batches
    from dynams.selection.shares import BatchShare as BatchShare
    from dynams.selection.shares import RankShard as RankShard
    from dynams.selection.shares import SamplerShare as SamplerShare
    from dynams.selection.signals import Signals as Signals
    from dynams.selection.states import gather_state as gather_state
    from dynams.selection.stream import StreamSelector as StreamSelector
    from dynams.selection.switches import with_switches as with_switches
    from dynams.selection.timetable import Timetable as Timetable
    from dynams.selection.timetable import selection_size as selection_size
    from dynams.selection.visits import Visits as Visits
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "exchange": "gather_scores",
            "methods.interface": "BatchSelection BatchStrategy Selection Strategy",
            "methods.registry": "STRATEGIES build_strategy",
            "refresh": "Refresh",
            "sampler": "SubsetSampler",
            "schedule": "BudgetCurve SCHEDULE_KINDS Schedule build_schedule constant cosine "
            "linear power",
            "scoring": "score_batches",
            "shares": "BatchShare RankShard SamplerShare",
            "signals": "Signals",
            "states": "gather_state",
            "stream": "StreamSelector",
            "switches": "with_switches",
            "timetable": "Timetable selection_size",
            "visits": "Visits",
        },
    )
