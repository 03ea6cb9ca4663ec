"""Processes that heed Ctrl-C wherever the tests run: a background job's children are born to ignore it."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """Do so; what `subprocess.Popen` calls in the new process (its `preexec_fn`)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
