"""Puts the pieces a run of bench/gpu.sh leaves together. Needs neither torch nor a GPU.

python bench/gpu/results.py page FOLDER           kernels.md, from what the ledger in FOLDER holds so far
python bench/gpu/results.py finish FOLDER         the same, and the ledger becomes kernels.json
python bench/gpu/results.py tests FOLDER BACKEND JUNIT.xml     one backend's tests into the ledger and into junit.xml
python bench/gpu/results.py trim LOG ...          a log of more than 4 MB keeps its beginning and its end
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpu import ledger, page

LEDGER = "kernels.jsonl"
HEAD_BYTES, TAIL_BYTES = 1 << 20, 3 << 20
MOST_FAILING = 60


def report(folder: Path) -> dict[str, Any]:
    """The run so far in pytest-benchmark's form; under "run" what that has no place for."""
    kept = ledger.read(folder / LEDGER)
    facts = json.loads((folder / "environment.json").read_text())
    commit, datetime = facts.pop("commit"), facts.pop("datetime")
    run = {
        **kept.session,
        "failures": kept.failures,
        "skipped": kept.skipped,
        "stages": kept.stages,
        "tests": kept.tests,
    }
    for entry in kept.entries:  # one copy of what all of them share
        run.setdefault("ceilings", entry["extra_info"].get("ceilings"))
    return {
        "machine_info": facts,
        "commit_info": commit,
        "datetime": datetime,
        "run": run,
        "benchmarks": kept.entries,
    }


def write_page(folder: Path) -> dict[str, Any]:
    """Writes kernels.md; the report it shows."""
    made = report(folder)
    (folder / "kernels.md").write_text(page.page(made))
    return made


def finish(folder: Path) -> None:
    """Writes kernels.md and kernels.json, which takes the ledger's place."""
    made = write_page(folder)
    (folder / "kernels.json").write_text(json.dumps(made, indent=1) + "\n")
    (folder / LEDGER).unlink(missing_ok=True)


def suite_summary(backend: str, suites: ET.Element) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, and the names of those that failed."""
    failing, counts = [], {"passed": 0, "failed": 0, "skipped": 0}
    for case in suites.iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "skipped" if "skipped" in tags else "passed"
        if tags & {"failure", "error"}:
            outcome = "failed"
            failing.append(f"{case.get('classname')}::{case.get('name')}")
        counts[outcome] += 1
    more = len(failing) - MOST_FAILING
    if more > 0:
        failing[MOST_FAILING:] = [f"and {more} more"]
    return {"backend": backend, **counts, "failing": failing}


def add_tests(folder: Path, backend: str, junit: Path) -> None:
    """Adds the suites of one backend to junit.xml, named after it, and their summary to the ledger."""
    suites = ET.parse(junit).getroot()
    merged_path = folder / "junit.xml"
    merged = ET.parse(merged_path).getroot() if merged_path.exists() else ET.Element("testsuites")
    for suite in suites.iter("testsuite"):
        suite.set("name", backend)
        suite.attrib.pop("hostname", None)
        merged.append(suite)
    ET.ElementTree(merged).write(merged_path, encoding="utf-8", xml_declaration=True)
    with (folder / LEDGER).open("a") as file:
        file.write(json.dumps({"tests": suite_summary(backend, suites)}) + "\n")


def trim(log: Path) -> None:
    """Cuts the middle out of a long log."""
    data = log.read_bytes()
    if len(data) > HEAD_BYTES + TAIL_BYTES:
        cut = f"\n[... {len(data) - HEAD_BYTES - TAIL_BYTES} bytes left out ...]\n".encode()
        log.write_bytes(data[:HEAD_BYTES] + cut + data[-TAIL_BYTES:])


def main(arguments: list[str]) -> int:
    if len(arguments) == 2 and arguments[0] == "page":
        write_page(Path(arguments[1]))
    elif len(arguments) == 2 and arguments[0] == "finish":
        finish(Path(arguments[1]))
    elif len(arguments) == 4 and arguments[0] == "tests":
        add_tests(Path(arguments[1]), arguments[2], Path(arguments[3]))
    elif len(arguments) >= 2 and arguments[0] == "trim":
        for log in map(Path, arguments[1:]):
            trim(log)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
