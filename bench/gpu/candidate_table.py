"""Which kernel a linear head should be served by, as one report answers it, and whether the table of choices says so. Needs neither torch nor a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import units
from gpu import predictions
from gpu.entries import Entry, by_name, median, of_ceiling
from gpu.targets import markdown

# What is scored, and batch, width and classes: the targets' shapes, one of few tiles, and one that no tile divides. The first is
# lost where a kernel takes the process with it, which is known from then on.
WORK: dict[str, tuple[str, tuple[int, int, int]]] = {
    "gap 4096x1024-1000": ("gap", (4096, 1024, 1000)),
    "gap 65536x1024-1000": ("gap", (65_536, 1024, 1000)),
    "gap 8192x4096-128256": ("gap", (8192, 4096, 128_256)),
    "sums 8192x4096-128256": ("loss, entropy, gap", (8192, 4096, 128_256)),
    "gap 65536x1024-10": ("gap", (65_536, 1024, 10)),
    "gap 65536x1024-100": ("gap", (65_536, 1024, 100)),
    "sums 4096x1024-1000": ("loss, entropy, gap", (4096, 1024, 1000)),
    "sums 65536x1024-1000": ("loss, entropy, gap", (65_536, 1024, 1000)),
    "sums 65536x1024-100": ("loss, entropy, gap", (65_536, 1024, 100)),
    "gap 50001x1000-1111": ("gap", (50_001, 1000, 1111)),
}
BENCHMARK = "bench_linear_candidates"
PRODUCT = "F.linear alone"
# A choice so much slower than the fastest is wrong; less is no more than a run differs from the next.
TOLERATED = 0.02
TABLE = "`dynams_kernels/_backends/linear_choice.py`"
HEADINGS = [
    "work",
    "",
    "time",
    f"x {PRODUCT}",
    "TFLOP/s",
    "of the ceiling",
    "predicted",
    "against predicted",
]


def name_of(work: str) -> str:
    """The benchmark of a work."""
    return f"{BENCHMARK}[{work}]"


def before_linear(names: Sequence[str]) -> list[str]:
    """The candidates' benchmarks among others, before the first of a linear head: a kernel that hangs is then known by its name."""
    first = next((n for n, name in enumerate(names) if "linear" in name), len(names))
    return [*names[:first], *map(name_of, WORK), *names[first:]]


@dataclass(frozen=True)
class Measured:
    """A candidate or a peer of one entry."""

    name: str
    ratio: float  # to the product's time: the median over rounds, so that a clock that drifts slows both
    entry: Entry  # as if it were a benchmark of its own


def measured(entry: Entry) -> list[Measured]:
    """All that an entry timed, the fastest first."""
    found = [_alone(entry, PRODUCT, median(entry), 1.0)]
    for name, result in entry["extra_info"].get("peers", {}).items():
        found.append(_alone(entry, name, result["median_s"], result["speedup"]))
    return sorted(found, key=lambda one: one.ratio)


def _alone(entry: Entry, name: str, seconds: float, ratio: float) -> Measured:
    extra = {**entry["extra_info"], "peers": {PRODUCT: {"speedup": 1 / ratio}}}
    return Measured(name, ratio, {**entry, "stats": {"median": seconds}, "extra_info": extra})


def rows(entry: Entry, work: str, predicted: predictions.Predicted) -> Iterator[list[str]]:
    """The table's rows of one work."""
    extra = entry["extra_info"]
    for place, one in enumerate(measured(entry)):
        marked = f"**{one.name}**" if one.name in extra["able"] else one.name
        share = of_ceiling(one.entry)
        yield [
            work if place == 0 else "",
            f"{marked} (chosen)" if one.name == extra["chosen"] else marked,
            units.time(median(one.entry)),
            f"{one.ratio:.3f}",
            f"{extra['flops'] / median(one.entry) / 1e12:.0f}",
            "" if share is None else f"{100 * share:.0f} % of {extra['limit']}",
            predictions.words(one.name, predicted),
            predictions.verdict({**one.entry, "name": one.name}, predicted),
        ]


def verdict(entry: Entry, work: str) -> str:
    """Whether the table of choices names the fastest candidate of a work."""
    extra = entry["extra_info"]
    ranked = [one for one in measured(entry) if one.name in extra["able"]]
    if not ranked:
        return f"`{work}`: no candidate was measured."
    fastest, chosen = ranked[0], extra["chosen"]
    ratio = next((one.ratio for one in ranked if one.name == chosen), None)
    if chosen == fastest.name:
        return f"`{work}`: the table's choice, {chosen}, is the fastest."
    if ratio is None:
        why = extra.get("failed_peers", {}).get(chosen, "not tried: a process died or hung in it")
        return f"`{work}`: **the table should say {fastest.name}**: its choice, {chosen}, was not measured ({why})."
    slower = ratio / fastest.ratio - 1
    if slower <= TOLERATED:
        return f"`{work}`: the table's choice, {chosen}, is within {100 * TOLERATED:.0f} % of the fastest, {fastest.name}."
    return f"`{work}`: **the table should say {fastest.name}**: its choice, {chosen}, takes {100 * slower:.1f} % longer."


def section(report: dict[str, Any]) -> str:
    """The tables of all works that a report holds, and what the table of choices should say; empty where it holds none."""
    found = by_name(report["benchmarks"])
    entries = {work: found[name_of(work)] for work in WORK if name_of(work) in found}
    if not entries:
        return ""
    predicted = predictions.of_candidates(report)
    table = [
        row for work, entry in entries.items() for row in rows(entry, work, predicted.get(work, {}))
    ]
    lines = [f"- {verdict(entry, work)}" for work, entry in entries.items()]
    why = next(iter(entries.values()))["extra_info"].get("why_no_hopper")
    if why:
        lines.append(f"- No kernels for Hopper: {why}.")
    intro = f"Each candidate (bold) was held against float64 before it was timed; the table is {TABLE}. `sums` are loss, entropy and gap."
    return "\n\n".join([intro, markdown(HEADINGS, table).rstrip("\n"), "\n".join(lines)]) + "\n"
