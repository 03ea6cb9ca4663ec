"""GPU reports: how a run's ledger becomes a report, and how the targets are judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpu import ledger, page, results, targets

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
    return targets.cells(target(name), entry(name, **measured))


# ------------------------------------------------------------------------------------ targets


@pytest.mark.parametrize(("share", "met"), [(0.951, "met"), (0.949, "missed")])
def test_a_share_of_the_copy_is_bytes_over_time_over_the_copy_of_the_same_run(
    share: float, met: str
) -> None:
    moved = 524_000_000
    cells = row("bench_margin[native-1000-float32]", seconds=moved / (3.0e12 * share), bytes=moved)
    assert cells[3] == f"{100 * share:.0f} % of copy"
    assert cells[5] == met


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
    assert cells[5] == "missed"


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
    assert cells[5] == met
    # Below 16 MB the time is held against the launch, not against the copy.
    assert cells[3] == f"{seconds / 1.5e-6:.1f} smallest launches"


def test_a_peer_that_was_not_measured_meets_nothing() -> None:
    cells = row("bench_smallest_k[native-256M-normal]", seconds=1e-3, bytes=2_867_200_000, peers={})
    assert "torch.topk(sorted=False) not measured" in cells[2]
    assert cells[5] == "missed"


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
    assert cells[5] == met


@pytest.mark.parametrize(("theirs", "met"), [(0.98e-3, "met"), (0.96e-3, "missed")])
def test_selection_may_cost_three_percent(theirs: float, met: str) -> None:
    name = "bench_linear_margin_topk[65536x1024-1000]"
    assert row(name, seconds=1e-3, peers={"linear_margin alone": theirs})[5] == met


def test_what_no_report_holds_is_not_yet_measured() -> None:
    text = targets.table([])
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


def test_every_target_names_a_benchmark_that_exists() -> None:
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "gpu"],
        cwd=BENCH,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {line.partition("::")[2] for line in collected.splitlines()}
    assert set(targets.names()) <= names


# ------------------------------------------------------------------------------------ the report


def write_run(folder: Path, lines: list[Any], environment: Any = FACTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / results.LEDGER).write_text("".join(json.dumps(line) + "\n" for line in lines))


def stage(name: str, outcome: str, seconds: int) -> dict[str, Any]:
    return {"stage": name, "outcome": outcome, "seconds": seconds, "note": ""}


LINES: list[Any] = [
    stage("environment", "ok", 9),
    stage("tests, native", "failed", 70),
    {"tests": {"backend": "native", "passed": 9, "failed": 1, "skipped": 2, "failing": ["a::b"]}},
    {"session": {"ceilings": CEILINGS, "peers": {"torch": "2.11.0", "quack": "not installed"}}},
    {"begin": "bench/gpu/x.py::bench_margin[native-1000-float32]"},
    {
        "end": "bench/gpu/x.py::bench_margin[native-1000-float32]",
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
    {"begin": "bench/gpu/x.py::bench_widths"},
]


def test_a_page_says_what_ran_what_failed_and_what_was_cut_off(tmp_path: Path) -> None:
    write_run(tmp_path, LINES)
    results.write_page(tmp_path)
    text = (tmp_path / "kernels.md").read_text()
    assert "NVIDIA H100 80GB HBM3, driver 580.1" in text
    assert "copy 3.00 TB/s" in text
    assert "| tests, native | failed | 70 s |" in text
    assert "9 passed, 1 failed, 2 skipped" in text
    assert "failed: `a::b`" in text
    assert "| margin[native-1000-float32] | 180 us | 2.92 TB/s | 97 % of copy | 1 | clone" in text
    assert "quack not installed" in text
    assert "quack topk(2): ValueError: no" in text
    assert "`bench_widths`: the process died, hung or was stopped here" in text


def test_a_ledger_cut_off_in_the_middle_of_a_line_keeps_the_rest(tmp_path: Path) -> None:
    write_run(tmp_path, LINES)
    with (tmp_path / results.LEDGER).open("a") as file:
        file.write('{"end": "bench/gpu/x.py::bench_wid')
    kept = ledger.read(tmp_path / results.LEDGER)
    assert [one["name"] for one in kept.entries] == ["bench_margin[native-1000-float32]"]
    assert list(kept.failures) == ["bench/gpu/x.py::bench_widths"]


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


# ------------------------------------------------------------------------------------ tests and logs

JUNIT = """<?xml version="1.0"?><testsuites><testsuite name="pytest" hostname="h" tests="3">
<testcase classname="t.m" name="good"/><testcase classname="t.m" name="bad"><failure>x</failure></testcase>
<testcase classname="t.m" name="not"><skipped/></testcase></testsuite></testsuites>"""


def test_both_backends_tests_end_in_one_file(tmp_path: Path) -> None:
    write_run(tmp_path, [])
    source = tmp_path / "one.xml"
    source.write_text(JUNIT)
    for backend in ("native", "triton"):
        results.add_tests(tmp_path, backend, source)
    merged = (tmp_path / "junit.xml").read_text()
    assert merged.count("<testsuite ") == 2
    assert "hostname" not in merged
    summaries = ledger.read(tmp_path / results.LEDGER).tests
    assert [one["backend"] for one in summaries] == ["native", "triton"]
    assert summaries[0] == {
        "backend": "native",
        "passed": 1,
        "failed": 1,
        "skipped": 1,
        "failing": ["t.m::bad"],
    }


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


def test_the_tests_outcome_is_judged_by_the_worst_tag(tmp_path: Path) -> None:
    suites = results.ET.fromstring(
        '<testsuites><testsuite><testcase classname="c" name="n"><skipped/><error/></testcase>'
        "</testsuite></testsuites>"
    )
    assert results.suite_summary("b", suites)["failed"] == 1
