"""What is aimed at on the CPU, and how a report of one run stands to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DTYPES = ("float32", "bfloat16")
CLASSES = (10, 17, 32, 64, 100, 200, 257, 1000, 32000)
AMAX, LOG_SOFTMAX = "logits.amax(1)", "logits.log_softmax(1)"
TOPK, PARTITION, LINEAR = "torch.topk(sorted=False)", "numpy.argpartition", "F.linear alone"
TOUCH = "first touch of the output, two reads"


@dataclass(frozen=True)
class Target:
    """What a benchmark should reach beside a peer or a floor: a speed-up of at least, or a share of its time of at most.

    `slow_down`: of the slow-down by a busy core, ours over the peer's, instead of the times.
    """

    benchmark: str
    beside: str
    at_least: float | None = None
    at_most: float | None = None
    slow_down: bool = False

    def aim(self) -> str:
        """The target in words."""
        if self.slow_down:
            return f"<= {self.at_most} x its slow-down"
        return (
            f">= {self.at_least:g} x as fast" if self.at_least else f"<= {self.at_most} x its time"
        )

    def reached(self, entry: dict[str, Any]) -> float:
        """Ours in the same terms."""
        facts = entry["extra_info"]
        if self.slow_down:
            quiet = facts["quiet_s"]
            ours = entry["stats"]["median"] / quiet["ours"]
            theirs: float = facts["peers"][self.beside]["median_s"] / quiet[self.beside]
            return ours / theirs
        if self.beside in facts.get("floors", {}):
            over: float = facts["floors"][self.beside]["ratio"]
        else:
            over = 1 / facts["peers"][self.beside]["speedup"]
        return 1 / over if self.at_least else over

    def is_met(self, reached: float) -> bool:
        """Whether that is enough, to the two digits that are shown."""
        if self.at_least is not None:
            return round(reached, 2) >= self.at_least
        assert self.at_most is not None
        return round(reached, 2) <= self.at_most


TARGETS = (
    *(Target(f"margin[{c}-{d}]", AMAX, at_most=1.2) for d in DTYPES for c in CLASSES),
    Target("margin_of_few_long_rows", AMAX, at_most=1.2),
    *(Target(f"margin[1000-{d}]", "logits.topk(2), subtracted", at_least=5) for d in DTYPES),
    *(Target(f"six_scores[{c}-{d}]", LOG_SOFTMAX, at_most=1.0) for d in DTYPES for c in CLASSES),
    Target("smallest_k[normal-1,280,000]", TOPK, at_least=10),
    Target("smallest_k[normal-1,280,000]", PARTITION, at_least=5),
    Target("smallest_k[normal-20,000,000]", TOUCH, at_most=1.15),
    Target("smallest_k_into_touched_memory[20,000,000]", "torch.topk(sorted=False, out=...)", at_least=15),
    Target("smallest_k_into_touched_memory[20,000,000]", PARTITION, at_least=3),
    Target("smallest_k_grouped[1,000 groups]", "smallest_k of all", at_most=2.0),
    *(Target(f"linear_margin[(4096, 1024, 1000)-{d}]", LINEAR, at_most=1.0) for d in DTYPES),
    *(Target(f"linear_margin[(2048, 1024, 32000)-{d}]", LINEAR, at_most=0.9) for d in DTYPES),
    *(Target(f"linear_margin[(8192, 256, 10)-{d}]", LINEAR, at_most=1.1) for d in DTYPES),
    *(Target(f"linear_scores[(4096, 1024, 1000)-{d}]", LINEAR, at_most=1.15) for d in DTYPES),
    *(Target(f"linear_scores[(2048, 1024, 32000)-{d}]", LINEAR, at_most=1.0) for d in DTYPES),
    *(
        Target(f"one_core_busy[{operation}]", beside, at_most=1.1, slow_down=True)
        for operation, beside in (
            ("margin", "logits.topk(2)"),
            ("scores", LOG_SOFTMAX),
            ("smallest_k", TOPK),
            ("linear_margin", LINEAR),
            ("linear_scores", LINEAR),
            ("linear_margin, 32000 classes", LINEAR),
        )
    ),
    Target("a_hundred_calls[margin]", "torch.topk(2)", at_most=2.6),
    *(
        Target(f"slim_forward[{network}-{way}-{d}]", "full width", at_least=least)
        for network, least in (("ResNet-18", 3.5), ("ViT-small", 2.5))
        for way in ("slimmable", "frozen")
        for d in DTYPES
    ),
)  # fmt: skip


def table(entries: dict[str, dict[str, Any]]) -> str:
    """Each target, and what the benchmarks of these names reached."""
    lines = ["| benchmark | beside | aimed at | reached | |", "|---|---|--:|--:|---|"]
    for target in TARGETS:
        if target.benchmark not in entries:  # a report older than the benchmark
            lines.append(
                f"| {target.benchmark} | `{target.beside}` | {target.aim()} | not measured | |"
            )
            continue
        reached = target.reached(entries[target.benchmark])
        verdict = "met" if target.is_met(reached) else "missed"
        lines.append(
            f"| {target.benchmark} | `{target.beside}` | {target.aim()} | {reached:.2f} | {verdict} |"
        )
    return "\n".join(lines) + "\n"
