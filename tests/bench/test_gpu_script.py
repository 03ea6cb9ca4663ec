"""bench/gpu.sh with everything that needs a GPU replaced: what fails or is cut off never costs what comes after it, or the report."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpu import builds, ledger

BENCH = Path(__file__).parents[2] / "bench"

FACTS = {
    "gpu": {"name": "A GPU", "capability": "9.0"},
    "torch": "2.11.0",
    "nvcc": None,
    "python_version": "3.12.3",
    "commit": {"id": "0" * 40},
    "datetime": "2026-12-01T10:00:00+00:00",
}
ENTRY = {
    "name": "bench_margin[native-1000-float32]",
    "stats": {"median": 1e-3},
    "extra_info": {"limit": "copy", "bytes": 1, "peers": {}},
}

# Stands in for python3: each of its uses does what a file of the test says, or succeeds. What needs neither torch nor a GPU
# runs in earnest, the compilation with a setup.py of the test's.
FAKE = """\
#!/usr/bin/env bash
use() {{ [ ! -f "{folder}/$1" ] || . "{folder}/$1"; }}
suite() {{
  use "$DYNAMS_GPU_SUITE"
  sed "s/SUITE/$DYNAMS_GPU_SUITE/" "{folder}/ledger.jsonl" >> "$DYNAMS_GPU_LEDGER"
}}
echo "$*" >> "{folder}/calls"
case "$*" in
  *environment.py*) use environment; cat "{folder}/facts.json" ;;
  *"builds.py usable"*) use check ;;
  *results.py* | *builds.py*) exec "{python}" "$@" ;;
  *"import json, sys"*) echo 90 ;;
  *"import xdist"*) exit 1 ;;
  *"-m pytest"*) echo "pytest of $DYNAMS_GPU_SUITE"; suite ;;
  *sanitized.py*) echo cases; suite ;;
  *profiled.py*) use profile ;;
  *"dynams.cli compare"*) use compare "$@" ;;
esac
exit 0
"""
SANITIZER = """\
#!/usr/bin/env bash
while [ "$1" != application-only ]; do [ "$1" = --tool ] && tool=$2; shift; done
shift
"$@" || exit
echo "========= ERROR SUMMARY: 0 errors by $tool"
[ ! -f "{folder}/$tool" ] || . "{folder}/$tool"
"""
NCU = """\
#!/usr/bin/env bash
echo "    Section: GPU Speed Of Light Throughput"
[ ! -f "{folder}/ncu-does" ] || . "{folder}/ncu-does"
"""
SETUP = """\
import os, sys, sysconfig
from pathlib import Path

package = Path(sys.argv[-1]) / "dynams_kernels"
package.mkdir(parents=True, exist_ok=True)
for name, switch in (("_cpu", "CPU"), ("_cuda", "CUDA")):
    if os.environ["DYNAMS_BUILD_" + switch] == "required":
        (package / (name + sysconfig.get_config_var("EXT_SUFFIX"))).write_text("compiled")
"""
# In the case of SETUP: how a compiler fails, or hangs, on CUDA's part.
FATAL = (
    "import os\nif os.environ['DYNAMS_BUILD_CUDA'] == 'required': raise SystemExit('nvcc: fatal')\n"
)
HANGS = "import time\ntime.sleep(60)\n"


class Script:
    """A copy of the script in a folder of its own, its surroundings faked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo = folder / "repo"
        self.fakes = folder / "fakes"
        self.out = folder / "out"
        self.data: Path | None = None
        self.fakes.mkdir()
        bench = self.repo / "bench"
        shutil.copytree(BENCH / "gpu", bench / "gpu", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("gpu.sh", "units.py"):
            shutil.copy(BENCH / name, bench / name)
        for package in builds.PACKAGES.values():
            (self.repo / package).mkdir(parents=True)
            (self.repo / package / "__init__.py").write_text(f"# {package}")
        (self.repo / "csrc").mkdir()
        tests = self.repo / "tests" / "kernels"
        tests.mkdir(parents=True)
        for name in ("cuda_values", "cuda_linear", "smallest_k", "memory"):
            (tests / f"test_{name}.py").touch()
        (self.repo / "setup.py").write_text(SETUP)
        self.fake("facts.json", json.dumps(FACTS))
        done = [{"collected": 1}, {"begin": "x"}, {"end": "x", "outcome": "passed", "entry": ENTRY}]
        self.fake_ledger(*done, {"finished": True})
        self.executable("python3", FAKE)
        self.executable("compute-sanitizer", SANITIZER)
        self.executable("ncu", NCU)
        self.executable("nvidia-smi", "#!/usr/bin/env bash\n")

    def fake(self, name: str, text: str) -> None:
        (self.fakes / name).write_text(textwrap.dedent(text))

    def fake_ledger(self, *lines: dict[str, object]) -> None:
        """What every suite leaves in the ledger."""
        self.fake(
            "ledger.jsonl", "".join(f"{json.dumps({'suite': 'SUITE', **e})}\n" for e in lines)
        )

    def executable(self, name: str, text: str) -> None:
        path = self.fakes / name
        path.write_text(text.format(folder=self.fakes, python=sys.executable))
        path.chmod(0o755)

    def begin(self, *arguments: str, seconds: int | None = None) -> subprocess.Popen[str]:
        environment = {**os.environ, "PATH": f"{self.fakes}:{os.environ['PATH']}"}
        for name in ("PYTHON", "DYNAMS_CIFAR10", "DYNAMS_GPU_SECONDS", ledger.FILE):
            environment.pop(name, None)
        if seconds is not None:
            environment["DYNAMS_GPU_SECONDS"] = str(seconds)
        if self.data is not None:
            environment["DYNAMS_CIFAR10"] = str(self.data)
        return subprocess.Popen(
            ["bash", str(self.repo / "bench" / "gpu.sh"), str(self.out), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, seconds: int | None = None) -> Ran:
        return Ran.of(self.begin(*arguments, seconds=seconds))

    def stages(self) -> dict[str, str]:
        stages = json.loads((self.out / "kernels.json").read_text())["run"]["stages"]
        return {stage["stage"]: stage["outcome"] for stage in stages}

    def notes(self) -> dict[str, str]:
        stages = json.loads((self.out / "kernels.json").read_text())["run"]["stages"]
        return {stage["stage"]: stage["note"] for stage in stages}

    def calls(self, about: str) -> list[str]:
        lines = (self.fakes / "calls").read_text().splitlines()
        return [line for line in lines if about in line]


@dataclass
class Ran:
    returncode: int
    stdout: str
    stderr: str

    @classmethod
    def of(cls, process: subprocess.Popen[str]) -> Ran:
        stdout, stderr = process.communicate(timeout=120)
        return cls(process.returncode, stdout, stderr)

    @property
    def last_line(self) -> str:
        return self.stdout.strip().splitlines()[-1]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


FIRST = ["environment", "build", "cases", "tests, native", "benchmarks", "profile"]
FULL = ["environment", "build", "tests, native", "tests, triton", "benchmarks", "memcheck"]
# By the arguments that ask for them.
PLANS = {("--plan", "first"): FIRST, (): FULL}

# ------------------------------------------------------------------------------------ the plans


@pytest.mark.parametrize("arguments", PLANS, ids=str)
def test_a_good_run_leaves_all_of_its_plan_in_few_files(
    script: Script, arguments: tuple[str, ...]
) -> None:
    first = bool(arguments)
    ran = script.run(*arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.last_line.startswith("gpu.sh: ok")
    assert script.stages() == dict.fromkeys(PLANS[arguments], "ok")
    logs = ["cases", "profile"] if first else ["sanitizers"]
    assert sorted(path.name for path in script.out.iterdir()) == sorted(
        ["kernels.json", "kernels.md"]
        + [f"{name}.log" for name in ("build", "tests", "benchmarks", *logs)]
    )
    report = json.loads((script.out / "kernels.json").read_text())
    assert report["run"]["plan"] == ("first" if first else "full")
    assert [entry["name"] for entry in report["benchmarks"]] == [ENTRY["name"]]
    assert "margin[native-1000-float32]" in (script.out / "kernels.md").read_text()
    [benchmarks] = script.calls("repo/bench/gpu -q")
    assert ("--targets-only" in benchmarks) == first


# What each use of the fakes does where all hang; the build's compiler is named apart.
HANGING = ("check", "cases", "native", "triton", "benchmarks", "profile", "ncu-does", "memcheck")


def test_where_every_stage_hangs_each_plan_ends_in_its_time_with_a_report(tmp_path: Path) -> None:
    seconds = 7
    running = {}
    for plan in ("first", "full"):
        (tmp_path / plan).mkdir()
        script = Script(tmp_path / plan)
        (script.repo / "setup.py").write_text(HANGS)
        for name in HANGING:
            script.fake(name, "exec sleep 100\n")
        running[plan] = (script, script.begin("--plan", plan, seconds=seconds))
    rest = {"first": ["cases", "tests, triton", "benchmarks", "profile"], "full": FULL[3:]}
    for plan, (script, process) in running.items():
        ran = Ran.of(process)
        assert ran.returncode == 1
        found = re.search(r"\((\d+) s, ", ran.last_line)
        assert found is not None
        # The page of each stage is no part of what is scaled; the machine may be busy.
        assert int(found[1]) <= seconds + 5
        stages = script.stages()
        assert stages.pop("environment") == "ok"
        assert stages.pop("build") == "failed"
        assert stages.pop("tests, native", "skipped") == "skipped"
        assert stages == dict.fromkeys(rest[plan], "cut off")
        assert "## Targets" in (script.out / "kernels.md").read_text()


def test_one_stage_alone_runs_on_the_build_of_before(script: Script) -> None:
    assert script.run("--plan", "first").returncode == 0
    (script.fakes / "calls").unlink()
    ran = script.run("--plan", "first", "--stage", "benchmarks")
    assert ran.returncode == 0
    assert list(script.stages()) == ["environment", "build", "benchmarks"]
    assert script.calls("builds.py make") == []
    assert not (script.out / "tests.log").exists()


def test_without_a_gpu_it_ends_at_once_with_one_line(script: Script) -> None:
    script.fake("environment", "echo 'a warning' >&2; echo 'gpu.sh: no usable GPU' >&2; exit 2\n")
    ran = script.run()
    assert ran.returncode == 2
    assert ran.stderr == "gpu.sh: no usable GPU\n"
    assert ran.stdout == ""
    assert list(script.out.iterdir()) == []


def test_an_environment_that_hangs_ends_the_run(script: Script) -> None:
    script.fake("environment", "exec sleep 100\n")
    ran = script.run("--plan", "first", seconds=2)
    assert ran.returncode == 2
    assert "the environment could not be read (exit code 137)" in ran.stderr


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


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a", "b"),
        ("a", "--stage"),
        ("a", "--stage", "all"),
        ("a", "--plan", "fast"),
        ("--fast", "a"),
    ],
)
def test_wrong_arguments_are_refused_with_the_usage(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ran = subprocess.run(
        ["bash", str(BENCH / "gpu.sh"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: bash bench/gpu.sh OUTPUT_FOLDER")
    assert not (tmp_path / "a").exists()


# ------------------------------------------------------------------------------------ the build


def prebuilt(script: Script) -> Path:
    """Modules brought along, of the sources as they are."""
    folder = script.repo / "build" / "gpu" / "prebuilt"
    command = [sys.executable, str(script.repo / "bench/gpu/builds.py"), "make", str(folder), "90"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def site(script: Script) -> list[str]:
    package = script.repo / "build" / "gpu" / "site" / "dynams_kernels"
    return sorted(path.name.partition(".")[0] for path in package.iterdir())


def test_a_build_brought_along_is_taken_with_python_as_the_source_is_now(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    prebuilt(script)
    monkeypatch.setenv("PYTHONPATH", "/more/packages")
    script.fake("check", f'echo "$PYTHONPATH" > {script.fakes}/path\n')
    (script.repo / "dynams_kernels" / "__init__.py").write_text("# mended since")
    assert script.run("--plan", "first", "--stage", "build").returncode == 0
    assert script.calls("builds.py make") == []
    assert script.notes()["build"].startswith("build/gpu/prebuilt: .cpython-")
    assert site(script) == ["__init__", "_cpu", "_cuda"]
    package = script.repo / "build" / "gpu" / "site" / "dynams_kernels"
    assert (package / "__init__.py").read_text() == "# mended since"
    path = (script.fakes / "path").read_text()
    assert path == f"{package.parent}:{script.repo}/bench:/more/packages\n"


def test_a_build_is_refused_where_anything_it_rests_on_differs(script: Script) -> None:
    folder = prebuilt(script)
    manifest = folder / builds.MANIFEST
    written = manifest.read_text()

    def told(architecture: str = "90") -> str:
        command = [str(script.repo / "bench/gpu/builds.py"), "fits", str(folder), architecture]
        ran = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False
        )
        assert ran.returncode == (not ran.stdout.startswith(".cpython")), ran.stderr
        return ran.stdout

    assert told().endswith("sm_90\n")
    assert told("100") == "for GPUs of ['90'], here 100\n"
    manifest.write_text(json.dumps({**json.loads(written), "python": ".cpython-27.so"}))
    assert told().startswith("for Python .cpython-27.so")
    manifest.write_text(written)
    (script.repo / "csrc" / "new.cu").touch()
    assert told() == "of other sources than these\n"
    (script.repo / "csrc" / "new.cu").unlink()
    next(folder.rglob("_cuda*")).write_text("half")
    assert "is missing or incomplete" in told()
    manifest.unlink()
    assert told().startswith("no manifest")


def test_a_build_brought_along_that_does_not_work_is_made_anew(script: Script) -> None:
    prebuilt(script)
    mark = script.fakes / "failed-once"
    script.fake("check", f"[ -e {mark} ] || {{ touch {mark}; exit 1; }}\n")
    ran = script.run("--plan", "first", "--stage", "build")
    assert ran.returncode == 0, ran.stdout
    assert len(script.calls("builds.py make")) == 1
    assert (
        script.notes()["build"]
        == "build/gpu/prebuilt: does not work here, see build.log; built here"
    )
    assert site(script) == ["__init__", "_cpu", "_cuda"]


def test_a_build_that_fails_is_said_loudly_and_triton_goes_on(script: Script) -> None:
    (script.repo / "setup.py").write_text(FATAL + SETUP)
    script.fake("check", "exit 1\n")
    ran = script.run()
    assert ran.returncode == 1
    assert "NO COMPILED CUDA KERNELS" in ran.stdout
    assert "nvcc: fatal" in (script.out / "build.log").read_text()
    assert "NO COMPILED CUDA KERNELS" in (script.out / "kernels.md").read_text()
    assert script.stages() == {
        **dict.fromkeys(FULL, "ok"),
        "build": "failed",
        "tests, native": "skipped",
    }
    assert site(script) == ["__init__", "_cpu"]
    # What is Triton's with either backend has not been tested yet.
    assert "test_cuda_linear.py" in script.calls("tests/kernels")[0]


# ------------------------------------------------------------------------------------ what fails or is cut off


def test_failing_tests_stop_nothing_but_the_exit_code_tells(script: Script) -> None:
    script.fake(
        "native",
        """\
        echo '{"suite": "native", "end": "t.py::bad", "outcome": "failed", "why": "no"}' >> "$DYNAMS_GPU_LEDGER"
        """,
    )
    ran = script.run()
    assert ran.returncode == 1
    assert ran.last_line.startswith("gpu.sh: FAILED: tests, native failed (")
    # What failed is what memcheck looks at.
    assert script.calls("-m pytest")[-1].count(f"{script.repo}/t.py::bad") == 1
    assert script.stages() == {**dict.fromkeys(FULL, "ok"), "tests, native": "failed"}


def test_a_stage_that_is_cut_off_keeps_its_outcomes_and_gives_the_next_nothing_more(
    script: Script,
) -> None:
    script.fake(
        "native",
        """\
        for name in a b; do
          printf '{"suite": "native", "begin": "%s"}\\n{"suite": "native", "end": "%s", "outcome": "passed"}\\n' $name $name
        done >> "$DYNAMS_GPU_LEDGER"
        echo '{"suite": "native", "collected": 9}' >> "$DYNAMS_GPU_LEDGER"
        echo '{"suite": "native", "begin": "c"}' >> "$DYNAMS_GPU_LEDGER"
        exec sleep 100
        """,
    )
    ran = script.run("--stage", "tests", "--stage", "tests-triton", seconds=8)
    assert ran.returncode == 1
    assert script.stages()["tests, native"] == "cut off"
    assert script.notes()["tests, native"] == "2 passed, 0 failed, 0 skipped, 7 not reached of 9"
    assert script.stages()["tests, triton"] == "ok"
    text = (script.out / "kernels.md").read_text()
    assert "running when its process died, hung or was stopped: `c`" in text
    native, triton = script.calls("tests/kernels")
    assert "test_cuda_linear.py" in native
    assert "linear" not in triton


def test_stopped_from_outside_it_leaves_a_report_of_all_so_far(script: Script) -> None:
    script.fake(
        "native",
        """\
        echo '{"suite": "native", "end": "t.py::good", "outcome": "passed"}' >> "$DYNAMS_GPU_LEDGER"
        touch "$0.begun"
        exec sleep 100
        """,
    )
    process = script.begin("--stage", "tests")
    while not (script.fakes / "python3.begun").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped from outside" in stdout
    assert "- `native`: 1 passed" in (script.out / "kernels.md").read_text()
    assert "t.py::good" in (script.out / "kernels.jsonl").read_text()


def test_a_process_that_died_is_followed_by_one_behind_it(script: Script) -> None:
    script.fake(
        "benchmarks",
        """\
        if [ ! -f "$0.died" ]; then
          touch "$0.died"
          echo '{"suite": "benchmarks", "begin": "bench/gpu/y.py::bench_deadly"}' >> "$DYNAMS_GPU_LEDGER"
          exit 70
        fi
        """,
    )
    ran = script.run("--stage", "benchmarks")
    assert ran.returncode == 1
    assert "benchmarks failed" in ran.last_line
    report = json.loads((script.out / "kernels.json").read_text())
    assert [entry["name"] for entry in report["benchmarks"]] == [ENTRY["name"]]
    assert "bench_deadly" in (script.out / "kernels.md").read_text()


def test_tests_that_are_not_found_are_a_failure(script: Script) -> None:
    script.fake_ledger({"collected": 0}, {"finished": True})
    ran = script.run("--stage", "tests")
    assert ran.returncode == 1
    assert script.stages()["tests, native"] == "failed"


# ------------------------------------------------------------------------------------ tools


def test_a_tool_that_finds_an_error_is_named(script: Script) -> None:
    # The process that goes on behind the case it was found in finds no more.
    script.fake("racecheck", '[ -e "$0.found" ] || { touch "$0.found"; exit 9; }\n')
    ran = script.run("--stage", "memcheck", "--stage", "racecheck")
    assert ran.returncode == 1
    assert ran.last_line.startswith("gpu.sh: FAILED: racecheck failed (")
    assert script.stages()["memcheck"] == "ok"
    assert "ERROR SUMMARY: 0 errors by memcheck" in script.notes()["memcheck"]


def test_memcheck_looks_at_the_suspects_that_are_named(script: Script) -> None:
    suspects = [
        "--suspect",
        "native: smallest_k 1 of",
        "--suspect",
        "tests/kernels/test_x.py::test_y[a b]",
    ]
    assert script.run("--stage", "memcheck", *suspects).returncode == 0
    [cases] = script.calls("sanitized.py")
    assert cases.endswith("--unchecked --only native: smallest_k 1 of")
    [tests] = script.calls("-m pytest")
    assert f"{script.repo}/tests/kernels/test_x.py::test_y[a b]" in tests


def test_a_sanitizer_without_time_for_all_is_no_failure(script: Script) -> None:
    script.fake_ledger({"collected": 5}, {"end": "x", "outcome": "passed"})
    ran = script.run("--stage", "memcheck")
    assert ran.returncode == 0, ran.stdout
    assert script.stages()["memcheck"] == "cut off"
    assert "4 not reached of 5" in script.notes()["memcheck"]


@pytest.mark.parametrize("name", ["compute-sanitizer", "ncu"])
def test_a_tool_that_is_missing_is_a_line_not_a_failure(script: Script, name: str) -> None:
    if shutil.which(name) or Path(f"/usr/local/cuda/bin/{name}").exists():
        pytest.skip(f"{name} is installed here")
    (script.fakes / name).unlink()
    stage = {"ncu": "profile", "compute-sanitizer": "memcheck"}[name]
    ran = script.run("--stage", stage)
    assert ran.returncode == 0
    assert f"{stage}: skipped ({name} is not installed)" in ran.stdout


def test_a_profiler_without_permission_is_a_line_not_a_failure(script: Script) -> None:
    script.fake(
        "ncu-does",
        "echo '==ERROR== ERR_NVGPUCTRPERM - the user does not have permission'; exit 1\n",
    )
    ran = script.run("--plan", "first", "--stage", "profile")
    assert ran.returncode == 0
    assert script.stages()["profile"] == "skipped"
    assert "ERR_NVGPUCTRPERM" in script.notes()["profile"]


# ------------------------------------------------------------------------------------ comparisons

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


def compared(script: Script) -> dict[str, str]:
    """What a comparison left, by name."""
    with tarfile.open(script.out / "compare.tgz") as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {file.name: archive.extractfile(file).read().decode() for file in files}


def test_the_comparison_goes_on_behind_committed_cells(script: Script) -> None:
    script.data = script.folder / "data"
    script.data.mkdir()
    committed = script.repo / "bench/results/a-gpu/compare-cifar10/cells"
    committed.mkdir(parents=True)
    (committed / "old.json").write_text("{}")
    script.fake("compare", COMPARE.format(folder=script.fakes))
    ran = script.run("--plan", "compare")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert script.stages() == dict.fromkeys(["environment", "build", "compare"], "ok")
    assert (script.fakes / "cells-before").read_text() == "old.json\n"
    left = compared(script)
    assert left.keys() == {"cells/old.json", "cells/new.json", "compare.md"}
    assert left["compare.md"] == f"of {script.data}\n"
    limit = int((script.out / "compare.log").read_text().split()[-2])
    assert 400 < limit < 525


def test_a_comparison_that_fails_is_told_and_keeps_its_cells(script: Script) -> None:
    script.data = script.folder / "data"
    script.data.mkdir()
    script.fake("compare", COMPARE.format(folder=script.fakes) + "exit 1\n")
    ran = script.run("--plan", "compare")
    assert ran.returncode == 1
    assert script.stages()["compare"] == "failed"
    assert "cells/new.json" in compared(script)


def test_without_data_or_time_there_is_no_comparison(script: Script) -> None:
    assert script.run("--plan", "compare").returncode == 0
    assert script.stages()["compare"] == "skipped"
    script.data = script.folder / "data"
    script.data.mkdir()
    assert script.run("--plan", "compare", seconds=60).returncode == 0
    assert script.stages()["compare"] == "skipped"
    assert script.calls("dynams.cli compare") == []
