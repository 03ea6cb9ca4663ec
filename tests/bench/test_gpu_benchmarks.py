"""The GPU benchmarks and the sanitizers' cases from end to end, on the CPU in the GPU's place (see cpu_for_gpu.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gpu_processes import environment, new_ledger, run_benchmarks

from gpu import (
    headlines,
    known,
    ledger,
    peers,
    results,
    sanitized,
    targets,
)
from gpu.entries import by_name

HERE = Path(__file__).parent
BENCH = HERE.parents[1] / "bench"


def benchmarks_of(folder: Path) -> ledger.Suite:
    return ledger.read(folder / results.LEDGER).suite("benchmarks")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    new_ledger(folder)
    ran = run_benchmarks(folder, str(BENCH / "gpu"))
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    return folder


def test_every_benchmark_runs_and_is_in_the_ledger(whole_run: Path) -> None:
    kept = benchmarks_of(whole_run)
    assert kept.finished
    assert kept.of("failed") == {}
    assert kept.running == []
    assert all("mask" in name for name in kept.of("skipped"))
    assert kept.collected == len(kept.begun) == len(kept.entries) + len(kept.of("skipped"))
    for entry in kept.entries:
        assert entry["stats"]["median"] > 0
        assert "data" not in entry["stats"]
        assert entry["extra_info"].get("failed_peers", {}) == {}
        assert entry["extra_info"]["peers"]


def test_what_the_targets_rest_on_runs_first_then_what_was_longest_not_measured(
    whole_run: Path,
) -> None:
    begun = [name.partition("::")[2] for name in benchmarks_of(whole_run).begun]
    wanted = [name for name in targets.names() if name != targets.SELECTING]
    assert begun[: len(wanted)] == wanted
    last = [known.measured().get(name, "") for name in begun[len(wanted) :]]
    assert last == sorted(last)
    assert len(set(last)) > 1


def test_the_report_judges_every_target_that_has_a_benchmark(whole_run: Path) -> None:
    report = results.write_page(whole_run)
    text = targets.table(report)
    assert text.count("not yet measured") == 1  # selecting's share of a training
    assert "not measured" not in text.replace("not yet measured", "")
    assert (whole_run / "kernels.md").read_text().count("\n| ") > 100


def test_the_front_page_names_works_and_peers_that_are_measured(whole_run: Path) -> None:
    lines = headlines.table(results.write_page(whole_run)).splitlines()
    said = [line.split(" | ") for line in lines if line.endswith(" x |")]
    torchs = [(saying, f"`{peer}`") for _, peer, saying in headlines.HEADLINES if peer not in peers.PACKAGES]  # fmt: skip
    assert [(cells[0].removeprefix("| "), cells[3]) for cells in said] == torchs


def test_bytes_and_flops_are_those_of_the_shapes(whole_run: Path) -> None:
    entries = by_name(benchmarks_of(whole_run).entries)
    margin = entries["bench_margin[native-1000-bfloat16]"]["extra_info"]
    assert margin["bytes"] == 1_000_000 * 2 + 1000 * 4
    head = entries["bench_linear_margin[8192x4096-128256]"]["extra_info"]
    assert head["flops"] == 2 * 20 * 24 * 300
    assert head["bytes"] == 2 * (20 * 24 + 300 * 24 + 300) + 4 * 20
    selection = entries["bench_smallest_k[native-256M-normal]"]["extra_info"]
    assert selection["bytes"] == 3000 * 4 + 1800 * (4 + 8)


def test_on_demand_only_the_targets_are_measured(tmp_path: Path) -> None:
    paths = [
        str(BENCH / "gpu" / f"bench_{name}_gpu.py") for name in ("row_scores", "host_overhead")
    ]
    assert run_benchmarks(tmp_path, "--targets-only", *paths).returncode == 0
    entries = by_name(benchmarks_of(tmp_path).entries)
    of_these_files = ("bench_margin[", "bench_six_scores[", "bench_host_overhead[")
    assert list(entries) == [name for name in targets.names() if name.startswith(of_these_files)]


def test_what_an_earlier_process_began_is_not_begun_again(tmp_path: Path) -> None:
    path = BENCH / "gpu" / "bench_host_overhead_gpu.py"
    died = "bench/gpu/bench_host_overhead_gpu.py::bench_host_overhead[margin]"
    new_ledger(tmp_path, {"suite": "benchmarks", "begin": died})
    assert run_benchmarks(tmp_path, str(path)).returncode == 0
    kept = benchmarks_of(tmp_path)
    assert kept.running == [died]
    assert kept.begun.count(died) == 1
    assert len(kept.entries) == len(kept.begun) - 1 == kept.collected - 1


# ------------------------------------------------------------------------------------ every path, compared or sanitized

CASES = """
import sys, cpu_for_gpu
import torch
from gpu import backends, sanitized

cpu_for_gpu.replace_gpu()
sanitized.gpu_backends = backends.gpu_backends
sanitized.LARGE_COUNTS = (80_000,)
sanitized.CANDIDATES_HEADS = ((1, 64, 300), (30, 72, 100))
{before}
sys.exit(sanitized.main(sys.argv[1:]))
"""


def begin_cases(
    folder: Path, *arguments: str, before: str = "", **more: str
) -> subprocess.Popen[str]:
    more |= {ledger.FILE: str(folder / results.LEDGER), ledger.SUITE: "cases"}
    return subprocess.Popen(
        [sys.executable, "-c", CASES.format(before=before), *arguments],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_cases(folder: Path, *arguments: str, before: str = "", **more: str) -> tuple[int, str]:
    """Exit code and output."""
    process = begin_cases(folder, *arguments, before=before, **more)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def cases_of(folder: Path) -> ledger.Suite:
    return ledger.read(folder / results.LEDGER).suite("cases")


def test_every_case_gives_the_right_results(tmp_path: Path) -> None:
    for process in [begin_cases(tmp_path, "--part", part) for part in ("1/2", "2/2")]:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-3000:]
        assert "sanitized.py: 0 wrong results" in output
    told = cases_of(tmp_path).summary()
    assert told["finished"]
    assert told["passed"] == told["collected"] == len(set(cases_of(tmp_path).begun))
    names = cases_of(tmp_path).begun
    for backend in ("native", "triton"):
        of_backend = [name for name in names if name.startswith(f"{backend}: ")]
        assert sum("row_scores" in name for name in of_backend) > 30
        assert sum("of 80000 " in name for name in of_backend) == 9
    assert sum("triton: linear_" in name for name in names) > 25
    assert sum(name.startswith("hopper 128x144: linear_scores") for name in names) == 8


# A backend that is wrong in one case and raises in another; its selections are the CPU's.
FAULTY = """
real = backends.gpu_backends()["native"]

class Faulty:
    row_scores = real.row_scores

    def smallest_k(self, values, k, by_value):
        if values.shape[0] == 31:
            raise ValueError("not today")
        found, indices = real.smallest_k(values, k, by_value)
        return found, indices + (values.shape[0] == 1025)

    def smallest_mask(self, values, k):
        mask = torch.ones_like(values, dtype=torch.bool)
        if values.shape[0] != 20_001:
            mask[real.smallest_k(values, k, False)[1]] = True
            mask[:] = False
            mask[real.smallest_k(values, k, False)[1]] = True
        return mask

sanitized.gpu_backends = lambda: {"native": Faulty()}
"""


def test_a_case_that_is_wrong_or_raises_does_not_stop_the_others(tmp_path: Path) -> None:
    only = [
        f"--only=native: smallest_k 1 of {count} random" for count in (1, 31, 1025, 20_001, 300_007)
    ]
    died = {"suite": "cases", "begin": "hopper 128x256: another case"}
    ledger.append(tmp_path / results.LEDGER, died)
    deadly = f"hopper 128x256: linear_scores 1x64-300 torch.bfloat16 {'+'.join(sanitized.WITHOUT_DISTANCES)}"
    code, output = run_cases(tmp_path, *only, f"--only={deadly}", before=FAULTY)
    assert code == 3, output
    kept = cases_of(tmp_path)
    assert kept.of("skipped") == {deadly: "a process died or hung in this kernel"}
    assert kept.of("failed") == {
        "native: smallest_k 1 of 31 random": "ValueError: not today",
        "native: smallest_k 1 of 1025 random": "indices differ in 1 places",
        "native: smallest_k 1 of 20001 random": "mask differ in 20000 places",
    }
    assert list(kept.of("passed")) == [f"native: smallest_k 1 of {n} random" for n in (1, 300_007)]


def test_a_dead_device_stops_the_cases_and_the_next_process_goes_on_behind(tmp_path: Path) -> None:
    names = [f"native: smallest_k 1 of {count} random" for count in (31, 80_000)]
    only = [f"--only={name}" for name in names]
    dead = "sanitized.device_is_dead = lambda: True"
    code, output = run_cases(tmp_path, *only, before=FAULTY + dead)
    assert code == 70
    assert f"the device is dead after {names[0]}" in output
    # What is named is run whatever its size.
    code, output = run_cases(tmp_path, "--unchecked", *only)
    assert code == 0, output
    assert cases_of(tmp_path).begun == names


def test_past_the_deadline_no_case_begins(tmp_path: Path) -> None:
    code, output = run_cases(tmp_path, "--unchecked", DYNAMS_GPU_DEADLINE="1000")
    assert code == 124, output
    assert cases_of(tmp_path).begun == []
    assert cases_of(tmp_path).summary()["not_reached"] > 100
