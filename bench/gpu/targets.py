"""What is aimed at on a GPU of the H100's class, and how a report is judged by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import units
from gpu import predictions
from gpu.entries import Entry, by_name, median, of_ceiling, time_over


@dataclass(frozen=True)
class Judged:
    """What was measured, in words, and whether it is enough."""

    measured: str
    met: bool


class Rule(Protocol):
    """One condition on a benchmark's entry."""

    def judge(self, entry: Entry) -> Judged: ...


@dataclass(frozen=True)
class OfCeiling:
    """At least this share of the ceiling."""

    least: float

    def judge(self, entry: Entry) -> Judged:
        reached = of_ceiling(entry) or 0.0
        seconds = median(entry)
        words = f"{units.time(seconds)}, {units.rate(entry['extra_info'], seconds)}"
        return Judged(words, reached >= self.least)


@dataclass(frozen=True)
class Within:
    """At most these seconds."""

    seconds: float

    def judge(self, entry: Entry) -> Judged:
        return Judged(units.time(median(entry)), median(entry) <= self.seconds)


@dataclass(frozen=True)
class Launches:
    """At most so many kernels, copies and fills."""

    most: int

    def judge(self, entry: Entry) -> Judged:
        count = entry["extra_info"].get("launches")
        if count is None:
            return Judged("launches unknown", False)
        return Judged(f"{count} launch{'es' * (count != 1)}", count <= self.most)


@dataclass(frozen=True)
class Against:
    """At least this speed-up over a peer of the same run."""

    peer: str
    least: float

    def judge(self, entry: Entry) -> Judged:
        found = entry["extra_info"]["peers"].get(self.peer)
        if found is None:
            return Judged(f"{self.peer} not measured", False)
        words = f"{found['speedup']:.2f} x {self.peer}"
        return Judged(words, found["speedup"] >= self.least)


@dataclass(frozen=True)
class TimeOver:
    """At most this many times the time of a peer of the same run."""

    peer: str
    most: float

    def judge(self, entry: Entry) -> Judged:
        ratio = time_over(entry, self.peer)
        if ratio is None:
            return Judged(f"{self.peer} not measured", False)
        words = f"{units.time(median(entry))}, {ratio:.3f} x the time of {self.peer}"
        return Judged(words, ratio <= self.most)


@dataclass(frozen=True)
class Share:
    """At most this share of a training's time."""

    most: float

    def judge(self, entry: Entry) -> Judged:
        share = entry["extra_info"]["share"]
        return Judged(
            f"{100 * share:.2f} %, {units.time(median(entry))} a refresh", share <= self.most
        )


@dataclass(frozen=True)
class ExtraMemory:
    """At most so many bytes held beyond the inputs."""

    most: int

    def judge(self, entry: Entry) -> Judged:
        held = entry["extra_info"]["extra_bytes"]
        return Judged(f"{held / 2**20:.2f} MiB extra", held <= self.most)


@dataclass(frozen=True)
class Target:
    """A line of the GPU table: the work, what is aimed at, the benchmark that answers, and the conditions on it."""

    work: str
    aim: str
    name: str
    rules: tuple[Rule, ...]


HEAD = "65536x1024-1000"
LANGUAGE_MODEL_HEAD = "8192x4096-128256"
# Sums keep a state for each tile of classes of a row, of as many rows at once as this holds, whatever the batch; the gap none.
MOST_STATES = 64 << 20
COPY_95 = (OfCeiling(0.95),)
COPY_90 = (OfCeiling(0.90),)
FREE = TimeOver("F.linear alone", 1.0)
NEARLY_FREE = (TimeOver("linear_margin alone", 1.03),)
CALL = (Within(5e-6),)
# The entry that training leaves (training_parts.py).
SELECTING = "train_selection_share"

TARGETS = (
    Target("`margin`, 131072 x 1000, float32 (524 MB)", ">= 95 % of the copy", "bench_margin[native-1000-float32]", COPY_95),
    Target("`margin`, 131072 x 1000, bfloat16 (262 MB)", ">= 95 % of the copy", "bench_margin[native-1000-bfloat16]", COPY_95),
    Target("six scores, 131072 x 1000, bfloat16", ">= 90 % of the copy", "bench_six_scores[native-bfloat16]", COPY_90),
    Target("`smallest_k`, 60 % of 1.28 M float32", "<= 10 us, one launch", "bench_smallest_k[native-1.28M-normal]", (Within(10e-6), Launches(1))),
    Target("`smallest_k`, 60 % of 256 M float32", ">= 60 % of the copy, >= 2.5 x torch.topk", "bench_smallest_k[native-256M-normal]", (OfCeiling(0.60), Against("torch.topk(sorted=False)", 2.5))),
    Target("`linear_margin`, bfloat16, 65536 x 1024 -> 1000", "<= 1.00 x the matmul alone", f"bench_linear_margin[{HEAD}]", (FREE,)),
    Target("the same, 10 classes", ">= 90 % of the copy", "bench_linear_margin[65536x1024-10]", COPY_90),
    Target("the same, 100 classes", ">= 90 % of the copy", "bench_linear_margin[65536x1024-100]", COPY_90),
    Target("the same, 8192 x 4096 -> 128256", "<= 1.00 x the matmul alone, O(B) memory", f"bench_linear_margin[{LANGUAGE_MODEL_HEAD}]", (FREE, ExtraMemory(1024 * 8192))),
    Target("`linear_scores` (loss, entropy, gap), bfloat16, 8192 x 4096 -> 128256", "<= 12 ms, O(B) memory", f"bench_linear_scores[{LANGUAGE_MODEL_HEAD}]", (Within(12e-3), ExtraMemory(MOST_STATES + 1024 * 8192))),
    Target("`linear_margin_topk`, 65536 x 1024 -> 1000", "<= 1.03 x linear_margin", f"bench_linear_margin_topk[{HEAD}]", NEARLY_FREE),
    Target("`linear_margin_topk`, 8192 x 4096 -> 128256", "<= 1.03 x linear_margin", f"bench_linear_margin_topk[{LANGUAGE_MODEL_HEAD}]", NEARLY_FREE),
    Target("host time of a call: `margin`", "<= 5 us", "bench_host_overhead[margin]", CALL),
    Target("host time of a call: `smallest_k`", "<= 5 us", "bench_host_overhead[smallest_k]", CALL),
    Target("host time of a call: `linear_margin`", "<= 5 us", "bench_host_overhead[linear_margin]", CALL),
    Target("selection's share of training time (every 10 epochs, ResNet-18, CIFAR-10)", "<= 1 %", SELECTING, (Share(0.01),)),
)  # fmt: skip


def names() -> list[str]:
    """The benchmarks, and the run, that the targets rest on, in the table's order."""
    return [target.name for target in TARGETS]


def cells(target: Target, entry: Entry | None, predicted: predictions.Predicted) -> list[str]:
    """One row of the table, as HEADINGS say."""
    expected = predictions.words(target.name, predicted)
    if entry is None:
        return [target.work, target.aim, "not yet measured", "", expected, "", "", ""]
    judged = [rule.judge(entry) for rule in target.rules]
    measured = [one.measured for one in judged]
    if not any(isinstance(rule, (OfCeiling, Within, TimeOver, Share)) for rule in target.rules):
        measured.insert(0, units.time(median(entry)))
    peers = [
        f"{name} {result['speedup']:.2f} x"
        for name, result in entry["extra_info"].get("peers", {}).items()
    ]
    met = "met" if all(one.met for one in judged) else "missed"
    return [
        target.work,
        target.aim,
        ", ".join(measured),
        share(entry),
        expected,
        predictions.verdict(entry, predicted),
        "; ".join(peers),
        met,
    ]


def share(entry: Entry) -> str:
    """The share of the ceiling; for work of less than 16 MB, whose time is the launch's, so many times the smallest launch."""
    extra = entry["extra_info"]
    floor = extra.get("ceilings", {}).get("launch")
    if extra.get("limit") == "host":
        return ""
    if floor and extra.get("limit") == "copy" and extra.get("bytes", 0) < 16e6:
        return f"{median(entry) / floor:.1f} smallest launches"
    reached = of_ceiling(entry)
    return "" if reached is None else f"{100 * reached:.0f} % of {extra['limit']}"


HEADINGS = [
    "work",
    "target",
    "measured",
    "of the ceiling",
    "predicted",
    "measured against predicted",
    "peers (their time / ours)",
    "met",
]


def markdown(headings: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def table(report: dict[str, Any]) -> str:
    """Every target, as one report answers it."""
    found, predicted = by_name(report["benchmarks"]), predictions.of(report)
    rows = (cells(target, found.get(target.name), predicted) for target in TARGETS)
    return markdown(HEADINGS, rows)


def standing(reports: dict[str, dict[str, Any]]) -> str:
    """Every target, as the newest of several reports that holds it answers it; `reports` by what to call each, oldest first."""
    rows = []
    for target in TARGETS:
        row, source = cells(target, None, predictions.PREDICTED), ""
        for name, report in reports.items():
            entry = by_name(report["benchmarks"]).get(target.name)
            if entry is not None:
                row, source = cells(target, entry, predictions.of(report)), name
        rows.append([*row, source])
    return markdown([*HEADINGS, "report"], rows)
