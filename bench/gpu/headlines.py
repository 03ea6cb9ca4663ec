"""What a reader of the front page wants to know of a GPU report: the work, its time, how near to the limit, and how many times a peer's speed. Needs neither torch nor a GPU."""

from __future__ import annotations

from typing import Any

import units
from gpu import targets
from gpu.entries import by_name, median

# Benchmark, peer, and how to say the work.
HEADLINES = (
    ("bench_margin[native-1000-float32]", "topk(2), subtracted", "`margin`, 131072 x 1000, float32"),
    ("bench_margin[native-1000-bfloat16]", "topk(2), subtracted", "the same, bfloat16"),
    ("bench_six_scores[native-bfloat16]", "the same six in torch", "`scores`, six kinds, 131072 x 1000, bfloat16"),
    ("bench_smallest_k[native-1.28M-normal]", "torch.topk(sorted=False)", "`smallest_k`, 60 % of 1.28 M"),
    ("bench_smallest_k[native-256M-normal]", "torch.topk(sorted=False)", "`smallest_k`, 60 % of 256 M"),
    ("bench_linear_margin[65536x1024-10]", "F.linear, topk(2), subtracted", "`linear_margin`, 65536 x 1024 -> 10, bfloat16"),
    ("bench_linear_margin[65536x1024-1000]", "F.linear, topk(2), subtracted", "`linear_margin`, 65536 x 1024 -> 1000, bfloat16"),
    ("bench_linear_margin[65536x1024-1000]", "F.linear alone", "the same"),
    ("bench_linear_margin[8192x4096-128256]", "F.linear alone", "`linear_margin`, 8192 x 4096 -> 128256, bfloat16"),
    ("bench_linear_scores[8192x4096-128256]", "F.linear alone", "`linear_scores`, loss, entropy and gap, the same"),
    ("bench_linear_scores[8192x4096-128256]", "F.linear, log_softmax, topk(2), by blocks of rows", "the same"),
    ("bench_linear_scores[8192x4096-128256]", "cut-cross-entropy", "the same, against the loss alone"),
)  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """The table of the front page; works and peers that the report does not hold are left out."""
    entries = by_name(report["benchmarks"])
    rows = []
    for name, peer, saying in HEADLINES:
        entry = entries.get(name)
        result = entry and entry["extra_info"]["peers"].get(peer)
        if entry is None or result is None:
            continue
        said = [saying, units.time(median(entry)), targets.share(entry)]
        rows.append([*said, f"`{peer}`", f"{result['speedup']:.2f} x"])
    headings = ["", "ours", "of the limit", "against", "speed-up"]
    facts, commit = report["machine_info"], report["commit_info"]["id"][:10]
    return (
        f"{targets.markdown(headings, rows)}\n"
        f"Medians of one run on one {facts['gpu']['name']} (torch {facts['torch']}, commit {commit}, {report['datetime'][:10]}); above 1 ours is faster. "
        "The limit is a copy's bandwidth, or the rate of a large matrix product, of the same run. Ratios to a product alone are good to a tenth: "
        "both are held by the GPU's power, and its clock by what ran before.\n"
    )
