"""A pytest plugin (`-p gpu.outcomes`): every outcome goes to the ledger as it happens, and past the deadline nothing begins.

Under pytest-xdist the main process, which hears of every test, alone writes; the workers skip. What an earlier process of the
same suite began is not begun again, so that a process started anew goes on behind what killed the one before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from gpu import ledger

NO_TIME = "no time was left"
# The property of a report that becomes the ledger's "entry".
ENTRY = "ledger entry"


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_Deadline(frozenset(config.workerinput["begun"])))
    else:
        kept = ledger.path()
        begun = frozenset(ledger.read(kept).suite(ledger.suite()).begun if kept else ())
        config.pluginmanager.register(_Deadline(begun))
        config.pluginmanager.register(_Writer(begun))


class _Deadline:
    """Where tests run: which of them still do."""

    def __init__(self, begun: frozenset[str]) -> None:
        self._begun = begun

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        items[:] = [item for item in items if item.nodeid not in self._begun]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if time.time() > ledger.deadline():
            pytest.skip(NO_TIME)


class _Writer:
    """Where reports arrive."""

    def __init__(self, begun: frozenset[str]) -> None:
        self._begun = begun
        self._collected = False

    def _write_collected(self, count: int) -> None:
        if not self._collected:
            ledger.write_of_suite(collected=count + len(self._begun))
            self._collected = True

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._write_collected(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        self._write_collected(len(ids))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["begun"] = sorted(self._begun)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        ledger.write_of_suite(begin=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A worker that died is reported as a phase of its own, neither set-up nor tear-down.
        if report.passed and report.when in ("setup", "teardown"):
            return
        line: dict[str, Any] = {"end": report.nodeid, "outcome": report.outcome}
        if report.when == "call":
            line["seconds"] = round(report.duration, 3)
        if not report.passed:
            line["why"] = _why(report)
            if report.skipped and line["why"] == NO_TIME:
                line["outcome"] = ledger.NOT_REACHED
        properties = dict(report.user_properties)
        if ENTRY in properties:
            line["entry"] = properties[ENTRY]
        ledger.write_of_suite(**line)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.TESTS_FAILED,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            ledger.write_of_suite(finished=True)


def _why(report: pytest.TestReport) -> str:
    """What a report says, short enough for a table."""
    told: Any = report.longrepr
    if isinstance(told, tuple):  # a skip: file, line, reason
        text = str(told[2]).removeprefix("Skipped: ")
    elif hasattr(told, "reprcrash") and told.reprcrash is not None:
        text = told.reprcrash.message
    else:
        text = str(told)
    lines = text.strip().splitlines() or [""]
    return lines[0][:200]
