"""GPU reports: how a run's ledger becomes a report, and how the targets are judged."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gpu import ledger, page, predictions, results, targets

BENCH = Path(__file__).parents[2] / "bench"
CEILINGS = {
    "copy": 3.0e12,
    "bf16 matmul": 7.5e14,
    "tf32 matmul": 4.0e14,
    "fp32 matmul": 5.0e13,
    "launch": 1.5e-6,
}
FACTS = {
    "gpu": {"name": "NVIDIA H100 80GB HBM3", "driver_version": "580.1", "capability": "9.0"},
    "torch": "2.11.0",
    "nvcc": "Cuda compilation tools, release 13.0",
    "python_version": "3.12.3",
    "packages": {"triton": "3.6.0"},
    "commit": {"id": "0123456789abcdef", "dirty": False},
    "datetime": "2026-12-01T10:00:00+00:00",
}


def entry(name: str, seconds: float, *, peers: dict[str, float] | None = None, **extra: Any) -> Any:
    """A benchmark; peers by their seconds."""
    info = {"ceilings": CEILINGS, "limit": "copy", "bytes": 0, "flops": 0, "how": "graph", **extra}
    info["peers"] = {
        peer: {"median_s": theirs, "speedup": theirs / seconds, "how": "graph"}
        for peer, theirs in (peers or {}).items()
    }
    return {"name": name, "stats": {"median": seconds}, "extra_info": info}


def target(name: str) -> targets.Target:
    return next(one for one in targets.TARGETS if one.name == name)


def row(name: str, **measured: Any) -> list[str]:
    return targets.cells(target(name), entry(name, **measured), predictions.PREDICTED)


# ------------------------------------------------------------------------------------ targets


@pytest.mark.parametrize(("share", "met"), [(0.951, "met"), (0.949, "missed")])
def test_a_share_of_the_copy_is_bytes_over_time_over_the_copy_of_the_same_run(
    share: float, met: str
) -> None:
    moved = 524_000_000
    cells = row("bench_margin[native-1000-float32]", seconds=moved / (3.0e12 * share), bytes=moved)
    assert cells[3] == f"{100 * share:.0f} % of copy"
    assert cells[-1] == met


def test_work_bound_by_the_product_is_held_against_the_product() -> None:
    flops = 2 * 65536 * 1024 * 1000
    seconds = flops / 6e14
    cells = row(
        "bench_linear_margin[65536x1024-1000]",
        seconds=seconds,
        limit="bf16 matmul",
        flops=flops,
        bytes=136_000_000,
        peers={"F.linear alone": seconds * 0.99},
    )
    assert cells[3] == "80 % of bf16 matmul"
    assert "1.010 x the time of F.linear alone" in cells[2]
    assert cells[-1] == "missed"


@pytest.mark.parametrize(
    ("seconds", "launches", "met"),
    [(9.9e-6, 1, "met"), (10.1e-6, 1, "missed"), (9.9e-6, 2, "missed"), (9.9e-6, None, "missed")],
)
def test_every_condition_of_a_target_must_hold(
    seconds: float, launches: int | None, met: str
) -> None:
    cells = row(
        "bench_smallest_k[native-1.28M-normal]",
        seconds=seconds,
        launches=launches,
        bytes=14_300_000,
    )
    assert cells[-1] == met
    # Below 16 MB the time is held against the launch, not against the copy.
    assert cells[3] == f"{seconds / 1.5e-6:.1f} smallest launches"


def test_a_peer_that_was_not_measured_meets_nothing() -> None:
    cells = row("bench_smallest_k[native-256M-normal]", seconds=1e-3, bytes=2_867_200_000, peers={})
    assert "torch.topk(sorted=False) not measured" in cells[2]
    assert cells[-1] == "missed"


@pytest.mark.parametrize(("held", "met"), [(1 << 20, "met"), (1 << 30, "missed")])
def test_memory_that_grows_with_the_classes_misses(held: int, met: str) -> None:
    cells = row(
        "bench_linear_margin[8192x4096-128256]",
        seconds=0.01,
        limit="bf16 matmul",
        flops=2 * 8192 * 4096 * 128_256,
        extra_bytes=held,
        peers={"F.linear alone": 0.011},
    )
    assert cells[-1] == met


@pytest.mark.parametrize(("theirs", "met"), [(0.98e-3, "met"), (0.96e-3, "missed")])
def test_selection_may_cost_three_percent(theirs: float, met: str) -> None:
    name = "bench_linear_margin_topk[65536x1024-1000]"
    assert row(name, seconds=1e-3, peers={"linear_margin alone": theirs})[-1] == met


@pytest.mark.parametrize(
    ("name", "seconds", "peers", "verdict"),
    [
        ("bench_smallest_k[native-1.28M-normal]", 14.9e-6, {}, "below (faster)"),
        ("bench_smallest_k[native-1.28M-normal]", 17e-6, {}, "within"),
        ("bench_smallest_k[native-1.28M-normal]", 20.1e-6, {}, "above (slower)"),
        # 2.8672 GB at 3 TB/s: 956 us. The share of the copy, then the speed over torch's.
        ("bench_smallest_k[native-256M-normal]", 956e-6 / 0.60, {"torch.topk(sorted=False)": 5e-3}, "above (faster), within"),
        ("bench_smallest_k[native-256M-normal]", 956e-6 / 0.40, {}, "below (slower), not measured"),
        ("bench_linear_margin[65536x1024-1000]", 1e-3, {"F.linear alone": 0.99e-3}, "below (faster)"),
        ("bench_linear_margin[65536x1024-1000]", 1e-3, {"F.linear alone": 0.7e-3}, "above (slower)"),
        ("bench_host_overhead[linear_margin]", 54e-6, {}, "below (faster)"),
        ("bench_host_overhead[linear_margin]", 400e-6, {}, "within"),
        ("bench_widths", 1.0, {}, ""),
    ],
)  # fmt: skip
def test_what_is_measured_is_held_against_what_was_predicted(
    name: str, seconds: float, peers: dict[str, float], verdict: str
) -> None:
    predicted: predictions.Predicted = {
        "bench_smallest_k[native-1.28M-normal]": (("us", 15, 20),),
        "bench_smallest_k[native-256M-normal]": (("copy", 48, 55), ("speed of torch.topk(sorted=False)", 2.5, 4)),
        "bench_linear_margin[65536x1024-1000]": (("time of F.linear alone", 1.15, 1.3),),
        "bench_host_overhead[linear_margin]": (("us", 55, None),),
    }  # fmt: skip
    made = entry(name, seconds, bytes=2_867_200_000, peers=peers)
    assert predictions.verdict(made, predicted) == verdict


def test_predictions_are_of_benchmarks_that_exist_in_a_measure_they_have() -> None:
    for name, predicted in predictions.PREDICTED.items():
        assert predictions.words(name, predictions.PREDICTED)
        for measure, least, most in predicted:
            assert 0 < least <= (most or least)
            words = {"copy", "us"} | {
                f"{quantity} of {peer}"
                for quantity in ("time", "speed")
                for peer in (
                    "F.linear alone",
                    "linear_margin alone",
                    "torch.topk(sorted=False)",
                    "torch.topk(2)",
                    "a call for each width",
                    "full width",
                )
            }
            assert measure in words
    assert set(predictions.PREDICTED) <= collected_names()
    # Whatever benchmark has a target is predicted.
    assert set(targets.names()) - {targets.SELECTING} <= set(predictions.PREDICTED)


@pytest.mark.parametrize(("share", "met"), [(0.0099, "met"), (0.0101, "missed")])
def test_selecting_is_judged_by_its_share_of_the_training(share: float, met: str) -> None:
    measured = entry(targets.SELECTING, 0.2, limit="training", share=share)
    cells = targets.cells(target(targets.SELECTING), measured, predictions.PREDICTED)
    assert cells[2] == f"{100 * share:.2f} %, 200 ms a refresh"
    assert cells[-1] == met


def test_what_no_report_holds_is_not_yet_measured() -> None:
    text = targets.table({"benchmarks": []})
    assert text.count("not yet measured") == len(targets.TARGETS)
    assert "missed" not in text


def test_the_newest_report_that_holds_a_target_answers_it() -> None:
    name = "bench_host_overhead[margin]"
    old = {"benchmarks": [entry(name, 9e-6), entry("bench_host_overhead[smallest_k]", 4e-6)]}
    new = {"benchmarks": [entry(name, 3e-6)]}
    lines = targets.standing({"old": old, "new": new}).splitlines()
    margin = next(line for line in lines if "call: `margin`" in line)
    assert "3 us" in margin
    assert margin.endswith("| met | new |")
    assert next(line for line in lines if "call: `smallest_k`" in line).endswith("| met | old |")


@cache
def collected_names() -> set[str]:
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "gpu"],
        cwd=BENCH,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {line.partition("::")[2] for line in collected.splitlines()}


def test_every_target_names_a_benchmark_that_exists() -> None:
    assert set(targets.names()) - {targets.SELECTING} <= collected_names()


# ------------------------------------------------------------------------------------ the report


def write_run(folder: Path, lines: list[Any], environment: Any = FACTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for line in ({"environment": environment, "plan": "first"}, *lines):
        ledger.append(folder / results.LEDGER, line)


def stage(name: str, outcome: str, seconds: int) -> dict[str, Any]:
    return {"stage": name, "outcome": outcome, "seconds": seconds, "note": ""}


MARGIN = "bench/gpu/x.py::bench_margin[native-1000-float32]"
LINES: list[Any] = [
    stage("environment", "ok", 9),
    {"suite": "native", "collected": 7},
    *({"suite": "native", "end": f"t/a.py::f[{n}]", "outcome": "passed"} for n in (1, 2)),
    {"suite": "native", "end": "t/a.py::g", "outcome": "failed", "why": "off by 3"},
    *(
        {"suite": "native", "end": f"t/a.py::p[{n}]", "outcome": "failed", "why": "no"}
        for n in (1, 2)
    ),
    {"suite": "native", "end": "t/a.py::h", "outcome": "not reached", "why": "no time was left"},
    {"suite": "native", "begin": "t/a.py::k"},
    stage("tests, native", "failed", 70),
    {"session": {"ceilings": CEILINGS, "peers": {"torch": "2.11.0", "quack": "not installed"}}},
    {"suite": "benchmarks", "collected": 3},
    {"suite": "benchmarks", "begin": MARGIN},
    {
        "suite": "benchmarks",
        "end": MARGIN,
        "outcome": "passed",
        "entry": entry(
            "bench_margin[native-1000-float32]",
            180e-6,
            bytes=524_812_288,
            launches=1,
            peers={"clone": 360e-6},
            failed_peers={"quack topk(2)": "ValueError: no"},
        ),
    },
    {
        "suite": "benchmarks",
        "end": "bench/gpu/x.py::bench_mask",
        "outcome": "skipped",
        "why": "no mask",
    },
    {"suite": "benchmarks", "begin": "bench/gpu/x.py::bench_widths"},
]


def test_a_page_says_what_ran_what_failed_and_what_was_cut_off(tmp_path: Path) -> None:
    write_run(tmp_path, LINES)
    results.write_page(tmp_path)
    text = (tmp_path / "kernels.md").read_text()
    assert "NVIDIA H100 80GB HBM3, driver 580.1" in text
    assert "Plan: first." in text
    assert "copy 3.00 TB/s" in text
    assert "| tests, native | failed | 70 s |" in text
    assert (
        "- `native`: 2 passed, 3 failed, 0 skipped, 2 not reached of 7; it did not run to its end"
        in text
    )
    assert "failed: `a.py::g`: off by 3" in text
    assert "failed: `a.py::p[1]` and 1 more of it: no" in text
    assert "stopped: `a.py::k`" in text
    row = "| margin[native-1000-float32] | 180 us | 2.92 TB/s | 97 % of copy | 98 to 103 % of the copy | below (slower) | 1 | clone"
    assert row in text
    assert predictions.MADE in text
    assert "quack not installed" in text
    assert "quack topk(2): ValueError: no" in text
    assert "`bench_mask`: no mask" in text
    assert "stopped: `x.py::bench_widths`" in text


def test_every_outcome_up_to_the_cut_is_in_the_report(tmp_path: Path) -> None:
    write_run(tmp_path, LINES)
    with (tmp_path / results.LEDGER).open("a") as file:
        file.write('{"suite": "native", "end": "t/a.py::k", "outc')
    suite = results.report(tmp_path)["run"]["suites"]["native"]
    assert suite["passed_by_function"] == {"t/a.py::f": 2}
    assert suite["failing"] == {"t/a.py::g": "off by 3", "t/a.py::p[1]": "no", "t/a.py::p[2]": "no"}
    assert suite["running"] == ["t/a.py::k"]
    assert suite["not_reached"] == 2
    assert not suite["finished"]


def test_what_failed_or_was_running_is_suspect(tmp_path: Path) -> None:
    cases = [
        {"suite": "cases", "end": "native: good", "outcome": "passed"},
        {"suite": "cases", "begin": "native: deadly"},
        *({"suite": "cases", "end": f"triton: bad {n}", "outcome": "failed"} for n in range(20)),
    ]
    write_run(tmp_path, [*LINES, *cases])
    found = list(results.suspects(tmp_path))
    assert found[:2] == ["case triton: bad 0", "case triton: bad 1"]
    assert len(found) == results.MOST_SUSPECTS + 4
    assert found[-4] == "test native t/a.py::g"
    assert found[-1] == "test native t/a.py::k"


@pytest.mark.parametrize(
    ("outcomes", "collected", "code", "word"),
    [
        (["passed"], 1, 0, "ok"),
        (["passed", "skipped"], 2, 0, "ok"),
        (["passed", "failed"], 2, 1, "failed"),
        (["passed", "failed"], 9, 137, "failed"),
        (["passed", "not reached"], 2, 0, "cut off"),
        (["passed"], 9, 137, "cut off"),
        (["passed"], 9, 1, "failed"),
        ([], 0, 137, "cut off"),
        ([], 0, 0, "failed"),
    ],
)
def test_a_suite_comes_to_what_its_outcomes_and_its_process_say(
    outcomes: list[str], collected: int, code: int, word: str
) -> None:
    suite = ledger.Suite()
    suite.add({"collected": collected})
    for number, outcome in enumerate(outcomes):
        suite.add({"end": str(number), "outcome": outcome})
    assert results.suite_outcome(suite, code) == word


def test_a_finished_run_is_one_json_report_that_gives_the_same_page(tmp_path: Path) -> None:
    write_run(tmp_path, LINES)
    results.finish(tmp_path)
    assert not (tmp_path / results.LEDGER).exists()
    report = json.loads((tmp_path / "kernels.json").read_text())
    assert page.is_gpu_report(report)
    printed = subprocess.run(
        [sys.executable, str(BENCH / "report.py"), str(tmp_path / "kernels.json")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == (tmp_path / "kernels.md").read_text().strip()


def test_a_report_keeps_the_predictions_of_its_own_run(tmp_path: Path) -> None:
    write_run(tmp_path, LINES)
    results.finish(tmp_path)
    report = json.loads((tmp_path / "kernels.json").read_text())
    kept = report["run"]["predictions"]
    assert kept["made"] == predictions.MADE
    assert kept["by_benchmark"].keys() == predictions.PREDICTED.keys()
    kept["by_benchmark"] = {"bench_margin[native-1000-float32]": [["us", 1, None]]}
    for text in (page.page(report), targets.standing({"this one": report})):
        line = next(
            line for line in text.splitlines() if "`margin`, 131072 x 1000, float32" in line
        )
        assert "| >= 1 us | within |" in line


def test_a_run_without_any_benchmark_still_has_a_page(tmp_path: Path) -> None:
    write_run(tmp_path, [stage("environment", "ok", 3)])
    results.finish(tmp_path)
    assert "Ceilings: not measured." in (tmp_path / "kernels.md").read_text()


def test_the_results_page_points_at_the_report_of_each_target(tmp_path: Path) -> None:
    for folder, datetime, seconds in (
        ("b-new", "2026-12-02", 170e-6),
        ("a-old", "2026-12-01", 1e-3),
    ):
        lines = [
            {
                "suite": "benchmarks",
                "end": "x",
                "outcome": "passed",
                "entry": entry("bench_margin[native-1000-float32]", seconds, bytes=524_812_288),
            }
        ]
        run = tmp_path / "h100" / folder
        write_run(run, lines, {**FACTS, "datetime": datetime})
        results.finish(run)
    cpu = tmp_path / "xeon" / "date"
    cpu.mkdir(parents=True)
    (cpu / "kernels.json").write_text(json.dumps({"machine_info": {}, "benchmarks": []}))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- gpu-targets:begin -->\nold\n<!-- gpu-targets:end -->\nafter\n")
    subprocess.run(
        [sys.executable, str(BENCH / "report.py"), "--gpu-targets", str(readme)], check=True
    )
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    line = next(one for one in text.splitlines() if "`margin`, 131072 x 1000, float32" in one)
    assert line.endswith("| met | [h100/b-new](h100/b-new/kernels.md) |")
    assert text.count("not yet measured") == len(targets.TARGETS) - 1


def test_the_committed_results_page_is_up_to_date(tmp_path: Path) -> None:
    page_path = BENCH / "results" / "README.md"
    begin, end = "<!-- gpu-targets:begin -->\n", "<!-- gpu-targets:end -->"
    written = page_path.read_text().partition(begin)[2].partition(end)[0]
    import report

    assert written == report.gpu_targets(BENCH / "results")


def test_a_long_log_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"begin" + b"x" * (8 << 20) + b"end")
    results.trim(log)
    data = log.read_bytes()
    assert data.startswith(b"begin")
    assert data.endswith(b"end")
    assert len(data) < 5 << 20
    short = tmp_path / "short"
    short.write_bytes(b"all of it")
    results.trim(short)
    assert short.read_bytes() == b"all of it"
