"""Progress of a run: a live bar in a terminal, one plain line an epoch anywhere else.

The bar is redrawn from inside `TrainingProgress.advance`, never from a thread of its own (a
thread holding the console's lock while a data loader forks would hang the worker), at most ten
times a second and for at most about two per cent of the run's time.

Everything fits the terminal's width, and 60 columns where there is none and COLUMNS names no other.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from dynams.packages import needs
from dynams.report.console import make_console
from dynams.report.records import EpochRecord
from dynams.report.text import (
    clock,
    count,
    duration,
    encodable,
    epoch_parts,
    filled,
    number,
    plain,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_REDRAW_SECONDS = 0.1
_REDRAW_COST = 50.0  # a redraw that took t seconds is followed by none for 50 t
_RATE_SECONDS = 5.0
_PLAIN_WIDTH = 60  # of lines that go to no terminal
_BAR_WIDTH = 4  # at least


class TrainingProgress:
    """Shows how far a run has come, how fast it goes and how long it will take. A context manager.

    Args:
        total_epochs: epochs of the whole run.
        console: a rich console; by default one on standard error.
        enabled: False shows nothing at all (as run.progress says, and every rank but the first).
        first_epoch: the epoch a resumed run starts with, from 0.
        epoch_samples: training samples that each epoch of the run will use, when known; makes
            the time left right under a changing budget. Without it all epochs count the same.
        clock_source: seconds from any fixed point; for tests.

    Raises:
        ImportError: rich is missing (and ``enabled``).
        ValueError: ``epoch_samples`` has not ``total_epochs`` entries.
    """

    def __init__(
        self,
        total_epochs: int,
        console: Console | None = None,
        enabled: bool = True,
        *,
        first_epoch: int = 0,
        epoch_samples: Sequence[int] | None = None,
        clock_source: Callable[[], float] = time.perf_counter,
    ) -> None:
        if epoch_samples is not None and len(epoch_samples) != total_epochs:
            raise ValueError(
                f"epoch_samples: got {len(epoch_samples)} entries, want one for each of "
                f"{total_epochs} epochs"
            )
        self.total_epochs = total_epochs
        self.first_epoch = first_epoch
        self._plan = [float(n) for n in epoch_samples or [1] * total_epochs]
        self._now = clock_source
        self._console = (console or make_console()) if enabled else None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._started = self._now()
        self._epoch = first_epoch
        self._phase = ""
        self._total = 0
        self._done = 0
        self._trained = 0.0
        self._loss: float | None = None
        self._owes_line = False
        self._epoch_started = self._started
        self._recent: deque[tuple[float, int]] = deque()
        self._next_redraw = 0.0

    def __enter__(self) -> TrainingProgress:
        self._started = self._epoch_started = self._now()
        if self._console is not None and _is_live(self._console):
            self._progress = _make_progress(self._console)
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._pay_line()
        if self._progress is not None:
            with self._terminal():
                self._progress.stop()
            self._progress = None
            self._task = None

    def epoch(self, epoch: int, total_samples: int, phase: str = "training") -> None:
        """Begin a phase of an epoch: ``total_samples`` samples will go through it.

        Only the phase "training" counts towards the time left; the others ("scoring",
        "evaluation") take their time within it.
        """
        if self._console is None:
            return
        now = self._now()
        self._note_training()
        if epoch != self._epoch:
            self._pay_line()
            self._epoch_started = now
            self._trained = 0.0
        self._epoch, self._phase, self._total, self._done = epoch, phase, total_samples, 0
        if phase == "training":
            self._trained, self._loss, self._owes_line = 0.0, None, True
        self._recent.clear()
        self._recent.append((now, 0))
        self._draw(now)

    def advance(self, n_samples: int, loss: float | None = None) -> None:
        """``n_samples`` more samples are through; ``loss`` only when it is on the host already."""
        if self._console is None:
            return
        self._done += n_samples
        if loss is not None:
            self._loss = loss
        if self._progress is not None:
            now = self._now()
            if now >= self._next_redraw:
                self._draw(now)

    def finish_epoch(self, record: EpochRecord) -> None:
        """Show a finished epoch as one lasting line."""
        self._owes_line = False
        if self._console is None:
            return
        self._phase, self._trained = "", 1.0
        left = "" if self._progress is not None else f"{clock(self.seconds_left())} left"
        self._print(epoch_parts(record, self.total_epochs, left), "  ")

    def note(self, text: str, *, wrap: bool = False) -> None:
        """Show lasting text, above the bar where there is one.

        Args:
            text: a line; it stays in one piece, to be searched and copied.
            wrap: break it between words instead, where it has more columns than there are.
        """
        self._print(text.split(" ") if wrap else [text], " ")

    def seconds_left(self) -> float | None:
        """Estimate of the wall-clock seconds to the end of the run; None before any training."""
        self._note_training()
        planned = self._plan[self._epoch] if self._epoch < len(self._plan) else 0.0
        finished = sum(self._plan[self.first_epoch : self._epoch]) + planned * self._trained
        samples_left = sum(self._plan[self.first_epoch :]) - finished
        if finished <= 0.0:
            return None
        return max(0.0, (self._now() - self._started) * samples_left / finished)

    def samples_per_second(self) -> float | None:
        """Samples a second over the last few seconds of this phase; None before the first."""
        now, done = self._now(), self._done
        since, first = self._recent[0] if self._recent else (now, done)
        return (done - first) / (now - since) if now > since and done > first else None

    def _note_training(self) -> None:
        if self._phase == "training" and self._total > 0:
            self._trained = min(1.0, self._done / self._total)

    def _pay_line(self) -> None:
        """The line of an epoch that nobody finished with a record."""
        if not self._owes_line or self._console is None:
            return
        self._owes_line = False
        digits = len(str(self.total_epochs))
        parts = [f"epoch {self._epoch + 1:>{digits}}/{self.total_epochs}"]
        if self._loss is not None:
            parts.append(f"loss {number(self._loss)}")
        parts.append(plain(duration(self._now() - self._epoch_started)))
        self._print(parts, "  ")

    def _print(self, parts: Sequence[str], gap: str) -> None:
        """Show parts that belong together, in lines that fit."""
        if self._console is None:
            return
        lines = encodable(filled(parts, _width(self._console), gap), self._console.encoding)
        with self._terminal():
            self._console.print(lines, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _terminal(self) -> Iterator[None]:
        """Show nothing more once the terminal is gone (SIGHUP): the run has to save yet."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._console = self._progress = self._task = None

    def _shown(self, width: int) -> tuple[str, str]:
        """What stands before the bar and behind it, as much of it as there is room for."""
        speed, seconds = self.samples_per_second(), self.seconds_left()
        epoch = f"epoch {self._epoch + 1}/{self.total_epochs}"
        where = f"{epoch} {self._phase}"
        through = f"{count(self._done)}/{count(self._total)}"
        share = f"{100 * self._done // self._total} %" if self._total else ""
        rate = f"{count(speed)} samples/s" if speed else ""
        loss = f"loss {number(self._loss)}" if self._loss is not None else ""
        time_left = f"{clock(seconds)} left" if seconds is not None else ""
        room = width - _BAR_WIDTH - 2
        for parts in (
            (through, rate, loss, time_left),
            (through, loss, time_left),
            (share, loss, time_left),
            (loss, time_left),
            (time_left,),
            (),
        ):
            shown = "  ".join(part for part in parts if part)
            if len(where) + len(shown) <= room:
                return where, shown
        return epoch[: max(room, 1)], ""

    def _draw(self, now: float) -> None:
        if self._progress is None:
            return
        while len(self._recent) > 2 and now - self._recent[1][0] > _RATE_SECONDS:
            self._recent.popleft()
        console = self._progress.console
        shown = [encodable(part, console.encoding) for part in self._shown(console.width)]
        self._recent.append((now, self._done))
        with self._terminal():
            if self._task is None:
                self._task = self._progress.add_task("", total=self._total or None, shown=shown)
            self._progress.update(
                self._task, total=self._total or None, completed=self._done, shown=shown
            )
            self._progress.refresh()
        end = self._now()
        self._next_redraw = end + max(_REDRAW_SECONDS, _REDRAW_COST * (end - now))


def _is_live(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter


def _width(console: Console) -> int:
    """Columns to fill."""
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return console.width
    return min(console.width, _PLAIN_WIDTH)


def _make_progress(console: Console) -> Progress:
    with needs("rich"):
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

    def column(place: int) -> TextColumn:
        # Cropped, if at all: an ellipsis is not in every encoding.
        fitting = Column(no_wrap=True, overflow="crop")
        return TextColumn(f"{{task.fields[shown][{place}]}}", markup=False, table_column=fitting)

    return Progress(
        column(0),
        BarColumn(bar_width=None),
        column(1),
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=True,
        expand=True,
    )
