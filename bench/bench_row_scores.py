"""Margins and scores of logits against torch's own expressions, and against the cheapest possible read (`amax`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dynams_kernels as dk

SIX_KINDS: list[dk.ScoreKind] = [
    "gap", "probability", "loss", "el2n", "entropy", "confidence",
]  # fmt: skip
# Around the lengths at which the kernels change their ways, each with enough rows to come from beyond the caches.
CLASSES = (10, 17, 32, 64, 100, 200, 257, 1000, 32000)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def logits_of(classes: int, dtype: torch.dtype) -> Tensor:
    """16 million logits, 32 or 64 MB."""
    return torch.randn((1 << 24) // classes, classes).to(dtype)


def topk_gap(logits: Tensor) -> Tensor:
    top = logits.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


@DTYPES
@pytest.mark.parametrize("classes", CLASSES)
def bench_margin(versus: Callable[..., None], classes: int, dtype: torch.dtype) -> None:
    logits = logits_of(classes, dtype)
    versus(
        lambda: dk.margin(logits),
        {"logits.topk(2), subtracted": lambda: topk_gap(logits)},
        floors={"logits.amax(1)": lambda: logits.amax(1)},
        # Every logit read once, every margin written once.
        bytes=logits.numel() * logits.element_size() + len(logits) * 4,
    )


def bench_margin_of_few_long_rows(versus: Callable[..., None]) -> None:
    logits = torch.randn(256, 32000)
    versus(
        lambda: dk.margin(logits),
        {"logits.topk(2), subtracted": lambda: topk_gap(logits)},
        floors={"logits.amax(1)": lambda: logits.amax(1)},
    )


def bench_probability_margin(versus: Callable[..., None]) -> None:
    logits = torch.randn(8192, 1000)
    versus(
        lambda: dk.margin(logits, kind="probability"),
        {
            "softmax, topk(2), subtracted": lambda: topk_gap(logits.softmax(1)),
        },
        floors={"margin (gap) alone": lambda: dk.margin(logits)},
    )


def bench_distance_margin(versus: Callable[..., None]) -> None:
    logits = torch.randn(8192, 1000)
    distances = dk.class_distances(torch.randn(1000, 512))

    def plain() -> Tensor:
        own, first = logits.max(1, keepdim=True)
        quotients = (own - logits) / distances[first.squeeze(1)]
        return quotients.scatter(1, first, torch.inf).amin(1)

    versus(
        lambda: dk.margin(logits, kind="distance", class_distances=distances),
        {"max, gather, divide, amin": plain},
    )


@DTYPES
@pytest.mark.parametrize("classes", CLASSES)
def bench_six_scores(versus: Callable[..., None], classes: int, dtype: torch.dtype) -> None:
    logits = logits_of(classes, dtype)
    labels = torch.randint(0, classes, (len(logits),))

    def plain() -> list[Tensor]:
        z = logits.float()
        log_softmax = z.log_softmax(1)
        softmax = log_softmax.exp()
        top = softmax.topk(2, dim=1).values
        one_hot = torch.nn.functional.one_hot(labels, classes)
        return [
            topk_gap(z),
            top[:, 0] - top[:, 1],
            torch.nn.functional.nll_loss(log_softmax, labels, reduction="none"),
            (softmax - one_hot).norm(dim=1),
            -(softmax * log_softmax).sum(1),
            1 - top[:, 0],
        ]

    versus(
        lambda: dk.scores(logits, SIX_KINDS, labels=labels),
        {"the same six in torch": plain},
        floors={
            "logits.log_softmax(1)": lambda: logits.log_softmax(1),
            "margin (gap) alone": lambda: dk.margin(logits),
        },
        rounds=7,
    )
