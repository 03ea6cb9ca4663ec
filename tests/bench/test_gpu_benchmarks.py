"""The GPU benchmarks and the sanitizers' cases from end to end, on the CPU in the GPU's place (see cpu_for_gpu.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpu import ledger, results, targets

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BENCH = ROOT / "bench"


def environment(**more: str) -> dict[str, str]:
    paths = [str(HERE), str(BENCH), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def run_pytest(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return subprocess.run(
        [*command, "-p", "gpu.device_guard", *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def run_benchmarks(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    more[ledger.VARIABLE] = str(folder / results.LEDGER)
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "cpu_for_gpu"]
    return run_pytest(folder, *options, *arguments, **more)


FACTS: dict[str, Any] = {
    "gpu": {"name": "none"},
    "torch": "0",
    "python_version": "3",
    "commit": {"id": "0" * 40},
    "datetime": "2026-12-01",
}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "environment.json").write_text(json.dumps(FACTS))
    ran = run_benchmarks(folder, str(BENCH / "gpu"))
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    return folder


def test_every_benchmark_runs_and_is_in_the_ledger(whole_run: Path) -> None:
    kept = ledger.read(whole_run / results.LEDGER)
    assert kept.finished
    assert kept.failures == {}
    assert all("mask" in name for name in kept.skipped)
    assert len(kept.entries) == len(kept.begun) - len(kept.skipped)
    for entry in kept.entries:
        assert entry["stats"]["median"] > 0
        assert "data" not in entry["stats"]
        assert entry["extra_info"].get("failed_peers", {}) == {}
        assert entry["extra_info"]["peers"]


def test_what_the_targets_rest_on_runs_first(whole_run: Path) -> None:
    begun = [name.partition("::")[2] for name in ledger.read(whole_run / results.LEDGER).begun]
    assert begun[: len(targets.names())] == targets.names()


def test_the_report_judges_every_target_that_has_a_benchmark(whole_run: Path) -> None:
    report = results.write_page(whole_run)
    text = targets.table(report["benchmarks"])
    assert text.count("not yet measured") == len(targets.TARGETS) - len(targets.names())
    assert "not measured" not in text.replace("not yet measured", "")
    assert (whole_run / "kernels.md").read_text().count("\n| ") > 100


def test_bytes_and_flops_are_those_of_the_shapes(whole_run: Path) -> None:
    entries = targets.by_name(ledger.read(whole_run / results.LEDGER).entries)
    margin = entries["bench_margin[native-1000-bfloat16]"]["extra_info"]
    assert margin["bytes"] == 1_000_000 * 2 + 1000 * 4
    head = entries["bench_linear_margin[8192x4096-128256]"]["extra_info"]
    assert head["flops"] == 2 * 20 * 24 * 300
    assert head["bytes"] == 2 * (20 * 24 + 300 * 24 + 300) + 4 * 20
    selection = entries["bench_smallest_k[native-256M-normal]"]["extra_info"]
    assert selection["bytes"] == 3000 * 4 + 1800 * (4 + 8)


def test_what_an_earlier_process_began_is_not_begun_again(tmp_path: Path) -> None:
    path = BENCH / "gpu" / "bench_host_overhead_gpu.py"
    died = "bench/gpu/bench_host_overhead_gpu.py::bench_host_overhead[margin]"
    (tmp_path / results.LEDGER).write_text(json.dumps({"begin": died}) + "\n")
    assert run_benchmarks(tmp_path, str(path)).returncode == 0
    kept = ledger.read(tmp_path / results.LEDGER)
    assert list(kept.failures) == [died]
    assert kept.begun.count(died) == 1
    assert len(kept.entries) == len(kept.begun) - 1


def test_past_the_deadline_benchmarks_are_skipped_and_say_so(tmp_path: Path) -> None:
    path = str(BENCH / "gpu" / "bench_host_overhead_gpu.py")
    assert run_benchmarks(tmp_path, path, DYNAMS_BENCH_DEADLINE="1000").returncode == 0
    kept = ledger.read(tmp_path / results.LEDGER)
    assert kept.finished
    assert kept.entries == []
    assert all("no time was left" in why for why in kept.skipped.values())
    assert len(kept.skipped) == len(kept.begun) > 0


HANGING = """
import time

def test_hangs():
    time.sleep(60)
"""


def test_a_hanging_test_ends_its_process_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    (tmp_path / "quick.py").write_text("import gpu.device_guard as g\ng.SECONDS_A_TEST = 0.5\n")
    ran = run_pytest(tmp_path, "-p", "quick", "test_hanging.py")
    assert ran.returncode != 0
    assert "in test_hangs" in ran.stderr


DEADLY = """
import sys, types

class Dead:
    is_initialized = staticmethod(lambda: True)
    def synchronize():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

def test_poisons(monkeypatch):
    sys.modules["torch"] = types.SimpleNamespace(cuda=Dead)
    assert False, "the first sign"
"""


def test_a_dead_device_ends_the_process_with_the_first_error_shown(tmp_path: Path) -> None:
    (tmp_path / "test_deadly.py").write_text(DEADLY)
    ran = run_pytest(tmp_path, "-p", "no:hypothesispytest", "test_deadly.py")
    assert ran.returncode == 70
    assert "the first sign" in ran.stderr
    assert "the device is dead" in ran.stderr


def test_the_sanitizers_cases_give_right_results() -> None:
    path = str(BENCH / "gpu" / "sanitized.py")
    script = (
        "import cpu_for_gpu, runpy, sys; cpu_for_gpu.replace_gpu(); sys.argv = ['x']; "
        f"runpy.run_path({path!r}, run_name='__main__')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "sanitized.py: 0 wrong results" in ran.stdout
    assert ran.stdout.count("row_scores") > 50
    assert ran.stdout.count("smallest_k") > 50
    assert ran.stdout.count("linear_") > 25
