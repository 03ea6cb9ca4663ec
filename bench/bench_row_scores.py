"""Margins and scores of logits against torch's own expressions, and against the cheapest possible read (`amax`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dynams_kernels as dk

SIX_KINDS = ["gap", "probability", "loss", "el2n", "entropy", "confidence"]
SHAPES = [(8192, 1000), (50000, 10), (512, 32000)]


def topk_gap(logits: Tensor) -> Tensor:
    top = logits.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_margin(versus: Callable[..., None], shape: tuple[int, int], dtype: torch.dtype) -> None:
    logits = torch.randn(shape).to(dtype)
    versus(
        lambda: dk.margin(logits),
        {
            "logits.topk(2), subtracted": lambda: topk_gap(logits),
            "logits.amax(1)": lambda: logits.amax(1),
        },
        # Every logit read once, every margin written once.
        bytes=logits.numel() * logits.element_size() + shape[0] * 4,
    )


def bench_probability_margin(versus: Callable[..., None]) -> None:
    logits = torch.randn(8192, 1000)
    versus(
        lambda: dk.margin(logits, kind="probability"),
        {
            "softmax, topk(2), subtracted": lambda: topk_gap(logits.softmax(1)),
            "margin (gap) alone": lambda: dk.margin(logits),
        },
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def bench_six_scores(versus: Callable[..., None], dtype: torch.dtype) -> None:
    logits = torch.randn(8192, 1000).to(dtype)
    labels = torch.randint(0, 1000, (8192,))

    def plain() -> list[Tensor]:
        z = logits.float()
        log_softmax = z.log_softmax(1)
        softmax = log_softmax.exp()
        top = softmax.topk(2, dim=1).values
        one_hot = torch.nn.functional.one_hot(labels, 1000)
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
        {"the same six in torch": plain, "margin (gap) alone": lambda: dk.margin(logits)},
    )


def bench_call_overhead(versus: Callable[..., None]) -> None:
    logits = torch.randn(2, 10)
    versus(
        lambda: dk.margin(logits),
        {"logits.topk(2)": lambda: logits.topk(2), "logits.amax(1)": lambda: logits.amax(1)},
        rounds=2000,
    )
