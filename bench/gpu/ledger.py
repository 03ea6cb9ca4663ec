"""What a run of bench/gpu.sh did, written the moment it is known: a run that dies, hangs or is cut off keeps all it had.

One JSON object a line, each written by one call that appends, so that several processes may write and a kill loses nothing:

{"environment": {...}, "plan": name}                the machine, first of all
{"stage": name, "outcome": ..., "seconds": ..., "note": ...}
{"suite": s, "collected": n}                        how many tests, benchmarks or cases there are
{"suite": s, "begin": id}                           one begins
{"suite": s, "end": id, "outcome": passed | failed | skipped | not reached, "why": ..., "entry": ...}
                                                    and ends; `entry` is pytest-benchmark's, `found` a training's; `seconds`
{"suite": s, "finished": true}                      nothing of the suite is left to run
{"session": {...}}                                  facts of a benchmarks' process

Suites are "cases" (sanitized.py), "native" and "triton" (the tests, by backend), "benchmarks", "candidates" (what the benchmarks tried
of a linear head's kernels, see candidates.py), "train" (trained.py), "compare" and
"record" (recipes, see record.py), and the sanitizers by name.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Environment variables: the ledger's file, the suite that a process runs, and when it must begin nothing more (epoch seconds).
FILE = "DYNAMS_GPU_LEDGER"
SUITE = "DYNAMS_GPU_SUITE"
DEADLINE = "DYNAMS_GPU_DEADLINE"

NOT_REACHED = "not reached"
# How many of the slowest a report names.
SLOWEST = 100
CASES, CANDIDATES, TRAINING = "cases", "candidates", "train"
COMPARED = ("compare", "record")


def path() -> Path | None:
    """The ledger of this run, if one is kept."""
    named = os.environ.get(FILE)
    return Path(named) if named else None


def suite() -> str:
    """The suite that this process runs."""
    return os.environ.get(SUITE, "tests")


def deadline() -> float:
    """When, in seconds since the epoch, this process must begin nothing more."""
    return float(os.environ.get(DEADLINE, "inf"))


def append(ledger: Path, line: dict[str, Any]) -> None:
    """Appends a line to a ledger."""
    data = (json.dumps(line, default=str) + "\n").encode()
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def write(line: dict[str, Any]) -> None:
    """Appends a line to the ledger of this run, if one is kept."""
    ledger = path()
    if ledger is not None:
        append(ledger, line)


def write_of_suite(**line: Any) -> None:
    """The same, of the suite that this process runs."""
    write({"suite": suite(), **line})


@dataclass
class Suite:
    """Tests, benchmarks or cases that belong together."""

    collected: int = 0
    begun: list[str] = field(default_factory=list)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: bool = False

    def add(self, line: dict[str, Any]) -> None:
        """Takes in a line of the suite."""
        if "begin" in line:
            self.begun.append(line["begin"])
        elif "end" in line:
            # What failed stays failed, also where only its tear-down did.
            if self.ended.get(line["end"], {}).get("outcome") != "failed":
                self.ended[line["end"]] = line
        elif "collected" in line:
            # A process that goes on behind another one collects what is left.
            self.collected = max(self.collected, line["collected"])
        elif "finished" in line:
            self.finished = True

    def of(self, outcome: str) -> dict[str, str]:
        """Why, by name, of those with an outcome."""
        return {
            name: line.get("why") or ""
            for name, line in self.ended.items()
            if line["outcome"] == outcome
        }

    @property
    def running(self) -> list[str]:
        """Those that began and did not end: their process died, hung or was stopped there."""
        return [name for name in self.begun if name not in self.ended]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What was measured, in the order it was."""
        return [line["entry"] for line in self.ended.values() if line.get("entry")]

    @property
    def found(self) -> dict[str, dict[str, Any]]:
        """What parts found, and their seconds, by name."""
        return {
            name: {"seconds": line["seconds"], "found": line["found"]}
            for name, line in self.ended.items()
            if line.get("found")
        }

    def summary(self) -> dict[str, Any]:
        """Every outcome as a report keeps it: those passed as counts a function, the others by name."""
        counts = {word: len(self.of(word)) for word in ("passed", "failed", "skipped")}
        passed: dict[str, int] = {}
        for name in self.of("passed"):
            function = name.partition("[")[0]
            passed[function] = passed.get(function, 0) + 1
        total = max(self.collected, len(self.ended))
        return {
            "collected": total,
            **counts,
            "not_reached": total - sum(counts.values()),
            # Cases are run by several processes, of which none knows that it is the last.
            "finished": self.finished or len(self.ended) == total > 0,
            "passed_by_function": passed,
            "failing": self.of("failed"),
            "skipping": self.of("skipped"),
            "running": self.running,
            "slowest": self.slowest(),
        }

    def slowest(self) -> dict[str, float]:
        """Seconds of what took the longest, the longest first."""
        known = {name: line["seconds"] for name, line in self.ended.items() if "seconds" in line}
        order = sorted(known, key=known.__getitem__, reverse=True)
        return {name: known[name] for name in order[:SLOWEST]}


@dataclass
class Ledger:
    """A ledger read back."""

    environment: dict[str, Any] = field(default_factory=dict)
    plan: str = ""
    session: dict[str, Any] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    suites: dict[str, Suite] = field(default_factory=dict)

    def suite(self, name: str) -> Suite:
        """A suite by name; an empty one where nothing is known of it."""
        return self.suites.get(name, Suite())


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
        if "suite" in line:
            found.suites.setdefault(line["suite"], Suite()).add(line)
        elif "stage" in line:
            found.stages.append(line)
        elif "session" in line:
            found.session.update(line["session"])
        elif "environment" in line:
            found.environment, found.plan = line["environment"], line.get("plan", "")
    return found


def trial(candidate: str, what: str) -> str:
    """What a trial of a linear head's kernel, or a case of it, is called."""
    return f"{candidate}: {what}"


def dead_candidates() -> frozenset[str]:
    """The linear head's kernels in which a process of this run died or hung: called again, they would cost the next one too.

    Of cases only the kernels for Hopper count: one of Triton may have been compiling when the time of the cases ended.
    """
    kept = path()
    if kept is None:
        return frozenset()
    found = read(kept)
    fatal = found.suite(CANDIDATES).running
    fatal += [case for case in found.suite(CASES).running if case.startswith("hopper")]
    return frozenset(what.partition(": ")[0] for what in fatal)
