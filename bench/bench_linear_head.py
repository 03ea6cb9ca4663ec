"""Scores of a linear head against its matrix product alone, which they contain: 1.0 means that the scores are free."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

import dynams_kernels as dk

SHAPES = [(4096, 1024, 1000), (2048, 1024, 32000), (8192, 256, 10), (8192, 512, 100)]


def head(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    batch, width, classes = shape
    features = torch.randn(batch, width).to(dtype)
    weight = (torch.randn(classes, width) / width**0.5).to(dtype)
    return features, weight, torch.randn(classes).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_linear_margin(
    versus: Callable[..., None], shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    batch, width, classes = shape
    features, weight, bias = head(shape, dtype)

    def plain() -> Tensor:
        top = linear(features, weight, bias).topk(2, dim=1).values
        return top[:, 0] - top[:, 1]

    versus(
        lambda: dk.linear_margin(features, weight, bias),
        {
            "F.linear alone": lambda: linear(features, weight, bias),
            "F.linear, topk(2), subtracted": plain,
        },
        rounds=7,
        flops=2 * batch * width * classes,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def bench_linear_scores(
    versus: Callable[..., None], shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    batch, width, classes = shape
    features, weight, bias = head(shape, dtype)
    labels = torch.randint(0, classes, (batch,))

    def plain() -> tuple[Tensor, Tensor, Tensor]:
        logits = linear(features, weight, bias).float()
        top = logits.topk(2, dim=1).values
        log_softmax = logits.log_softmax(1)
        entropy = -(log_softmax.exp() * log_softmax).sum(1)
        return top[:, 0] - top[:, 1], -log_softmax.gather(1, labels[:, None])[:, 0], entropy

    versus(
        lambda: dk.linear_scores(features, weight, ["gap", "loss", "entropy"], bias, labels=labels),
        {
            "F.linear alone": lambda: linear(features, weight, bias),
            "F.linear, then the three by hand": plain,
        },
        rounds=7,
        flops=2 * batch * width * classes,
    )


@pytest.mark.parametrize("kind", ["probability", "distance", "label"])
def bench_linear_margin_kinds(versus: Callable[..., None], kind: str) -> None:
    features, weight = torch.randn(4096, 1024), torch.randn(1000, 1024) / 32
    labels = torch.randint(0, 1000, (4096,))
    distances = dk.class_distances(weight)
    versus(
        lambda: dk.linear_margin(
            features, weight, kind=kind, labels=labels, class_distances=distances
        ),
        {"F.linear alone": lambda: linear(features, weight)},
        rounds=7,
    )


def bench_slim_head(versus: Callable[..., None]) -> None:
    features, weight = torch.randn(4096, 1024), torch.randn(1000, 1024) / 32
    narrow_features, narrow_weight = features[:, :512].contiguous(), weight[:, :512].contiguous()
    versus(
        lambda: dk.linear_margin(features, weight, width=0.5),
        {
            "F.linear at full width": lambda: linear(features, weight),
            "F.linear on copies of half the width": lambda: linear(narrow_features, narrow_weight),
        },
        rounds=7,
    )
