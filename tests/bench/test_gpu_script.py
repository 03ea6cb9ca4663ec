"""bench/gpu.sh with everything that needs a GPU replaced: what fails or is cut off never costs what comes after it, or the report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gpu import ledger

BENCH = Path(__file__).parents[2] / "bench"

FACTS = {
    "gpu": {"name": "A GPU", "capability": "9.0"},
    "torch": "2.11.0",
    "nvcc": None,
    "python_version": "3.12.3",
    "commit": {"id": "0" * 40},
    "datetime": "2026-12-01T10:00:00+00:00",
}
JUNIT = '<testsuites><testsuite name="pytest"><testcase classname="t" name="a"/></testsuite></testsuites>'
ENTRY = {
    "name": "bench_margin[native-1000-float32]",
    "stats": {"median": 1e-3},
    "extra_info": {"limit": "copy", "bytes": 1, "peers": {}},
}

# Stands in for python3: each of its uses does what a file of the test says, or succeeds; `results.py` runs in earnest.
FAKE = """\
#!/usr/bin/env bash
use() {{ [ ! -f "{folder}/$1" ] || . "{folder}/$1"; }}
echo "$*" >> "{folder}/calls"
case "$*" in
  *environment.py*) use environment; cat "{folder}/facts.json" ;;
  *results.py*) exec "{python}" "$@" ;;
  *"import json, sys"*) echo 90 ;;
  *"import xdist"*) exit 1 ;;
  *"-m pip"*) mkdir -p "${{@: -2:1}}"; use "pip-$DYNAMS_BUILD_CUDA" ;;
  *tests/kernels*) echo "tests of $DYNAMS_KERNELS_BACKEND"
    while [ $# -gt 0 ]; do [ "$1" = --junitxml ] && cp "{folder}/junit.xml" "$2"; shift; done
    use "tests-$DYNAMS_KERNELS_BACKEND" ;;
  *sanitized.py*) echo cases; use sanitized ;;
  *"dynams.cli compare"*) use compare "$@" ;;
  *bench/gpu*) use benchmarks; cat "{folder}/ledger.jsonl" >> "$DYNAMS_BENCH_LEDGER" ;;
esac
exit 0
"""
SANITIZER = """\
#!/usr/bin/env bash
while [ "$1" != --error-exitcode ]; do [ "$1" = --tool ] && tool=$2; shift; done
echo "========= ERROR SUMMARY: $tool"
[ ! -f "{folder}/$tool" ] || . "{folder}/$tool"
"""


class Script:
    """A copy of the script in a folder of its own, its surroundings faked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fakes = folder / "fakes"
        self.out = folder / "out"
        self.data: Path | None = None
        (folder / "repo").mkdir()
        self.fakes.mkdir()
        bench = folder / "repo" / "bench"
        shutil.copytree(BENCH / "gpu", bench / "gpu", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("gpu.sh", "units.py"):
            shutil.copy(BENCH / name, bench / name)
        self.fake("facts.json", json.dumps(FACTS))
        self.fake("junit.xml", JUNIT)
        done = [{"begin": "x"}, {"end": "x", "outcome": "passed", "entry": ENTRY}]
        self.fake(
            "ledger.jsonl", "".join(f"{json.dumps(e)}\n" for e in [*done, {"finished": True}])
        )
        self.executable("python3", FAKE)
        self.executable("compute-sanitizer", SANITIZER)
        self.executable("nvidia-smi", "#!/usr/bin/env bash\n")

    def fake(self, name: str, text: str) -> None:
        (self.fakes / name).write_text(textwrap.dedent(text))

    def executable(self, name: str, text: str) -> None:
        path = self.fakes / name
        path.write_text(text.format(folder=self.fakes, python=sys.executable))
        path.chmod(0o755)

    def run(self, *arguments: str, seconds: int = 500) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self.fakes}:{os.environ['PATH']}",
            "DYNAMS_GPU_SECONDS": str(seconds),
        }
        environment.pop("PYTHON", None)
        environment.pop(ledger.VARIABLE, None)
        environment.pop("DYNAMS_CIFAR10", None)
        if self.data is not None:
            environment["DYNAMS_CIFAR10"] = str(self.data)
        script = str(self.folder / "repo" / "bench" / "gpu.sh")
        return subprocess.run(
            ["bash", script, *(arguments or (str(self.out),))],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def outcomes(self) -> dict[str, str]:
        stages = json.loads((self.out / "kernels.json").read_text())["run"]["stages"]
        return {stage["stage"]: stage["outcome"] for stage in stages}

    def outcomes_of_kernels(self) -> dict[str, str]:
        """Without data there are no cells to compare."""
        outcomes = self.outcomes()
        assert outcomes.pop("compare") == "skipped"
        return outcomes

    def calls(self) -> str:
        return (self.fakes / "calls").read_text()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


STAGES = [
    "environment",
    "build",
    "tests, native",
    "tests, triton",
    "sanitizers' cases",
    "memcheck",
    "racecheck",
    "initcheck",
    "synccheck",
    "benchmarks",
]


def last_line(ran: subprocess.CompletedProcess[str]) -> str:
    return ran.stdout.strip().splitlines()[-1]


def test_a_good_run_leaves_everything_in_eight_files(script: Script) -> None:
    ran = script.run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert last_line(ran).startswith("gpu.sh: ok")
    assert script.outcomes_of_kernels() == dict.fromkeys(STAGES, "ok")
    assert sorted(path.name for path in script.out.iterdir()) == [
        "benchmarks.log",
        "build.log",
        "environment.json",
        "junit.xml",
        "kernels.json",
        "kernels.md",
        "sanitizers.log",
        "tests.log",
    ]
    report = json.loads((script.out / "kernels.json").read_text())
    assert [entry["name"] for entry in report["benchmarks"]] == [ENTRY["name"]]
    assert "margin[native-1000-float32]" in (script.out / "kernels.md").read_text()


def test_failing_tests_stop_nothing_but_the_exit_code_tells(script: Script) -> None:
    script.fake("tests-native", "exit 1\n")
    ran = script.run()
    assert ran.returncode == 1
    assert last_line(ran).startswith("gpu.sh: FAILED: tests, native failed (")
    assert script.outcomes_of_kernels() == {
        **dict.fromkeys(STAGES, "ok"),
        "tests, native": "failed",
    }


def test_a_build_that_fails_is_said_loudly_and_triton_goes_on(script: Script) -> None:
    script.fake("pip-required", "echo 'nvcc: fatal'; exit 1\n")
    ran = script.run()
    assert ran.returncode == 1
    assert "NO COMPILED CUDA KERNELS" in ran.stdout
    assert "nvcc: fatal" in (script.out / "build.log").read_text()
    assert "NO COMPILED CUDA KERNELS" in (script.out / "kernels.md").read_text()
    assert script.outcomes_of_kernels() == {**dict.fromkeys(STAGES, "ok"), "build": "failed"}


def test_where_nothing_can_be_installed_the_source_tree_is_used(script: Script) -> None:
    for name in ("pip-required", "pip-off"):
        script.fake(name, "exit 1\n")
    assert script.run().returncode == 1
    repo = script.folder / "repo"
    assert (repo / "build" / "gpu" / "path").read_text() == f"{repo}:{repo}/python\n"


def test_a_tool_that_finds_an_error_is_named(script: Script) -> None:
    script.fake("racecheck", "exit 9\n")
    ran = script.run()
    assert ran.returncode == 1
    assert "racecheck failed" in last_line(ran)
    assert script.outcomes()["memcheck"] == "ok"
    assert script.outcomes()["benchmarks"] == "ok"


def test_missing_sanitizers_are_a_line_not_a_failure(script: Script) -> None:
    (script.fakes / "compute-sanitizer").unlink()
    if shutil.which("compute-sanitizer") or Path("/usr/local/cuda/bin/compute-sanitizer").exists():
        pytest.skip("compute-sanitizer is installed here")
    ran = script.run()
    assert ran.returncode == 0
    assert "sanitizers: skipped (compute-sanitizer is not installed)" in ran.stdout


def test_benchmarks_go_on_behind_one_that_killed_its_process(script: Script) -> None:
    # The first process dies within a benchmark; the second ends well.
    script.fake(
        "benchmarks",
        """\
        if [ ! -f "$0.died" ]; then
          touch "$0.died"
          echo '{"begin": "bench/gpu/y.py::bench_deadly"}' >> "$DYNAMS_BENCH_LEDGER"
          exit 70
        fi
        """,
    )
    ran = script.run()
    assert ran.returncode == 1
    assert "benchmarks failed" in last_line(ran)
    report = json.loads((script.out / "kernels.json").read_text())
    assert [entry["name"] for entry in report["benchmarks"]] == [ENTRY["name"]]
    assert "bench_deadly" in (script.out / "kernels.md").read_text()


def test_a_run_out_of_time_still_leaves_its_report(script: Script) -> None:
    script.fake("tests-native", "echo begun; sleep 60\n")
    ran = script.run(seconds=4)
    assert ran.returncode == 1
    outcomes = script.outcomes()
    assert outcomes["build"] == "ok"
    assert outcomes["tests, native"] == "cut off"
    assert outcomes["tests, triton"] == "cut off"
    assert "benchmarks" in outcomes
    assert "begun" in (script.out / "tests.log").read_text()
    assert "| tests, native | cut off |" in (script.out / "kernels.md").read_text()


def test_without_a_gpu_it_ends_at_once_with_one_line(script: Script) -> None:
    script.fake("environment", "echo 'a warning' >&2; echo 'gpu.sh: no usable GPU' >&2; exit 2\n")
    ran = script.run()
    assert ran.returncode == 2
    assert ran.stderr == "gpu.sh: no usable GPU\n"
    assert ran.stdout == ""
    assert list(script.out.iterdir()) == []


def test_the_real_check_of_the_environment_finds_no_gpu_where_it_is_hidden(tmp_path: Path) -> None:
    ran = subprocess.run(
        ["bash", str(BENCH / "gpu.sh"), str(tmp_path / "out")],
        env={**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("gpu.sh: no usable GPU: torch")
    assert ran.stderr.count("\n") == 1


def test_one_stage_alone_uses_the_build_of_before(script: Script) -> None:
    assert script.run().returncode == 0
    (script.fakes / "calls").unlink()
    ran = script.run(str(script.out), "--stage", "benchmarks")
    assert ran.returncode == 0
    assert script.outcomes() == {"environment": "ok", "benchmarks": "ok"}
    assert "-m pip" not in script.calls()
    assert not (script.out / "tests.log").exists()


# What `dynams compare --out FOLDER --limit-seconds S` does here: a cell, the report, and one line of how far it came.
COMPARE = """\
    while [ $# -gt 0 ]; do
      case $1 in --out) to=$2 ;; --limit-seconds) limit=$2 ;; --data.path) data=$2 ;; esac
      shift
    done
    ls "$to/cells" > "{folder}/cells-before"
    echo '{{}}' > "$to/cells/new.json"
    echo "of $data" > "$to/compare.md"
    echo "1 cell in $limit s"
"""


def test_missing_cells_of_the_comparison_follow_the_benchmarks(script: Script) -> None:
    script.data = script.folder / "data"
    script.data.mkdir()
    committed = script.folder / "repo/bench/results/a-gpu/compare-cifar10/cells"
    committed.mkdir(parents=True)
    (committed / "old.json").write_text("{}")
    script.fake("compare", COMPARE.format(folder=script.fakes))
    ran = script.run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert list(script.outcomes())[-2:] == ["benchmarks", "compare"]
    assert script.outcomes()["compare"] == "ok"
    assert (script.fakes / "cells-before").read_text() == "old.json\n"
    assert {path.name for path in (script.out / "compare/cells").iterdir()} == {
        "old.json",
        "new.json",
    }
    assert (script.out / "compare/compare.md").read_text() == f"of {script.data}\n"
    limit = int((script.out / "compare.log").read_text().split()[-2])
    assert 400 < limit < 500


def test_a_comparison_that_fails_is_told_and_keeps_its_cells(script: Script) -> None:
    script.data = script.folder / "data"
    script.data.mkdir()
    script.fake("compare", COMPARE.format(folder=script.fakes) + "exit 1\n")
    ran = script.run(str(script.out), "--stage", "compare")
    assert ran.returncode == 1
    assert script.outcomes()["compare"] == "failed"
    assert (script.out / "compare/cells/new.json").exists()


def test_without_data_or_time_there_is_no_comparison(script: Script) -> None:
    assert script.run().returncode == 0
    assert script.outcomes()["compare"] == "skipped"
    script.data = script.folder / "data"
    script.data.mkdir()
    assert script.run(str(script.out), "--stage", "compare", seconds=60).returncode == 0
    assert script.outcomes()["compare"] == "skipped"
    assert "dynams.cli compare" not in script.calls()


@pytest.mark.parametrize(
    "arguments", [(), ("a", "b"), ("a", "--stage"), ("a", "--stage", "all"), ("--fast", "a")]
)
def test_wrong_arguments_are_refused_with_the_usage(
    script: Script, arguments: tuple[str, ...]
) -> None:
    ran = subprocess.run(
        ["bash", str(BENCH / "gpu.sh"), *arguments],
        cwd=script.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: bash bench/gpu.sh OUTPUT_FOLDER")
    assert not (script.folder / "a").exists()
