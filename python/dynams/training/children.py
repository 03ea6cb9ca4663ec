"""Processes that a run starts for itself: the same command once more for each further device."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from datetime import timedelta

import torch.distributed as dist

from dynams.training.launched import own_mark

# Others may take so long, loading data for all of them, before they come to a meeting.
MEETING = timedelta(minutes=30)
# Seconds that they have to end when this process does, after an error and without one.
_GRACE = 2.5
_PATIENCE = 30.0


class Children:
    """Processes that this one started, of the same command, one for each further device.

    Attributes:
        store: where all of them meet.
        failed: the run that they were started for came to an error here.
    """

    def __init__(self, size: int) -> None:
        command = _command(size)
        self.failed = False
        self.store = dist.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=MEETING
        )
        self._started = [
            subprocess.Popen(command, env={**os.environ, **own_mark(rank, size, self.store.port)})
            for rank in range(1, size)
        ]
        atexit.register(self._end)

    def failure(self) -> str | None:
        """Name one that came to a bad end, if any did."""
        for rank, process in enumerate(self._started, start=1):
            if process.poll():
                return told_end(rank, process.returncode)
        return None

    def ended(self, ranks: Collection[int]) -> set[int]:
        """Tell which of ``ranks`` are no more."""
        return {rank for rank in ranks if self._started[rank - 1].poll() is not None}

    def wait_for(self, rank: int) -> int | None:
        """Return the exit status of one that ends now; None: it does not."""
        try:
            return self._started[rank - 1].wait(1.0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End those that are left."""
        for process in self._started:
            process.kill()

    def _end(self) -> None:
        """Wait for them, so that none stays behind."""
        end = time.monotonic() + (_GRACE if self.failed else _PATIENCE)
        try:
            for process in self._started:
                process.wait(max(0.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.kill()


def told_end(rank: int, code: int | None) -> str:
    """Say how a process ended.

    Args:
        rank: of the process.
        code: its exit status, that of a signal negative; None: nobody can tell.
    """
    if code is None:
        return f"process {rank} is gone"
    if code < 0:
        known = {each.value: each.name for each in signal.Signals}
        return f"process {rank} was killed by {known.get(-code, f'signal {-code}')}"
    return f"process {rank} ended with status {code}"


def _command(size: int) -> list[str]:
    """The command of this process, to be run once more.

    Raises:
        ValueError: there is none: it is a session.
    """
    import __main__

    spec = getattr(__main__, "__spec__", None)
    if spec is not None:
        return [sys.executable, "-m", spec.name, *sys.argv[1:]]
    if not hasattr(__main__, "__file__"):
        raise ValueError(
            f"run.devices: got {size} in a session, want 1, or a script: it is run once more for each further device"
        )
    return [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
