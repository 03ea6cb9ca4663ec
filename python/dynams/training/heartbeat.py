"""Where each process of a run is, told to the others every second, so that one that hangs is named.

A thread of each process writes to the store of the run how often it has done so and how far the process has come;
threads of two processes on each machine read what all write. A process hangs if its thread writes nothing any more
(it was stopped, its machine or its connection is gone), or if it stays where it is while another is further on.
Processes that are all at the same place wait for none of them: they compute.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist

from dynams.training.launched import Launched

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_INTERVAL = 1.0
_LAST_REQUEST = 5.0
# With more processes than this each writes and reads less often: the store serves as many requests a second.
_AT_ONCE = 64
# On each machine; the second notices when the first one hangs.
_READERS = 2
_PHASES = ("filter", "holdout model", "scoring", "training", "evaluation")


class RunPlace(NamedTuple):
    """How far a process has come; of two, the further one is the larger.

    Attributes:
        epoch: from 0; -1 before the first.
        phase: which part of it, the place in the order that they come in.
        done: steps or batches of that part; of a step in training its three parts.
    """

    epoch: int
    phase: int
    done: int

    def __str__(self) -> str:
        if self.phase < 0:
            return "before the first epoch"
        name = _PHASES[self.phase]
        if name == "training":
            return f"epoch {self.epoch + 1}, step {self.done // 3 + 1}"
        return f"epoch {self.epoch + 1}, batch {self.done + 1} of the {name}"


BEFORE = RunPlace(-1, -1, 0)


def place(epoch: int, phase: str, done: int = 0) -> RunPlace:
    """Name a place: ``phase`` is "filter", "holdout model", "scoring", "training" or "evaluation"."""
    return RunPlace(epoch, _PHASES.index(phase), done)


@dataclass
class _Seen:
    """What was last heard of a process, which is its number on its machine, and when that was new."""

    beats: str = ""
    number: int = 0
    place: RunPlace = BEFORE
    beaten: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)


class Heartbeat:
    """Tells where this process is and hears where the others are; to be entered.

    Args:
        here: this process.
        name: of the part of the store that this run has to itself.
        timeout: seconds after which a process hangs.
    """

    def __init__(self, here: Launched, name: str, timeout: float) -> None:
        self.timeout = timeout
        self.place = BEFORE
        self._here = here
        self._prefix = f"{name}/at"
        self._interval = min(_INTERVAL * max(1.0, here.size / _AT_ONCE), timeout / 4)
        self._reads = here.local_rank < _READERS
        self._seen = {rank: _Seen() for rank in range(here.size)}
        self._heard: float | None = None
        self._broken = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        # In the middle of a request it would abort the interpreter that ends; where nobody answers it is not waited for.
        self._thread.join(_LAST_REQUEST)

    def hung(self) -> dict[int, str]:
        """Name the processes that hang, with the place where each does; none where nothing can be heard."""
        if self._broken or not self._reads:
            return {}
        now = time.monotonic()
        if self.unanswered():  # torchrun is none of the processes
            return {} if self._here.by == "torchrun" else {0: str(self._seen[0].place)}
        furthest = max(seen.place for seen in self._seen.values())
        return {
            rank: str(seen.place)
            for rank, seen in self._seen.items()
            if seen.beats  # who has not come yet is waited for where all meet
            and (
                now - seen.beaten > self.timeout
                or (
                    seen.place != BEFORE
                    and seen.place < furthest
                    and now - seen.moved > self.timeout
                )
            )
        }

    def unanswered(self) -> bool:
        """Whether who keeps the store, the first process or torchrun, has not answered for too long."""
        if self._broken or self._heard is None:
            return False
        return time.monotonic() - self._heard > self.timeout

    def number_of(self, rank: int) -> int:
        """The number of a process on its machine; 0: it was never heard."""
        return self._seen[rank].number

    def excuse(self, seconds: float) -> None:
        """Take it that this process was stopped so long, and that the others may have been too."""
        if self._heard is not None:
            self._heard += seconds
        for seen in self._seen.values():
            seen.beaten += seconds
            seen.moved += seconds

    def _beat(self) -> None:
        here, beats = self._here, 0
        try:
            # A connection of its own: whoever waits at the other one holds it up.
            store: Store = dist.TCPStore(  # type: ignore[attr-defined]
                here.address,
                here.port,
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(days=1),
            )
            store = dist.PrefixStore(self._prefix, store)  # type: ignore[attr-defined]
            begun: list[str] = []
            while not self._over.wait(self._interval if beats else 0.0):
                beats += 1
                store.set(f"{here.rank}", " ".join(map(str, (beats, os.getpid(), *self.place))))
                if self._reads:
                    others = (str(rank) for rank in self._seen if str(rank) not in begun)
                    begun += [rank for rank in others if store.check([rank])]
                    for rank, told in zip(begun, store.multi_get(begun), strict=True):
                        self._hear(self._seen[int(rank)], told.decode())
                self._heard = time.monotonic()
        except RuntimeError:
            pass  # who keeps the store is lost, which others notice
        finally:
            self._broken = True

    def _hear(self, seen: _Seen, told: str) -> None:
        beats, number, *at = told.split()
        if beats == seen.beats:
            return
        seen.beats, seen.number, seen.beaten = beats, int(number), time.monotonic()
        if (there := RunPlace(*map(int, at))) != seen.place:
            seen.place, seen.moved = there, seen.beaten
