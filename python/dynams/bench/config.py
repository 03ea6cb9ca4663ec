"""What `dynams bench` measures. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dynams.training.settings import check, section, setting

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


@section
@dataclass(frozen=True)
class BenchConfig:
    """What is measured, on inputs of which shape."""

    kernel: Kernel = setting(  # noqa: RUF009 (it makes a field)
        "all",
        "margin, scores (six kinds from one read), smallest_k, margin_topk, linear_margin (at full "
        "width and at width), linear_scores (loss, entropy and gap from one sweep), "
        "linear_margin_topk, or all of them",
    )
    rows: int = setting(
        8192, "samples in one call: rows of the logits and of the features (B)", least=1
    )
    classes: int = setting(1000, "classes (C)", least=2)
    features: int = setting(512, "features of a sample, for the linear kernels (D)", least=1)
    width: float = setting(
        0.5, "fraction of the features that the slim head reads", within="(0, 1]"
    )
    samples: int = setting(1_000_000, "scores that smallest_k selects from (N)", least=1)
    budget: float = setting(0.6, "fraction that is selected", within="(0, 1]")
    dtype: Dtype = setting(  # noqa: RUF009
        "float32",
        "type of logits, features and weights; smallest_k selects from float32 scores",
    )
    device: str = setting(
        "auto", "auto (a GPU if there is one), cpu, cuda, or one of several, such as cuda:1"
    )
    threads: int | None = setting(None, "CPU threads; unset: torch's own choice", least=1)
    rounds: int = setting(
        15, "how often each is timed, in turn with the others; the median counts", least=1
    )
    seed: int = setting(0, "seed of the random inputs", least=0)

    def __post_init__(self) -> None:
        check("", self)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(
                f"device: got {self.device!r}, want auto, cpu, cuda or a numbered one such as cuda:1"
            )

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that are measured."""
        return KERNELS if self.kernel == "all" else (self.kernel,)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return dataclasses.asdict(self)
