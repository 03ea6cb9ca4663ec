"""A training run looked at from outside: when it asks whether to stop, what it selects, and where it waits for the device.

The loop asks after every step, every batch scored and every epoch; nothing of it is replaced.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynams.selection import Signals
from dynams.training import Interrupt
from dynams.training.run import TrainingRun


@dataclass(frozen=True)
class Window:
    """Questions between which every wait for the device is noted.

    Attributes:
        name: what happens there.
        refresh: number of the refresh they follow, from 0.
        first: the question, from 1, behind which it begins; 0: at the refresh itself, before the selection is made.
        last: the question at which it ends.
    """

    name: str
    refresh: int
    first: int
    last: int


@dataclass
class Waits:
    """Waits for the device, by the line of Python that called for them."""

    places: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.places.values())

    def words(self) -> str:
        """How many, and where."""
        where = ", ".join(f"{place} x {count}" for place, count in self.places.items())
        return f"{self.count}{f' ({where})' if where else ''}"


class Watch(Interrupt):
    """Takes the time of every question, and asks the run to stop at one of them.

    Args:
        stop_at: that question, from 1; None: never.
        windows: where waits are noted; one after the other. Nothing is noted without CUDA.
        score: the score that is selected by: the smallest must be selected, ties by their place, at every refresh; None:
            selections are not looked at.
        timed: the refresh whose epoch is timed, and whose selection is therefore not looked at.
    """

    def __init__(
        self,
        stop_at: int | None = None,
        windows: tuple[Window, ...] = (),
        score: str | None = None,
        timed: int | None = None,
    ) -> None:
        super().__init__()
        self.times: list[float] = []
        self.refreshes: list[int] = []
        self.waits: dict[str, Waits] = {}
        self.checked = 0
        self._stop_at = stop_at
        self._windows = windows
        self._score = score
        self._timed = timed
        self._pending: tuple[TrainingRun, np.ndarray[Any, Any]] | None = None
        self._noting: tuple[Window, Callable[[], Waits]] | None = None

    @property
    def requested(self) -> bool:
        """Asked by the loop."""
        self.times.append(time.perf_counter())
        self._end_window()
        if self._pending is not None:
            _check_selection(*self._pending)
            self.checked += 1
            self._pending = None
        self._begin_window()
        return len(self.times) == self._stop_at

    def refreshed(self, run: TrainingRun, signals: Signals) -> None:
        """Told by the loop, after scoring and before the selection is made."""
        self.refreshes.append(len(self.times))
        self._end_window()
        if self._score is not None and len(self.refreshes) - 1 != self._timed:
            scores = signals.score(self._score).float().cpu().numpy()
            self._pending = (run, scores)
        self._begin_window()

    def close(self) -> None:
        """Notes nothing more, wherever the run ended."""
        if self._noting is not None:
            self._noting[1]()
            self._noting = None

    def host_seconds(self, refresh: int) -> float:
        """The host's seconds of a step, of the second to fourth after a refresh: the device's queue is not full yet."""
        times = self.times[self.refreshes[refresh] :][:4]
        return min(after - before for before, after in pairwise(times))

    def wall_seconds(self, refresh: int, steps: int) -> float:
        """Seconds from step to step of the epoch that a refresh began."""
        first = self.refreshes[refresh]
        return (self.times[first + steps - 1] - self.times[first]) / (steps - 1)

    def _place(self) -> tuple[int, int]:
        """The last refresh, and the questions since."""
        since = len(self.times) - self.refreshes[-1] if self.refreshes else 0
        return len(self.refreshes) - 1, since

    def _end_window(self) -> None:
        if self._noting is not None:
            window, end = self._noting
            if self._place() >= (window.refresh, window.last):
                self.waits[window.name] = end()
                self._noting = None

    def _begin_window(self) -> None:
        if not torch.cuda.is_available():
            return
        for window in self._windows:
            if self._place() == (window.refresh, window.first):
                self._noting = (window, _note_waits())


def _check_selection(run: TrainingRun, scores: np.ndarray[Any, Any]) -> None:
    selected = run.sampler.indices.cpu().numpy()
    wanted = np.sort(np.argsort(scores, kind="stable")[: len(selected)])
    if not np.array_equal(selected, wanted):
        wrong = len(np.setdiff1d(selected, wanted))
        raise AssertionError(
            f"selection: {wrong} of {len(selected)} are not among the smallest scores"
        )


def _note_waits() -> Callable[[], Waits]:
    """Notes every wait for the device until the function returned is called."""
    caught = warnings.catch_warnings(record=True)
    seen = caught.__enter__()
    warnings.simplefilter("always")
    torch.cuda.set_sync_debug_mode("warn")

    def end() -> Waits:
        torch.cuda.set_sync_debug_mode("default")
        caught.__exit__(None, None, None)
        places = Counter(
            f"{'/'.join(Path(each.filename).parts[-2:])}:{each.lineno}"
            for each in seen or ()
            if "called a synchronizing CUDA operation" in str(each.message)
        )
        return Waits(dict(places))

    return end
