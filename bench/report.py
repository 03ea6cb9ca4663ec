"""Writes a pytest-benchmark JSON report as a Markdown table.

python bench/report.py REPORT.json                    the whole table, to standard output
python bench/report.py REPORT.json --into README.md   its headlines, between the bench (of a GPU: gpu-bench) :begin and :end marks
python bench/report.py REPORT.json --targets bench/results/README.md    what was aimed at and what was reached, likewise
python bench/report.py --gpu-targets bench/results/README.md    where each GPU target stands, by the reports committed beside the page

A report of bench/gpu.sh is recognised as such, and written as its kernels.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cpu_targets
import units
from gpu import headlines as gpu_headlines
from gpu import page
from gpu import targets as gpu
from marks import insert


def _name(benchmark: dict[str, Any]) -> str:
    return benchmark["name"].removeprefix("bench_").replace("torch.", "")


def table(report: dict[str, Any]) -> str:
    """The table, after a line on the machine and the commit."""
    lines = [
        f"{_machine(report)}. Medians; speed-up is the median of the rounds' ratios peer / ours, above 1 where ours is faster. "
        "A floor is work that cannot be spared; over floor is the median of the rounds' ratios ours / floor.",
        "",
        "| benchmark | ours | rate | peer or floor | its time | speed-up | over floor |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    for entry in report["benchmarks"]:
        median = entry["stats"]["median"]
        ours = [_name(entry), units.time(median), units.rate(entry["extra_info"], median)]
        rows = [
            (peer, result, f"{result['speedup']:.2f}", "")
            for peer, result in entry["extra_info"].get("peers", {}).items()
        ]
        rows += [
            (floor, result, "", f"{result['ratio']:.2f}")
            for floor, result in entry["extra_info"].get("floors", {}).items()
        ]
        for other, result, speedup, over in rows:
            row = [*ours, other, units.time(result["median_s"]), speedup, over]
            lines.append("| " + " | ".join(row) + " |")
            ours = ["", "", ""]
    return "\n".join(lines) + "\n"


# What a reader of the front page wants to know: benchmark, peer, and how to say it.
HEADLINES = (
    ("bench_margin[1000-float32]", "logits.topk(2), subtracted", "`margin`, 1000 classes, float32"),
    ("bench_margin[1000-bfloat16]", "logits.topk(2), subtracted", "`margin`, 1000 classes, bfloat16"),
    ("bench_six_scores[100-float32]", "the same six in torch", "`scores`, six kinds, 100 classes"),
    ("bench_six_scores[1000-float32]", "the same six in torch", "`scores`, six kinds, 1000 classes"),
    ("bench_smallest_k[normal-1,280,000]", "torch.topk(sorted=False)", "`smallest_k`, 60 % of 1.28 M"),
    ("bench_smallest_k[normal-1,280,000]", "numpy.argpartition", "`smallest_k`, 60 % of 1.28 M"),
    ("bench_smallest_k[normal-20,000,000]", "torch.topk(sorted=False)", "`smallest_k`, 60 % of 20 M"),
    ("bench_linear_margin[(4096, 1024, 1000)-float32]", "F.linear alone", "`linear_margin`, 4096 x 1024 -> 1000, float32"),
    ("bench_linear_margin[(2048, 1024, 32000)-bfloat16]", "F.linear alone", "`linear_margin`, 2048 x 1024 -> 32000, bfloat16"),
    ("bench_linear_scores[(2048, 1024, 32000)-float32]", "F.linear alone", "`linear_scores`, gap, loss and entropy, 2048 x 1024 -> 32000, float32"),
    ("bench_linear_scores[(2048, 1024, 32000)-float32]", "F.linear, then the three by hand", "`linear_scores`, the same"),
    ("bench_linear_scores[(2048, 1024, 32000)-bfloat16]", "F.linear, then the three by hand", "`linear_scores`, the same, bfloat16"),
)  # fmt: skip


def _machine(report: dict[str, Any]) -> str:
    machine, commit = report["machine_info"], report["commit_info"]
    threads = max(entry["extra_info"]["threads"] for entry in report["benchmarks"])
    return (
        f"{machine['cpu'].get('brand_raw', machine['processor'])}, {threads} threads, "
        f"{machine.get('isa')} kernels, Python {machine['python_version']}, torch {machine.get('torch')}, "
        f"commit {commit['id'][:10]}, {report['datetime'][:10]}"
    )


def _by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"].replace("torch.", ""): entry for entry in report["benchmarks"]}


def targets(report: dict[str, Any]) -> str:
    """What was aimed at, and what this report reached."""
    entries = {name.removeprefix("bench_"): entry for name, entry in _by_name(report).items()}
    return f"{cpu_targets.table(entries)}\n{_machine(report)}.\n"


def headlines(report: dict[str, Any]) -> str:
    """The table of the front page."""
    found = _by_name(report)
    lines = ["| | ours | against | speed-up |", "|---|--:|---|--:|"]
    for name, peer, saying in HEADLINES:
        entry = found[name]
        result = entry["extra_info"]["peers"][peer]
        time = units.time(entry["stats"]["median"])
        lines.append(f"| {saying} | {time} | `{peer}` | {result['speedup']:.1f} x |")
    lines += ["", f"Medians of one run ({_machine(report)}); above 1 ours is faster."]
    return "\n".join(lines) + "\n"


def gpu_targets(results: Path) -> str:
    """Where each GPU target stands, by the reports of bench/gpu.sh below a folder, <gpu>/<date>-<commit>/kernels.json."""
    reports = {}
    for path in results.glob("*/*/kernels.json"):
        report = json.loads(path.read_text())
        if page.is_gpu_report(report):
            reports[path.parent.relative_to(results).as_posix()] = report
    oldest_first = sorted(reports, key=lambda name: reports[name]["datetime"])
    return gpu.standing({f"[{name}]({name}/kernels.md)": reports[name] for name in oldest_first})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, nargs="?")
    parser.add_argument("--into", type=Path, metavar="PAGE")
    parser.add_argument("--targets", type=Path, metavar="PAGE")
    parser.add_argument("--gpu-targets", type=Path, metavar="PAGE")
    options = parser.parse_args()
    if options.gpu_targets is not None:
        insert(options.gpu_targets, "gpu-targets", gpu_targets(options.gpu_targets.parent))
    if options.report is None:
        if options.gpu_targets is None or options.into is not None or options.targets is not None:
            parser.error("REPORT is needed, but for --gpu-targets alone")
        return
    report = json.loads(options.report.read_text())
    if options.into is not None:
        of_gpu = page.is_gpu_report(report)
        mark, text = (
            ("gpu-bench", gpu_headlines.table(report)) if of_gpu else ("bench", headlines(report))
        )
        insert(options.into, mark, text)
    if options.targets is not None:
        insert(options.targets, "targets", targets(report))
    if options.into is None and options.targets is None:
        print(page.page(report) if page.is_gpu_report(report) else table(report), end="")


if __name__ == "__main__":
    main()
