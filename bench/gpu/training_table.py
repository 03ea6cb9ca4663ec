"""What training on the GPU found, as Markdown (see trained.py, record.py). Needs neither torch nor a GPU."""

from __future__ import annotations

from typing import Any

import units
from gpu import targets


def words(value: float | str, unit: str) -> str:
    """A value as it is read."""
    if isinstance(value, str):
        return value
    if unit == "s":
        return units.time(value)
    if unit == "share":
        return f"{100 * value:.2f} %"
    return f"{value:,.4g} {unit}".strip() if unit != "images/s" else f"{value:,.0f} images/s"


def section(report: dict[str, Any]) -> str:
    """A row for everything found, by part; empty where nothing was."""
    rows = []
    for part, told in report["run"].get("training", {}).items():
        name = f"**{part}**, {units.time(told['seconds'])}"
        for what, value, unit in told["found"]:
            rows.append([name, what, words(value, unit)])
            name = ""
    return targets.markdown(["part", "", "found"], rows) if rows else ""
