"""What the committed reports of GPUs know already: what they do not know runs first, where time may end before all is reached.

As a pytest plugin (`-p gpu.known`) it puts tests first of which no report has all passed, each kind in its own order.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gpu import ledger, page

RESULTS = Path(__file__).parents[1] / "results"


@cache
def reports(folder: Path) -> tuple[dict[str, Any], ...]:
    """The reports of bench/gpu.sh below a folder, <gpu>/<date>-<commit>/kernels.json."""
    found = (json.loads(path.read_text()) for path in sorted(folder.glob("*/*/kernels.json")))
    return tuple(report for report in found if page.is_gpu_report(report))


def passed(suite: str, folder: Path = RESULTS) -> dict[str, int]:
    """How many cases of each test function passed, by the report with the most."""
    most: Counter[str] = Counter()
    for report in reports(folder):
        most |= Counter(report["run"]["suites"].get(suite, {}).get("passed_by_function", {}))
    return dict(most)


def measured(folder: Path = RESULTS) -> dict[str, str]:
    """The benchmarks that some report holds, and when the last of them was made."""
    last: dict[str, str] = {}
    for report in reports(folder):
        for entry in report["benchmarks"]:
            last[entry["name"]] = max(last.get(entry["name"], ""), report["datetime"])
    return last


def trained(folder: Path = RESULTS) -> frozenset[str]:
    """The parts of trainings that went well in some report."""
    suites = (report["run"]["suites"].get(ledger.TRAINING, {}) for report in reports(folder))
    return frozenset(part for suite in suites for part in suite.get("passed_by_function", ()))


def unknown_first(ids: list[str], passed_by_function: dict[str, int]) -> list[int]:
    """The order, as places in `ids`, in which those run of whose function fewer have passed than there are."""
    functions = [name.partition("[")[0] for name in ids]
    count = Counter(functions)
    return sorted(
        range(len(ids)),
        key=lambda place: passed_by_function.get(functions[place], 0) >= count[functions[place]],
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Behind the plugins that leave tests out."""
    order = unknown_first([item.nodeid for item in items], passed(ledger.suite()))
    items[:] = [items[place] for place in order]
