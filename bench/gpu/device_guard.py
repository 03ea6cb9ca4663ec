"""A pytest plugin for untried kernels (`-p gpu.device_guard`): one that hangs or poisons the device ends its process, not the run.

After an illegal access every later call of the process fails, and a hang would last until the stage's limit. So a process
that meets either ends at once, with the traceback on its standard error: under pytest-xdist a new worker takes over, else
bench/gpu.sh starts pytest again behind the test that failed. What is still running well past the deadline is ended likewise. Tests
of a linear head's kernel in which the cases before them died (ledger.dead_candidates) are skipped.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gpu import ledger

SECONDS_A_TEST = 60.0
SECONDS_PAST_DEADLINE = 8.0
DEAD_DEVICE = 70  # the exit code

# Standard error as it was before pytest began to capture it: what is captured is lost with the process.
_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


def _begin_limit(config: pytest.Config, seconds: float) -> None:
    # Its thread needs no interpreter lock, which a launch that hangs may hold.
    left = max(1.0, ledger.deadline() - time.time() + SECONDS_PAST_DEADLINE)
    faulthandler.dump_traceback_later(min(seconds, left), exit=True, file=config.stash[_STDERR])


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _begin_limit(item.config, SECONDS_A_TEST)
    yield
    faulthandler.cancel_dump_traceback_later()


@contextmanager
def limited(config: pytest.Config, seconds: float) -> Iterator[None]:
    """A part of a test that takes longer ends the process; after it the test has its whole time again. Nothing without this plugin."""
    if _STDERR not in config.stash:
        yield
        return
    _begin_limit(config, seconds)
    try:
        yield
    finally:
        _begin_limit(config, SECONDS_A_TEST)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in ledger.dead_candidates():
        if name in item.name:
            pytest.skip(f"a process died or hung in {name}")


def device_is_dead() -> bool:
    """Whether the process's CUDA context is beyond use."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and device_is_dead():
        told = f"\n{item.nodeid}\n{report.longreprtext}\nthe device is dead\n"
        os.write(item.config.stash[_STDERR], told.encode())
        os._exit(DEAD_DEVICE)
