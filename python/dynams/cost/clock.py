"""Where the time goes: seconds and samples by purpose, measured without slowing what is measured.

The clock keeps a timeline of marks; the time between two marks belongs to the purpose that was current.
Purposes nest: the inner one pauses the outer one, so no second counts twice. On the host a mark is
a clock reading. On CUDA it is an event on the current stream, read once the GPU has passed it, so
measuring never makes the host wait; only `Clock.lap` does, once an epoch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch

from dynams.cost.purposes import PURPOSES

# What an interval counts for: purposes with their shares, which add up to 1.
_Parts = dict[str, float]


class Event(Protocol):
    """What is used of `torch.cuda.Event` (with timing enabled)."""

    def record(self) -> None:
        """Put the event into the device's queue."""

    def query(self) -> bool:
        """Tell whether the device has passed it."""

    def synchronize(self) -> None:
        """Wait until the device has passed it."""

    def elapsed_time(self, end_event: Any, /) -> float:
        """Return the milliseconds from this event to ``end_event``."""


class Clock:
    """Counts seconds and samples by purpose.

    Args:
        device: device whose time is measured: by events on CUDA, by the host's clock elsewhere.
        new_event: makes an event; by default `torch.cuda.Event` on CUDA and none elsewhere.
    """

    def __init__(
        self, device: torch.device | str = "cpu", *, new_event: Callable[[], Event] | None = None
    ) -> None:
        if new_event is None and torch.device(device).type == "cuda":
            new_event = _cuda_event
        self._timeline: _HostTimeline | _EventTimeline = (
            _HostTimeline() if new_event is None else _EventTimeline(new_event)
        )
        self._stack: list[_Parts] = []
        self._samples: dict[str, int] = dict.fromkeys(PURPOSES, 0)
        self._earlier: dict[str, float] = dict.fromkeys(PURPOSES, 0.0)
        self._at_last_lap: dict[str, float] = dict.fromkeys(PURPOSES, 0.0)

    @contextmanager
    def measure(
        self, purpose: str, samples: int = 0, *, of_which: Mapping[str, float] | None = None
    ) -> Iterator[None]:
        """Count the time inside the block, and ``samples``, for ``purpose``.

        Args:
            purpose: one of `PURPOSES`.
            samples: samples handled in the block.
            of_which: shares in [0, 1] of the block's time that other purposes are to bear, where
                an estimate must stand for a measurement.

        Raises:
            ValueError: a purpose is not one of `PURPOSES`.
        """
        _check(purpose)
        for other in of_which or ():
            _check(other)
        self._samples[purpose] += samples
        parts = dict(of_which or {})
        parts[purpose] = parts.get(purpose, 0.0) + 1.0 - sum(parts.values())
        self._stack.append(parts)
        self._timeline.mark(parts)
        try:
            yield
        finally:
            self._stack.pop()
            self._timeline.mark(self._stack[-1] if self._stack else None)

    def count(self, purpose: str, samples: int) -> None:
        """Count ``samples`` for ``purpose``, no time.

        Raises:
            ValueError: ``purpose`` is not one of `PURPOSES`.
        """
        _check(purpose)
        self._samples[purpose] += samples

    def switch(self, purpose: str) -> None:
        """From here on the innermost block counts for ``purpose`` instead.

        For a boundary inside a computation that no block can follow, such as a backward pass.

        Raises:
            ValueError: ``purpose`` is not one of `PURPOSES`.
            RuntimeError: nothing is being measured.
        """
        _check(purpose)
        if not self._stack:
            raise RuntimeError("switch: nothing is being measured; call it inside measure()")
        self._stack[-1] = {purpose: 1.0}
        self._timeline.mark(self._stack[-1])

    @property
    def samples(self) -> dict[str, int]:
        """Samples by purpose."""
        return dict(self._samples)

    def seconds(self) -> dict[str, float]:
        """Seconds by purpose, of the whole run. On CUDA the host waits for the last mark."""
        measured = self._timeline.seconds()
        return {name: self._earlier[name] + measured.get(name, 0.0) for name in PURPOSES}

    def lap(self) -> dict[str, float]:
        """Seconds by purpose since the last lap. On CUDA the host waits for the last mark."""
        now = self.seconds()
        passed = {name: now[name] - self._at_last_lap[name] for name in PURPOSES}
        self._at_last_lap = now
        return passed

    def state_dict(self) -> dict[str, dict[str, float] | dict[str, int]]:
        """Return the counts so far, for a checkpoint."""
        return {
            "seconds": self.seconds(),
            "samples": self.samples,
            "at_last_lap": dict(self._at_last_lap),
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on counting from what `state_dict` gave."""
        measured = self._timeline.seconds()
        for name in PURPOSES:
            self._earlier[name] = float(state["seconds"][name]) - measured.get(name, 0.0)
            self._samples[name] = int(state["samples"][name])
            self._at_last_lap[name] = float(state["at_last_lap"][name])


class _HostTimeline:
    """Marks by the host's clock, added up as they come."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._current: _Parts | None = None
        self._since = 0.0

    def mark(self, parts: _Parts | None) -> None:
        now = time.perf_counter()
        if self._current is not None:
            _add(self._seconds, self._current, now - self._since)
        self._current, self._since = parts, now

    def seconds(self) -> dict[str, float]:
        self.mark(self._current)
        return dict(self._seconds)


class _EventTimeline:
    """Marks by events, added up once the device has passed them."""

    # With fewer than this the host does not even ask whether the device has passed any.
    _PENDING = 64

    def __init__(self, new_event: Callable[[], Event]) -> None:
        self._new_event = new_event
        self._seconds: dict[str, float] = {}
        self._marks: deque[tuple[Event, _Parts | None]] = deque()

    def mark(self, parts: _Parts | None) -> None:
        event = self._new_event()
        event.record()
        self._marks.append((event, parts))
        if len(self._marks) > self._PENDING:
            self._add_up()

    def seconds(self) -> dict[str, float]:
        if self._marks:
            self.mark(self._marks[-1][1])
            self._marks[-1][0].synchronize()
            self._add_up()
        return dict(self._seconds)

    def _add_up(self) -> None:
        while len(self._marks) > 1 and self._marks[1][0].query():
            event, parts = self._marks.popleft()
            if parts is not None:
                _add(self._seconds, parts, event.elapsed_time(self._marks[0][0]) / 1e3)


def _add(seconds: dict[str, float], parts: _Parts, passed: float) -> None:
    for purpose, share in parts.items():
        seconds[purpose] = seconds.get(purpose, 0.0) + share * passed


def _cuda_event() -> Event:
    make = cast(Callable[..., Event], torch.cuda.Event)
    return make(enable_timing=True)


def _check(purpose: str) -> None:
    if purpose not in PURPOSES:
        raise ValueError(f"purpose: got {purpose!r}, want one of {', '.join(PURPOSES)}")
