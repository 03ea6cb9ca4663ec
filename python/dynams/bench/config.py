"""What `dynams bench` measures. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dynams.checks import at_least, fraction, one_of

Kernel = Literal[
    "all",
    "margin",
    "scores",
    "smallest_k",
    "margin_topk",
    "linear_margin",
    "linear_scores",
    "linear_margin_topk",
]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
KERNELS: tuple[str, ...] = get_args(Kernel)[1:]


@dataclass(frozen=True)
class BenchConfig:
    """What is measured, on inputs of which shape.

    Args:
        kernel: margin, scores (six kinds from one read), smallest_k, margin_topk, linear_margin (at
            full width and at width), linear_scores (loss, entropy and gap from one sweep),
            linear_margin_topk, or all of them.
        rows: samples in one call: rows of the logits and of the features (B).
        classes: classes (C), at least 2.
        features: features of a sample, for the linear kernels (D).
        width: fraction of the features that the slim head reads, in (0, 1].
        samples: scores that smallest_k selects from (N).
        budget: fraction that is selected, in (0, 1].
        dtype: type of logits, features and weights; smallest_k selects from float32 scores.
        device: auto (a GPU if there is one), cpu, cuda, or one of several, such as cuda:1.
        threads: CPU threads; unset: torch's own choice.
        rounds: how often each is timed, in turn with the others; the median counts.
        seed: seed of the random inputs.
    """

    kernel: Kernel = "all"
    rows: int = 8192
    classes: int = 1000
    features: int = 512
    width: float = 0.5
    samples: int = 1_000_000
    budget: float = 0.6
    dtype: Dtype = "float32"
    device: str = "auto"
    threads: int | None = None
    rounds: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("kernel", self.kernel, get_args(Kernel))
        one_of("dtype", self.dtype, get_args(Dtype))
        for name, smallest in (("rows", 1), ("classes", 2), ("features", 1), ("samples", 1)):
            at_least(name, getattr(self, name), smallest)
        fraction("width", self.width)
        fraction("budget", self.budget)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(
                f"device: got {self.device!r}, want auto, cpu, cuda or a numbered one such as cuda:1"
            )
        at_least("threads", self.threads, 1)
        at_least("rounds", self.rounds, 1)
        at_least("seed", self.seed, 0)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that are measured."""
        return KERNELS if self.kernel == "all" else (self.kernel,)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return dataclasses.asdict(self)
