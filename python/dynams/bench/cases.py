"""Each kernel as a call, beside torch's calls with the same answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, one_hot

import dynams_kernels as dk
from dynams.bench.config import BenchConfig

Timed = Callable[[], Any]

SIX_KINDS: tuple[dk.ScoreKind, ...] = (
    "gap",
    "probability",
    "loss",
    "el2n",
    "entropy",
    "confidence",
)
THREE_KINDS: tuple[dk.ScoreKind, ...] = ("loss", "entropy", "gap")


@dataclass(frozen=True)
class Case:
    """A kernel on inputs of one shape.

    Attributes:
        kernel: its name.
        inputs: shapes and type of its inputs, in words.
        ours: calls it.
        peers: torch's calls, by what they do.
        moved: bytes read and written at least, for what memory limits; else None.
        flops: floating-point operations of the matrix product, for what it limits; else None.
    """

    kernel: str
    inputs: str
    ours: Timed
    peers: Mapping[str, Timed]
    moved: int | None = None
    flops: int | None = None


def cases(config: BenchConfig, device: torch.device) -> Iterator[Case]:
    """Make the cases one by one, so that the inputs of one are freed before the next."""
    makers = {
        "margin": _margin,
        "scores": _scores,
        "smallest_k": _smallest_k,
        "margin_topk": _margin_topk,
        "linear_margin": _linear_margins,
        "linear_scores": _linear_scores,
        "linear_margin_topk": _linear_margin_topk,
    }
    for kernel in config.kernels:
        random = torch.Generator(device).manual_seed(config.seed)
        yield from makers[kernel](_Inputs(config, device, random))


@dataclass(frozen=True)
class _Inputs:
    config: BenchConfig
    device: torch.device
    random: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        made = torch.randn(*shape, generator=self.random, device=self.device)
        return made.to(getattr(torch, self.config.dtype))

    def logits(self) -> Tensor:
        return self.normal(self.config.rows, self.config.classes)

    def labels(self) -> Tensor:
        shape = (self.config.rows,)
        return torch.randint(self.config.classes, shape, generator=self.random, device=self.device)

    def head(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features, weight and bias of logits that are about as large as 1."""
        config = self.config
        weight = self.normal(config.classes, config.features) / math.sqrt(config.features)
        return self.normal(config.rows, config.features), weight, self.normal(config.classes)

    def selected(self, count: int) -> int:
        return max(1, round(self.config.budget * count))


def _gap(logits: Tensor) -> Tensor:
    top = logits.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def _smallest(values: Tensor, k: int) -> Any:
    return torch.topk(values, k, largest=False, sorted=False)


def _read(logits: Tensor, scores: int = 1) -> int:
    """Every logit read once, `scores` float32 written for each row."""
    return logits.numel() * logits.element_size() + 4 * scores * len(logits)


def _words(tensor: Tensor) -> str:
    shape = " x ".join(f"{size:,}" for size in tensor.shape)
    return f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _margin(inputs: _Inputs) -> Iterator[Case]:
    logits = inputs.logits()
    yield Case(
        "margin",
        _words(logits),
        lambda: dk.margin(logits),
        {"topk(2), subtracted": lambda: _gap(logits), "amax alone": lambda: logits.amax(1)},
        moved=_read(logits),
    )


def _scores(inputs: _Inputs) -> Iterator[Case]:
    logits, labels = inputs.logits(), inputs.labels()

    def plain() -> list[Tensor]:
        z = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_softmax = z.log_softmax(1)
        softmax = log_softmax.exp()
        top = softmax.topk(2, dim=1).values
        own = log_softmax.gather(1, labels[:, None]).squeeze(1)
        return [
            _gap(z),
            top[:, 0] - top[:, 1],
            -own,
            (softmax - one_hot(labels, logits.shape[1])).norm(dim=1),
            -(softmax * log_softmax).sum(1),
            1 - top[:, 0],
        ]

    yield Case(
        "scores, six kinds",
        _words(logits),
        lambda: dk.scores(logits, SIX_KINDS, labels=labels),
        {"the same six in torch": plain},
        moved=_read(logits, len(SIX_KINDS)),
    )


def _smallest_k(inputs: _Inputs) -> Iterator[Case]:
    samples = inputs.config.samples
    # As margins are: none below 0, most of them far above.
    values = torch.randn(samples, generator=inputs.random, device=inputs.device).abs()
    k = inputs.selected(samples)
    yield Case(
        "smallest_k",
        f"{k:,} of {samples:,}",
        lambda: dk.smallest_k(values, k),
        {"topk, unsorted": lambda: _smallest(values, k)},
        # Every value read, every selected value (4 bytes) and index (8) written.
        moved=4 * samples + 12 * k,
    )


def _margin_topk(inputs: _Inputs) -> Iterator[Case]:
    logits = inputs.logits()
    k = inputs.selected(len(logits))
    yield Case(
        "margin_topk",
        f"{k:,} of {_words(logits)}",
        lambda: dk.margin_topk(logits, k),
        {"topk(2), subtracted, topk": lambda: _smallest(_gap(logits), k)},
        moved=_read(logits, 0) + 12 * k,
    )


def _linear_margins(inputs: _Inputs) -> Iterator[Case]:
    features, weight, bias = inputs.head()
    rows, classes, whole = len(features), len(weight), features.shape[1]
    yield Case(
        "linear_margin",
        f"{_words(features)}, {classes:,} classes",
        lambda: dk.linear_margin(features, weight, bias),
        {
            "linear, topk(2), subtracted": lambda: _gap(linear(features, weight, bias)),
            "linear alone": lambda: linear(features, weight, bias),
        },
        flops=2 * rows * classes * whole,
    )
    slim = max(1, round(inputs.config.width * whole))
    if slim < whole:
        narrow, narrow_weight = features[:, :slim], weight[:, :slim]
        yield Case(
            f"linear_margin, width {inputs.config.width:g}",
            f"{_words(features)}, {classes:,} classes",
            lambda: dk.linear_margin(features, weight, bias, width=slim),
            {
                "linear, topk(2), subtracted": lambda: _gap(linear(narrow, narrow_weight, bias)),
                "linear alone": lambda: linear(narrow, narrow_weight, bias),
            },
            flops=2 * rows * classes * slim,
        )


def _linear_scores(inputs: _Inputs) -> Iterator[Case]:
    features, weight, bias = inputs.head()
    labels = inputs.labels()

    def plain() -> list[Tensor]:
        logits = linear(features, weight, bias)
        z = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_softmax = z.log_softmax(1)
        own = log_softmax.gather(1, labels[:, None]).squeeze(1)
        return [-own, -(log_softmax.exp() * log_softmax).sum(1), _gap(z)]

    yield Case(
        "linear_scores, three kinds",
        f"{_words(features)}, {len(weight):,} classes",
        lambda: dk.linear_scores(features, weight, THREE_KINDS, bias, labels=labels),
        {
            "linear, the same three in torch": plain,
            "linear alone": lambda: linear(features, weight, bias),
        },
        flops=2 * features.numel() * len(weight),
    )


def _linear_margin_topk(inputs: _Inputs) -> Iterator[Case]:
    features, weight, bias = inputs.head()
    k = inputs.selected(len(features))
    yield Case(
        "linear_margin_topk",
        f"{k:,} of {_words(features)}, {len(weight):,} classes",
        lambda: dk.linear_margin_topk(features, weight, k, bias),
        {
            "linear, topk(2), subtracted, topk": lambda: _smallest(
                _gap(linear(features, weight, bias)), k
            )
        },
        flops=2 * features.numel() * len(weight),
    )
