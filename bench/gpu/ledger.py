"""What each benchmark did, written the moment it is known: a run that dies, hangs or is cut off keeps all it had measured.

One JSON object a line: {"begin": id}, {"end": id, "outcome": ..., "why": ..., "entry": ...} with pytest-benchmark's entry,
{"session": {...}} with facts of the process, {"finished": true} once nothing is left to run; and from bench/gpu.sh
{"stage": name, "outcome": ..., "seconds": ..., "note": ...} and {"tests": summary of one backend's}.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The environment variable that names the ledger's file.
VARIABLE = "DYNAMS_BENCH_LEDGER"


def path() -> Path | None:
    """The ledger of this run, if one is kept."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def write(line: dict[str, Any]) -> None:
    """Appends a line to the ledger of this run, if one is kept."""
    ledger = path()
    if ledger is not None:
        with ledger.open("a") as file:
            file.write(json.dumps(line, default=str) + "\n")


@dataclass
class Ledger:
    """A ledger read back."""

    begun: list[str] = field(default_factory=list)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    stages: list[dict[str, Any]] = field(default_factory=list)
    tests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What was measured, in the order it was."""
        return [line["entry"] for line in self.ended.values() if line.get("entry")]

    @property
    def failures(self) -> dict[str, str]:
        """Why a benchmark that was begun has no result."""
        why = {
            name: line.get("why") or "failed"
            for name, line in self.ended.items()
            if line["outcome"] == "failed"
        }
        for name in self.begun:
            if name not in self.ended:
                why[name] = "the process died, hung or was stopped here"
        return why

    @property
    def skipped(self) -> dict[str, str]:
        """Why a benchmark was not begun."""
        return {
            name: line.get("why") or "skipped"
            for name, line in self.ended.items()
            if line["outcome"] == "skipped"
        }


def read(ledger: Path) -> Ledger:
    """The ledger so far; a last line cut off in the middle is passed over."""
    found = Ledger()
    if not ledger.exists():
        return found
    for text in ledger.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if "begin" in line:
            found.begun.append(line["begin"])
        elif "end" in line:
            found.ended[line["end"]] = line
        elif "session" in line:
            found.session.update(line["session"])
        elif "stage" in line:
            found.stages.append(line)
        elif "tests" in line:
            found.tests.append(line["tests"])
        elif "finished" in line:
            found.finished = True
    return found
