"""bench/gpu.sh with everything that needs a GPU replaced: what fails or is cut off never costs what comes after it, or the report."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faked_script import BENCH, ENTRY, FIRST, FULL, HANGS, Ran, Script

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
    ran = script.run("--plan", "first", seconds=5)
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
    ran = script.run("--stage", "tests", "--stage", "tests-triton", seconds=12)
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


def test_a_profile_that_takes_too_long_keeps_those_before_it(script: Script) -> None:
    script.fake("ncu-does", '[ -e "$0.first" ] && exec sleep 100; touch "$0.first"\n')
    ran = script.run("--plan", "first", "--stage", "profile", seconds=12)
    assert ran.returncode == 0, ran.stdout
    assert script.stages()["profile"] == "ok"


def test_a_profiler_without_permission_is_a_line_not_a_failure(script: Script) -> None:
    script.fake(
        "ncu-does",
        "echo '==ERROR== ERR_NVGPUCTRPERM - the user does not have permission'; exit 1\n",
    )
    ran = script.run("--plan", "first", "--stage", "profile")
    assert ran.returncode == 0
    assert script.stages()["profile"] == "skipped"
    assert "ERR_NVGPUCTRPERM" in script.notes()["profile"]


# ------------------------------------------------------------------------------------ training


def test_training_goes_on_behind_the_part_that_its_process_died_at(script: Script) -> None:
    script.fake(
        "train",
        """\
        if [ ! -f "$0.died" ]; then
          touch "$0.died"
          echo '{"suite": "train", "begin": "strategy deadly"}' >> "$DYNAMS_GPU_LEDGER"
          exit 70
        fi
        """,
    )
    assert script.run("--stage", "train").returncode == 0
    assert len(script.calls("trained.py")) == 2
    assert script.stages()["train"] == "ok"
    assert "strategy deadly" in (script.out / "kernels.md").read_text()
    assert "trained" in (script.out / "train.log").read_text()


def test_training_without_a_package_it_needs_is_a_line_not_a_failure(script: Script) -> None:
    script.fake("train", "echo 'trained.py: not installed: pyyaml'; exit 5\n")
    assert script.run("--stage", "train").returncode == 0
    assert script.stages()["train"] == "skipped"
    assert script.notes()["train"] == "trained.py: not installed: pyyaml"
