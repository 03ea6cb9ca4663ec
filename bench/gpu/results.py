"""Puts the pieces a run of bench/gpu.sh leaves together. Needs neither torch nor a GPU.

python bench/gpu/results.py begin FOLDER PLAN < environment.json    a new ledger, in the place of what an earlier run left
python bench/gpu/results.py stage FOLDER STAGE OUTCOME SECONDS NOTE    a stage's line in the ledger, and the page anew
python bench/gpu/results.py suite FOLDER STAGE SUITE CODE SECONDS NOTE    the same of a stage that ran a suite: its outcome, which is
                                                  printed, follows from the ledger and the exit CODE of its process
python bench/gpu/results.py page FOLDER           kernels.md, from what the ledger in FOLDER holds so far
python bench/gpu/results.py finish FOLDER         the same, and the ledger becomes kernels.json
python bench/gpu/results.py suspects FOLDER       what failed so far, a line each: "case NAME", or "test SUITE ID"
python bench/gpu/results.py finished FOLDER SUITE    exit code 0 where nothing of the suite is left to run
python bench/gpu/results.py trim LOG ...          a log of more than 4 MB keeps its beginning and its end
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpu import ledger, page, predictions

LEDGER, REPORT, PAGE = "kernels.jsonl", "kernels.json", "kernels.md"
LOGS = ("build", "cases", "tests", "benchmarks", "profile", "sanitizers", "train", *ledger.COMPARED)
HEAD_BYTES, TAIL_BYTES = 1 << 20, 3 << 20
# Under a sanitizer a test takes minutes.
MOST_SUSPECTS = 8
TEST_SUITES = ("native", "triton")


def begin(folder: Path, plan: str) -> None:
    """Begins a ledger with the machine's facts, read from standard input."""
    facts = json.loads(sys.stdin.read())
    for name in (
        LEDGER,
        REPORT,
        PAGE,
        *(f"{log}.log" for log in LOGS),
        *(f"{each}.tgz" for each in ledger.COMPARED),
    ):
        (folder / name).unlink(missing_ok=True)
    ledger.append(folder / LEDGER, {"environment": facts, "plan": plan})


def report(folder: Path) -> dict[str, Any]:
    """The run so far in pytest-benchmark's form; under "run" what that has no place for."""
    kept = ledger.read(folder / LEDGER)
    facts = dict(kept.environment)
    commit, datetime = facts.pop("commit"), facts.pop("datetime")
    run = {
        "plan": kept.plan,
        **kept.session,
        "stages": kept.stages,
        "predictions": predictions.kept(),
        "suites": {name: suite.summary() for name, suite in kept.suites.items()},
        "training": {
            part: told
            for suite in (ledger.TRAINING, *ledger.COMPARED)
            for part, told in kept.suite(suite).found.items()
        },
    }
    benchmarks = kept.suite("benchmarks").entries
    entries = benchmarks + kept.suite(ledger.TRAINING).entries
    for entry in benchmarks:  # one copy of what all of them share
        run.setdefault("ceilings", entry["extra_info"].get("ceilings"))
    return {
        "machine_info": facts,
        "commit_info": commit,
        "datetime": datetime,
        "run": run,
        "benchmarks": entries,
    }


def write_page(folder: Path) -> dict[str, Any]:
    """Writes kernels.md; the report it shows."""
    made = report(folder)
    (folder / PAGE).write_text(page.page(made))
    return made


def stage(folder: Path, name: str, outcome: str, seconds: str, note: str) -> None:
    """Adds what a stage came to."""
    line = {"stage": name, "outcome": outcome, "seconds": int(seconds), "note": note}
    ledger.append(folder / LEDGER, line)
    write_page(folder)


def suite_outcome(suite: ledger.Suite, code: int) -> str:
    """What a suite came to: ok, failed or cut off (by its deadline, or killed at its limit)."""
    told = suite.summary()
    cut = code in (124, 137)
    if told["failed"] or (code != 0 and not cut):
        return "failed"
    if told["not_reached"] or cut:
        return "cut off"
    return "ok" if told["collected"] else "failed"


def stage_of_suite(
    folder: Path, name: str, of: str, code: str, seconds: str, note: str
) -> tuple[str, str]:
    """Adds what a stage that ran a suite came to; the outcome, and the suite's counts with the note."""
    suite = ledger.read(folder / LEDGER).suite(of)
    outcome = suite_outcome(suite, int(code))
    counts = page.counts(suite.summary()) if suite.collected else f"nothing ran, exit code {code}"
    said = f"{counts}; {note}" if note else counts
    stage(folder, name, outcome, seconds, said)
    return outcome, said


def finish(folder: Path) -> None:
    """Writes kernels.md and kernels.json, which takes the ledger's place."""
    made = write_page(folder)
    (folder / REPORT).write_text(json.dumps(made, indent=1) + "\n")
    (folder / LEDGER).unlink(missing_ok=True)


def suspects(folder: Path) -> Iterator[str]:
    """Cases and tests that failed or were running when their process ended, the first few."""
    kept = ledger.read(folder / LEDGER)
    cases = kept.suite("cases")
    for name in [*cases.of("failed"), *cases.running][:MOST_SUSPECTS]:
        yield f"case {name}"
    for name in TEST_SUITES:
        suite = kept.suite(name)
        for test in [*suite.of("failed"), *suite.running][: MOST_SUSPECTS // 2]:
            yield f"test {name} {test}"


def trim(log: Path) -> None:
    """Cuts the middle out of a long log."""
    data = log.read_bytes()
    if len(data) > HEAD_BYTES + TAIL_BYTES:
        cut = f"\n[... {len(data) - HEAD_BYTES - TAIL_BYTES} bytes left out ...]\n".encode()
        log.write_bytes(data[:HEAD_BYTES] + cut + data[-TAIL_BYTES:])


def main(arguments: list[str]) -> int:
    commands: dict[tuple[str, int], Callable[..., Any]] = {
        ("begin", 1): begin,
        ("stage", 4): stage,
        ("page", 0): write_page,
        ("finish", 0): finish,
    }
    verb, named = (arguments[0], arguments[1:]) if arguments else ("", [])
    folder = Path(named[0]) if named else Path()
    if named and (verb, len(named) - 1) in commands:
        commands[verb, len(named) - 1](folder, *named[1:])
    elif verb == "suite" and len(named) == 6:
        outcome, said = stage_of_suite(folder, *named[1:])
        print(f"{outcome} ({said})")
        return 0 if outcome == "ok" else 1
    elif verb == "suspects" and len(named) == 1:
        for line in suspects(folder):
            print(line)
    elif verb == "finished" and len(named) == 2:
        return 0 if ledger.read(folder / LEDGER).suite(named[1]).finished else 1
    elif verb == "trim" and named:
        for log in map(Path, named):
            if log.exists():
                trim(log)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
