"""Writes a pytest-benchmark JSON report as a Markdown table: `python bench/report.py REPORT.json > REPORT.md`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError


def _rate(extra: dict[str, Any], seconds: float) -> str:
    if "bytes" in extra:
        return f"{extra['bytes'] / seconds / 1e9:.1f} GB/s"
    if "flops" in extra:
        return f"{extra['flops'] / seconds / 1e9:.0f} GFLOP/s"
    return ""


def _name(benchmark: dict[str, Any]) -> str:
    return benchmark["name"].removeprefix("bench_").replace("torch.", "")


def table(report: dict[str, Any]) -> str:
    """The table, after a line on the machine and the commit."""
    machine, commit = report["machine_info"], report["commit_info"]
    threads = {entry["extra_info"].get("threads") for entry in report["benchmarks"]}
    lines = [
        f"{machine['cpu'].get('brand_raw', machine['processor'])}, {min(threads)} threads, Python "
        f"{machine['python_version']}, torch {machine.get('torch', 'unknown')}, commit {commit['id'][:10]}, "
        f"{report['datetime'][:10]}. Medians; speed-up is the median of the rounds' ratios peer / ours, above 1 where "
        "ours is faster.",
        "",
        "| benchmark | ours | rate | peer | peer's time | speed-up |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for entry in report["benchmarks"]:
        median = entry["stats"]["median"]
        ours = [_name(entry), _time(median), _rate(entry["extra_info"], median)]
        for peer, result in entry["extra_info"].get("peers", {}).items():
            row = [*ours, peer, _time(result["median_s"]), f"{result['speedup']:.2f}"]
            lines.append("| " + " | ".join(row) + " |")
            ours = ["", "", ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python bench/report.py REPORT.json")
    print(table(json.loads(Path(sys.argv[1]).read_text())), end="")
