"""Stopping in good order: the first signal asks, a second SIGINT stops at once.

SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is gone) and SIGUSR1 (Slurm's `--signal`, before a job's time is up)
ask. The handler only notes that the run shall stop; the loop looks after each step, saves and returns. As long as
there is nothing to save, while data are loaded, the first one stops at once. A signal that this process was told
to ignore, as nohup and shells' background jobs are, stays ignored.
"""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

# Windows has the first two.
SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if name in signal.Signals.__members__
)


class Interrupt:
    """Notes a request to stop. As a context manager it listens for `SIGNALS`, but for those that are ignored.

    Outside the main thread, where Python allows no handlers, only `request` asks. The previous
    handlers are back when the block is left.

    Attributes:
        nothing_to_save: as long as it is True, a signal raises `KeyboardInterrupt` where the program is, and again
            in place of an error that ends the block after it was swallowed.
    """

    def __init__(self, *, nothing_to_save: bool = False) -> None:
        self.nothing_to_save = nothing_to_save
        self._signal: signal.Signals | None = None
        self._requested = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """True once the run was asked to stop."""
        return self._requested

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that asked, if one did."""
        return self._signal

    def request(self) -> None:
        """Ask the run to stop after the current step."""
        self._requested = True

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None: a handler of another language, which could not be put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        if isinstance(error, Exception):
            self.heed(error)

    def heed(self, came_of_it: Exception | None = None) -> None:
        """Raise again what a signal raised that was to stop at once, should something have swallowed it.

        torch's own import of numpy does, and leaves half of numpy behind.

        Args:
            came_of_it: an error in its place.

        Raises:
            KeyboardInterrupt: there was such a signal.
        """
        if self.nothing_to_save and self._signal is not None:
            raise KeyboardInterrupt from came_of_it

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self._signal is not None and number == signal.SIGINT
        self._signal = self._signal or signal.Signals(number)
        self._requested = True
        if again or self.nothing_to_save:
            raise KeyboardInterrupt


class Told:
    """Notices, for the time of a block, that this process was told to end where Python heeds no signal.

    Processes meet in a store, and wait there for each other. Of two one may have been told, and have ended, before it
    came; the other one would wait until it is killed. Nothing may be forked meanwhile: it would tell of its own signals.

    Args:
        stop: what listens for signals; None: nothing is noticed.
    """

    def __init__(self, stop: Interrupt | None) -> None:
        self._stop = stop
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> None:
        if self._stop is None or threading.current_thread() is not threading.main_thread():
            return
        ends = socket.socketpair()
        for each in ends:
            each.setblocking(False)
        before = signal.set_wakeup_fd(ends[1].fileno(), warn_on_full_buffer=False)
        if before == -1:
            self._ends = ends
            return
        signal.set_wakeup_fd(before)  # of an event loop, which this program runs in
        for each in ends:
            each.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._ends is not None:
            signal.set_wakeup_fd(-1)
            for each in self._ends:
                each.close()
            self._ends = None

    def to_end(self) -> bool:
        """Whether a signal has come that ends this process, as there is nothing to save."""
        ends = self._ends
        if ends is None or self._stop is None:
            return False
        with suppress(OSError):  # nothing came, or all is over
            came = ends[0].recv(64)
            return self._stop.nothing_to_save and any(number in SIGNALS for number in came)
        return False
