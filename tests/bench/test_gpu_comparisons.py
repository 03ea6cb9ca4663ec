"""bench/gpu.sh's comparisons, with what needs a GPU replaced: every cell that was finished is kept, whatever ends the run."""

from __future__ import annotations

import json
import os
import signal
import tarfile
import time

import pytest
from faked_script import Script

# What `dynams compare --out FOLDER --limit-seconds S` does here: a cell, the report, and one line of how far it came.
COMPARE = """\
    while [ $# -gt 0 ]; do
      case $1 in --out) to=$2 ;; --limit-seconds) limit=$2 ;; --data.path) data=$2 ;; esac
      shift
    done
    cp "$to/cells.jsonl" "{folder}/cells-before"
    echo new >> "$to/cells.jsonl"
    echo "of $data" > "$to/compare.md"
    echo "1 cell in $limit s"
"""


# Tells what each process would have been killed after, and kills none.
LIMITS = """\
#!/usr/bin/env bash
echo "$*" >> "{folder}/limits"
shift 2
exec "$@"
"""

PLANS_OF_CELLS = pytest.mark.parametrize(
    ("plan", "preset", "committed", "seconds"),
    [("compare", "cifar10", "compare-cifar10", 525), ("record", "sprint-96", "record", 420)],
)


def compared(script: Script, plan: str) -> dict[str, str]:
    """What a comparison left, by name."""
    with tarfile.open(script.out / f"{plan}.tgz") as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {file.name: archive.extractfile(file).read().decode() for file in files}


@pytest.fixture
def data(script: Script) -> None:
    """A folder of data, which the script is told of."""
    script.data = script.folder / "data"
    script.data.mkdir()


@pytest.mark.usefixtures("data")
@PLANS_OF_CELLS
def test_a_comparison_goes_on_behind_committed_cells(
    script: Script, plan: str, preset: str, committed: str, seconds: int
) -> None:
    for machine, cells in (("a-gpu", "old\n"), ("b-gpu", "old\nolder\n")):
        folder = script.repo / "bench/results" / machine / committed
        folder.mkdir(parents=True)
        (folder / "cells.jsonl").write_text(cells)
    script.fake("comparing", COMPARE.format(folder=script.fakes))
    found = [["accuracy", 0.96, "share"]]
    told = {"end": "all data", "outcome": "passed", "seconds": 20.0, "found": found}
    script.fake_ledger({"collected": 1}, told)
    ran = script.run("--plan", plan)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert script.stages() == dict.fromkeys(["environment", "build", plan], "ok")
    assert script.notes()[plan].startswith("1 cell in ")
    assert script.calls(f"dynams.cli compare {preset} ")
    assert (script.fakes / "cells-before").read_text() == "old\nolder\n"
    left = compared(script, plan)
    assert left == {"cells.jsonl": "old\nolder\nnew\n", "compare.md": f"of {script.data}\n"}
    limit = int(script.notes()[plan].split()[-2])
    assert seconds - 125 < limit < seconds
    report = json.loads((script.out / "kernels.json").read_text())
    assert report["run"]["training"] == {"all data": {"seconds": 20.0, "found": found}}
    page = (script.out / "kernels.md").read_text()
    assert "**all data**" in page
    assert "| accuracy | 96.00 % |" in page


@pytest.mark.usefixtures("data")
@PLANS_OF_CELLS
def test_a_comparison_that_fails_is_told_and_keeps_its_cells(
    script: Script, plan: str, preset: str, committed: str, seconds: int
) -> None:
    script.fake("comparing", COMPARE.format(folder=script.fakes) + "exit 1\n")
    ran = script.run("--plan", plan)
    assert ran.returncode == 1
    assert script.stages()[plan] == "failed"
    assert compared(script, plan)["cells.jsonl"] == "new\n"


@pytest.mark.usefixtures("data")
@PLANS_OF_CELLS
def test_a_comparison_that_is_killed_has_left_the_cells_of_before(
    script: Script, plan: str, preset: str, committed: str, seconds: int
) -> None:
    hanging = 'echo $PPID > "$0.parent"; exec sleep 100\n'
    script.fake("comparing", COMPARE.format(folder=script.fakes) + hanging)
    process = script.begin("--plan", plan)
    until = time.monotonic() + 30
    left = ""
    while left != "new\n" and time.monotonic() < until:
        time.sleep(0.05)
        assert process.poll() is None
        if (script.out / f"{plan}.tgz").exists():
            left = compared(script, plan)["cells.jsonl"]
    process.kill()  # no handler runs
    process.wait()
    os.killpg(int((script.fakes / "python3.parent").read_text()), signal.SIGKILL)
    process.communicate(timeout=60)
    assert left == "new\n"


@pytest.mark.usefixtures("data")
def test_a_comparison_whose_process_dies_goes_on_as_long_as_cells_come(script: Script) -> None:
    died = 'wc -l < "$to/cells.jsonl" >> "$0.runs"; [ $(wc -l < "$0.runs") -ge 3 ] || exit 139\n'
    script.fake("comparing", COMPARE.format(folder=script.fakes) + died)
    ran = script.run("--plan", "record")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert script.stages()["record"] == "ok"
    assert compared(script, "record")["cells.jsonl"] == "new\n" * 3


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(("code", "runs"), [(139, 2), (2, 1)])
def test_a_comparison_whose_processes_die_for_good_ends(
    script: Script, code: int, runs: int
) -> None:
    first = COMPARE.format(folder=script.fakes).replace(
        "echo new", '[ -s "$to/cells.jsonl" ] || echo new'
    )
    script.fake("comparing", first + f"exit {code}\n")
    assert script.run("--plan", "record").returncode == 1
    assert script.stages()["record"] == "failed"
    assert len(script.calls("dynams.cli compare")) == runs


@pytest.mark.usefixtures("data")
def test_a_comparison_that_is_cut_off_leaves_time_to_tell_of_its_cells(script: Script) -> None:
    script.executable("timeout", LIMITS)
    script.fake("comparing", COMPARE.format(folder=script.fakes))
    assert script.run("--plan", "record").returncode == 0
    limits = (script.fakes / "limits").read_text().splitlines()
    [most] = [int(line.split()[1]) for line in limits if "dynams.cli compare" in line]
    # Ten seconds were kept behind it.
    told = int(script.notes()["record"].split()[-2])
    assert told <= most <= told + 4


def test_without_data_nothing_is_compiled_for_a_comparison(script: Script) -> None:
    assert script.run("--plan", "record").returncode == 0
    assert script.stages() == {"environment": "ok", "record": "skipped"}
    assert script.notes()["record"] == "DYNAMS_CIFAR10 names no folder"
    assert script.calls("builds.py make") == []


def test_without_data_or_time_there_is_no_comparison(script: Script) -> None:
    assert script.run("--plan", "compare").returncode == 0
    assert script.stages()["compare"] == "skipped"
    script.data = script.folder / "data"
    script.data.mkdir()
    assert script.run("--plan", "compare", seconds=60).returncode == 0
    assert script.stages()["compare"] == "skipped"
    assert script.calls("dynams.cli compare") == []
