"""What the GPU kernels are expected to reach, written down before they are measured. Reports show it beside each figure.

A miss in either direction is explained (bench/results/NOTES.md) before the next change; whoever changes a kernel changes its
line here, and MADE. A report keeps the predictions of its own run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpu.entries import Entry, median, of_ceiling, speed_over, time_over

# When, for which version, and from what.
MADE = (
    "2026-11-27, version 0.1.0, after nine runs (one H200, eight H100): as measured; six scores in blocks of 128 threads and distances"
    " of heads from variants timed beside each other; several widths as the times of each"
)

# Measures: "copy": share of the copy of the same run, in percent; "us": microseconds; "time of PEER": so many times the peer's
# time; "speed of PEER": so many times its speed. Each with the least and the most expected (None: no most).
COPY, US = "copy", "us"
LINEAR, ALONE, TOPK, TOPK_OF_TWO = (
    "time of F.linear alone",
    "time of linear_margin alone",
    "speed of torch.topk(sorted=False)",
    "time of torch.topk(2)",
)
FULL = "speed of full width"
Predicted = Mapping[str, Sequence[Sequence[Any]]]

# By benchmark.
PREDICTED: Predicted = {
    "bench_margin[native-1000-float32]": ((COPY, 98, 103),),
    "bench_margin[native-1000-bfloat16]": ((COPY, 98, 103),),
    "bench_margin[native-10-float32]": ((COPY, 98, 103),),
    "bench_margin[native-10-bfloat16]": ((COPY, 96, 100),),
    "bench_six_scores[native-bfloat16]": ((COPY, 89.8, 91.2),),
    "bench_smallest_k[native-1.28M-normal]": ((US, 17.2, 18.5),),
    "bench_smallest_k[triton-1.28M-normal]": ((US, 54, 60),),
    "bench_smallest_k[native-256M-normal]": ((COPY, 60, 62), (TOPK, 3.3, 3.5)),
    "bench_linear_margin[65536x1024-1000]": ((LINEAR, 0.87, 1.08),),
    "bench_linear_margin[65536x1024-10]": ((US, 46, 49),),
    "bench_linear_margin[65536x1024-100]": ((COPY, 83, 88),),
    "bench_linear_margin[256x2048-1000]": ((US, 9.2, 10.2),),
    "bench_linear_margin[8192x4096-128256]": ((LINEAR, 0.95, 1.02),),
    "bench_linear_scores[8192x4096-128256]": (
        (US, 12_500, 13_300),
        (LINEAR, 0.97, 1.03),
        (ALONE, 1.02, 1.1),
    ),
    "bench_linear_scores[4096x1024-1000]": ((US, 19, 20),),
    "bench_linear_margin_float32[tf32]": ((US, 125, 132), (LINEAR, 1.14, 1.2)),
    "bench_linear_margin_float32[ieee]": ((US, 715, 740), (LINEAR, 1.02, 1.08)),
    "bench_linear_margin_kinds[distance]": ((US, 680, 790),),
    "bench_widths": (("time of a call for each width", 0.99, 1.05),),
    "bench_linear_margin_topk[65536x1024-1000]": ((ALONE, 1.05, 1.1),),
    "bench_linear_margin_topk[8192x4096-128256]": ((ALONE, 1.0, 1.01),),
    "bench_host_overhead[margin]": ((TOPK_OF_TWO, 0.58, 0.72),),
    "bench_host_overhead[smallest_k]": ((TOPK_OF_TWO, 0.88, 1.05),),
    "bench_host_overhead[linear_margin]": ((TOPK_OF_TWO, 2.3, 3.8),),
    # A quarter of the arithmetic, but half of what is moved, and products of fewer channels: moving is most of the time.
    "bench_slim_forward[ResNet-18-slimmable-float32]": ((FULL, 1.7, 1.9),),
    "bench_slim_forward[ResNet-18-slimmable-bfloat16]": ((FULL, 1.65, 1.85),),
    "bench_slim_forward[ResNet-18-frozen-float32]": ((FULL, 1.8, 2.0),),
    "bench_slim_forward[ResNet-18-frozen-bfloat16]": ((FULL, 1.7, 1.9),),
    "bench_slim_forward[ViT-small-slimmable-float32]": ((FULL, 2.7, 2.95),),
    "bench_slim_forward[ViT-small-slimmable-bfloat16]": ((FULL, 1.6, 1.85),),
    "bench_slim_forward[ViT-small-frozen-float32]": ((FULL, 2.7, 2.95),),
    "bench_slim_forward[ViT-small-frozen-bfloat16]": ((FULL, 1.75, 1.95),),
}

# By work of candidate_table.WORK, each kernel that could serve it: what an H100 showed.
CANDIDATES: Mapping[str, Predicted] = {
    "gap 65536x1024-1000": {
        "hopper 128x144": ((LINEAR, 1.15, 1.28),),
        "hopper 128x192": ((LINEAR, 1.12, 1.28),),
        "hopper 128x256": ((LINEAR, 0.92, 1.08),),
        "triton descriptors": ((LINEAR, 1.12, 1.18),),
        "triton pointers": ((LINEAR, 1.2, 1.42),),
    },
    "gap 8192x4096-128256": {
        "hopper 128x144": ((LINEAR, 1.3, 1.48),),
        "hopper 128x192": ((LINEAR, 0.98, 1.05),),
        "hopper 128x256": ((LINEAR, 0.95, 1.02),),
        "triton descriptors": ((LINEAR, 0.96, 1.03),),
        "triton pointers": ((LINEAR, 1.1, 1.18),),
    },
    "sums 8192x4096-128256": {
        "hopper 128x256": ((LINEAR, 0.97, 1.02),),
        "hopper 128x192": ((LINEAR, 0.98, 1.05),),
        "triton descriptors": ((LINEAR, 1.35, 1.45),),
        "triton pointers": ((LINEAR, 1.22, 1.3),),
    },
    "gap 65536x1024-10": {"triton pointers": ((US, 46, 49),)},
    "gap 65536x1024-100": {"triton descriptors": ((US, 50, 54),)},
    "gap 4096x1024-1000": {
        "hopper 128x256": ((US, 17.8, 18.6),),
        "triton descriptors": ((US, 16.5, 18),),
    },
    "sums 4096x1024-1000": {"hopper 128x256": ((US, 19, 20),)},
}


def measured(measure: str, entry: Entry) -> float | None:
    """An entry in one of the measures; None where it does not say."""
    if measure == COPY:
        share = of_ceiling(entry) if entry["extra_info"].get("limit") == "copy" else None
        return None if share is None else 100 * share
    if measure == US:
        return 1e6 * median(entry)
    quantity, _, peer = measure.partition(" of ")
    return {"time": time_over, "speed": speed_over}[quantity](entry, peer)


def _unit(measure: str) -> str:
    return {COPY: "% of the copy", US: "us"}.get(measure, f"x the {measure}")


def words(name: str, predicted: Predicted) -> str:
    """What is predicted of a benchmark; empty where nothing is."""
    said = []
    for measure, least, most in predicted.get(name, ()):
        span = f">= {least:g}" if most is None else f"{least:g} to {most:g}"
        said.append(f"{span} {_unit(measure)}")
    return ", ".join(said)


def verdict(entry: Entry, predicted: Predicted) -> str:
    """Whether what was measured is below, within or above each prediction, and what that means for the speed."""
    said = []
    for measure, least, most in predicted.get(entry["name"], ()):
        value = measured(measure, entry)
        if value is None:
            said.append("not measured")
            continue
        side = (most is not None and value > most) - (value < least)
        more_is_faster = measure == COPY or measure.startswith("speed")
        faster = (side > 0) == more_is_faster
        place = {-1: "below", 0: "within", 1: "above"}[side]
        said.append(place if side == 0 else f"{place} ({'faster' if faster else 'slower'})")
    return ", ".join(said)


def kept() -> dict[str, Any]:
    """The predictions as a report keeps them."""
    return {"made": MADE, "by_benchmark": PREDICTED, "by_candidate": CANDIDATES}


def of(report: Mapping[str, Any]) -> Predicted:
    """Those of a report's own run."""
    found: Predicted = report.get("run", {}).get("predictions", {}).get("by_benchmark", {})
    return found


def of_candidates(report: Mapping[str, Any]) -> Mapping[str, Predicted]:
    """Those of the linear head's candidates, by work."""
    found: Mapping[str, Predicted]
    found = report.get("run", {}).get("predictions", {}).get("by_candidate", {})
    return found
