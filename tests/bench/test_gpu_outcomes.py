"""The plugins of bench/gpu.sh's tests: outcomes kept as they happen, deadlines, and processes that hang or lose the device."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu import known, ledger, results

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"
KERNELS = ROOT / "tests" / "kernels"

WORKERS = [
    pytest.param(("-p", "no:xdist"), id="one process"),
    pytest.param(
        ("-n", "2"),
        id="xdist",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("xdist") is None, reason="pytest-xdist is not installed"
        ),
    ),
]


def start(folder: Path, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
    """Pytest with both plugins in a process group of its own, as bench/gpu.sh runs it."""
    paths = [str(folder), str(BENCH), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        ledger.FILE: str(folder / results.LEDGER),
        ledger.SUITE: "native",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    plugins = ["-p", "no:hypothesispytest", "-p", "gpu.outcomes", "-p", "gpu.device_guard"]
    with output.open("wb") as file:
        return subprocess.Popen(
            [*command, *plugins, *arguments],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    output = folder / "output"
    code = start(folder, *arguments, output=output).wait(timeout=120)
    return code, output.read_text()


def native(folder: Path) -> ledger.Suite:
    return ledger.read(folder / results.LEDGER).suite("native")


EVERY_OUTCOME = """
import pytest

def test_good(): pass
def test_bad(): assert 1 == 2, "as meant"
def test_skipped(): pytest.skip("for a reason")

@pytest.fixture
def broken(): raise ValueError("in set-up")
def test_set_up(broken): pass

@pytest.fixture
def leaving():
    yield
    raise ValueError("in tear-down")
def test_tear_down(leaving): pass
"""


@pytest.mark.parametrize("workers", WORKERS)
def test_every_outcome_is_in_the_ledger_with_its_reason(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    (tmp_path / "test_all.py").write_text(EVERY_OUTCOME)
    code, output = run(tmp_path, *workers)
    assert code == 1, output
    kept = native(tmp_path)
    assert kept.finished
    assert kept.collected == len(kept.begun) == 5
    assert list(kept.of("passed")) == ["test_all.py::test_good"]
    assert kept.of("skipped") == {"test_all.py::test_skipped": "for a reason"}
    failed = {name.partition("::")[2]: why for name, why in kept.of("failed").items()}
    assert failed.keys() == {"test_bad", "test_set_up", "test_tear_down"}
    assert failed["test_bad"].startswith("AssertionError: as meant")
    assert failed["test_tear_down"] == "ValueError: in tear-down"
    assert "test_all.py::test_good" in kept.summary()["slowest"]


# The deadline is set when the tests are collected, however long that took; each test past the first few outlasts it.
DEADLINE = """
import os, time
import pytest

def pytest_collection_finish(session):
    os.environ["DYNAMS_GPU_DEADLINE"] = str(time.time() + 0.5)
"""
LONG = """
import os, time
import pytest

@pytest.mark.parametrize("number", range(30))
def test_takes_long(number):
    if number > 1:
        while time.time() <= float(os.environ["DYNAMS_GPU_DEADLINE"]):
            time.sleep(0.05)
"""


@pytest.mark.parametrize("workers", WORKERS)
def test_past_the_deadline_nothing_begins_and_the_rest_counts_as_not_reached(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    (tmp_path / "conftest.py").write_text(DEADLINE)
    (tmp_path / "test_long.py").write_text(LONG)
    code, output = run(tmp_path, *workers)
    assert code == 0, output
    told = native(tmp_path).summary()
    assert told["collected"] == 30
    assert told["passed"] + told["not_reached"] == 30
    assert told["not_reached"] >= 20
    assert results.suite_outcome(native(tmp_path), code) == "cut off"


HANGS_LAST = """
import os, pathlib, time
import pytest

@pytest.mark.parametrize("number", range(6))
def test_it(number):
    (pathlib.Path(__file__).parent / f"pid-{os.getpid()}").touch()
    if number >= 4:
        time.sleep(100)
"""


@pytest.mark.parametrize("workers", WORKERS)
def test_a_run_killed_at_once_keeps_all_outcomes_and_names_what_was_running(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGS_LAST)
    process = start(tmp_path, *workers, output=tmp_path / "output")
    give_up = time.monotonic() + 60
    while len(native(tmp_path).of("passed")) < 4 or not native(tmp_path).running:
        time.sleep(0.1)
        assert process.poll() is None, (tmp_path / "output").read_text()
        assert time.monotonic() < give_up, (tmp_path / "output").read_text()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = native(tmp_path)
    assert kept.summary()["not_reached"] == 2
    assert not kept.finished
    assert set(kept.running) <= {f"test_hanging.py::test_it[{n}]" for n in (4, 5)}
    # A worker left behind would hold the GPU.
    pids = [int(path.name.partition("-")[2]) for path in tmp_path.glob("pid-*")]
    while any(alive(pid) for pid in pids):
        time.sleep(0.05)
        assert time.monotonic() < give_up


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


DIES = """
import os
import pytest

@pytest.mark.parametrize("number", range(8))
def test_it(number):
    if number == 3:
        os._exit(70)
"""


@pytest.mark.parametrize("workers", WORKERS)
def test_tests_behind_one_that_killed_its_process_still_run(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    (tmp_path / "test_deadly.py").write_text(DIES)
    for _ in range(3):  # as bench/gpu.sh does
        _, output = run(tmp_path, *workers)
        if native(tmp_path).finished:
            break
    kept = native(tmp_path)
    assert kept.finished, output
    assert kept.collected == len(kept.begun) == 8
    assert [*kept.of("failed"), *kept.running] == ["test_deadly.py::test_it[3]"]
    assert len(kept.of("passed")) == 7


HANGING = """
import time

def test_hangs():
    time.sleep(60)
"""


@pytest.mark.parametrize("limit", ["SECONDS_A_TEST", "SECONDS_PAST_DEADLINE"])
def test_a_hanging_test_ends_its_process_and_is_named(tmp_path: Path, limit: str) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    (tmp_path / "quick.py").write_text(f"import gpu.device_guard as g\ng.{limit} = 0.5\n")
    if limit == "SECONDS_PAST_DEADLINE":
        (tmp_path / "conftest.py").write_text(DEADLINE)
    code, output = run(tmp_path, "-p", "no:xdist", "-p", "quick", "test_hanging.py")
    assert code != 0
    assert "in test_hangs" in output
    assert native(tmp_path).running == ["test_hanging.py::test_hangs"]


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
    code, output = run(tmp_path, "-p", "no:xdist", "test_deadly.py")
    assert code == 70
    assert "the first sign" in output
    assert "the device is dead" in output


UNUSABLE = """
import dynams_kernels as dk

def backends():
    raise RuntimeError("DYNAMS_KERNELS_BACKEND=native, but the CUDA kernels cannot run")

dk.backends = backends
"""


def test_kernels_that_cannot_run_fail_their_tests_not_the_collection(tmp_path: Path) -> None:
    (tmp_path / "unusable.py").write_text(UNUSABLE)
    asking = [path for path in KERNELS.glob("test_*.py") if "backends()" in path.read_text()]
    assert len(asking) > 2
    options = ["-p", "no:xdist", "-p", "unusable", "--collect-only", "--rootdir", str(ROOT)]
    code, output = run(tmp_path, *options, "-c", str(ROOT / "pyproject.toml"), *map(str, asking))
    assert code == 0, output[-3000:]


# ------------------------------------------------------------------------------------ what reports know


def test_what_no_report_knows_as_passed_comes_first() -> None:
    ids = ["a.py::f[1]", "a.py::f[2]", "a.py::g[1]", "a.py::g[2]", "a.py::h"]
    assert known.unknown_first(ids, {"a.py::f": 2, "a.py::g": 1}) == [2, 3, 4, 0, 1]
    assert known.unknown_first(ids, {}) == [0, 1, 2, 3, 4]


def test_the_committed_reports_are_read() -> None:
    folder = BENCH / "results"
    functions = known.passed("native", folder)
    # By the report with the most: the first one had another order, and ended elsewhere.
    assert (
        functions["tests/kernels/test_cuda_values.py::test_scores_on_every_path_and_layout"] == 168
    )
    assert "bench_smallest_k[native-1.28M-normal]" in known.measured(folder)
    assert known.passed("no such suite", folder) == {}
    assert known.trained(folder) >= {"digits", "joint proxy, ResNet-18", "resumed"}
