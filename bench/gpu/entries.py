"""What a benchmark's entry of a report says: its time, its share of the ceiling, its peers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Entry = dict[str, Any]  # a benchmark of a pytest-benchmark report


def median(entry: Entry) -> float:
    """The median seconds of a call."""
    seconds: float = entry["stats"]["median"]
    return seconds


def of_ceiling(entry: Entry) -> float | None:
    """What was reached of the rate that bounds the work, measured in the same run; None for work bound by neither rate."""
    extra = entry["extra_info"]
    ceiling = extra.get("ceilings", {}).get(extra.get("limit"))
    work = extra.get("flops" if "matmul" in extra.get("limit", "") else "bytes")
    if not ceiling or not work:
        return None
    return float(work) / median(entry) / float(ceiling)


def speed_over(entry: Entry, peer: str) -> float | None:
    """How many times as fast as a peer of the same run; None where the peer was not measured."""
    found = entry["extra_info"].get("peers", {}).get(peer)
    return None if found is None else float(found["speedup"])


def time_over(entry: Entry, peer: str) -> float | None:
    """How many times a peer's time; None where the peer was not measured."""
    speed = speed_over(entry, peer)
    return None if speed is None else 1 / speed


def by_name(entries: Iterable[Entry]) -> dict[str, Entry]:
    """The entries of a report by benchmark."""
    return {entry["name"]: entry for entry in entries}
