"""Margins and scores of logits on a GPU, against the cheapest way to touch as much memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dynams_kernels._kinds import BIT, mask_of
from gpu import peers, timing

pytestmark = [pytest.mark.gpu, pytest.mark.benchmark(timer=timing.ManualClock())]

SIX_KINDS = ("gap", "probability", "loss", "el2n", "entropy", "confidence")
# So many logits are 262 MB in half precision, far beyond any cache.
LOGITS = 131_072_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def topk_gap(logits: Tensor) -> Tensor:
    top = logits.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def random_logits(rows: int, classes: int, dtype: torch.dtype) -> Tensor:
    # In pieces: the generator's float32 would else be the largest tensor there is.
    logits = torch.empty(rows, classes, dtype=dtype, device="cuda")
    for piece in logits.split(max(1, (1 << 26) // classes)):
        piece.normal_(0, 3)
    return logits


def row_bytes(logits: int, dtype: torch.dtype, rows: int, kinds: int = 1) -> int:
    """Every logit read once, every score written once."""
    return logits * dtype.itemsize + 4 * rows * kinds


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1000, 10, 100, 32_000, 128_256, 1_000_000])
def bench_margin(against: Callable[..., None], backend: Any, classes: int, dtype: str) -> None:
    rows = LOGITS // classes
    rivals: dict[str, Callable[..., Any]] = {"clone": torch.clone, "amax(1)": lambda x: x.amax(1)}
    if classes == 1000:
        rivals["softmax(1)"] = lambda x: x.softmax(1)
        rivals["topk(2), subtracted"] = topk_gap
        rivals |= peers.topk_of_rows()
    against(
        lambda x: backend.row_scores(x, None, None, BIT["gap"]),
        rivals,
        lambda: (random_logits(rows, classes, DTYPES[dtype]),),
        bytes=row_bytes(rows * classes, DTYPES[dtype], rows),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def bench_six_scores(against: Callable[..., None], backend: Any, dtype: str) -> None:
    rows, classes = LOGITS // 1000, 1000

    def plain(logits: Tensor, labels: Tensor) -> list[Tensor]:
        z = logits.float()
        log_softmax = z.log_softmax(1)
        softmax = log_softmax.exp()
        top = softmax.topk(2, dim=1).values
        own = softmax.gather(1, labels[:, None])[:, 0]
        return [
            topk_gap(z),
            top[:, 0] - top[:, 1],
            -log_softmax.gather(1, labels[:, None])[:, 0],
            (softmax.square().sum(1) - 2 * own + 1).sqrt(),
            -(softmax * log_softmax).sum(1),
            1 - top[:, 0],
        ]

    against(
        lambda x, y: backend.row_scores(x, y, None, mask_of(SIX_KINDS)),
        {
            "margin (gap) alone": lambda x, y: backend.row_scores(x, None, None, BIT["gap"]),
            "clone": lambda x, y: x.clone(),
            "the same six in torch": plain,
        },
        lambda: (
            random_logits(rows, classes, DTYPES[dtype]),
            torch.randint(classes, (rows,), device="cuda"),
        ),
        bytes=row_bytes(rows * classes, DTYPES[dtype], rows, len(SIX_KINDS)) + 8 * rows,
    )


@pytest.mark.parametrize("kind", ["probability", "label", "distance"])
def bench_margin_kinds(against: Callable[..., None], backend: Any, kind: str) -> None:
    rows, classes = LOGITS // 1000, 1000
    points = torch.randn(classes, 64, device="cuda")
    distances = torch.cdist(points, points) if kind == "distance" else None
    labels = torch.randint(classes, (rows,), device="cuda") if kind == "label" else None
    against(
        lambda x: backend.row_scores(x, labels, distances, BIT[kind]),
        {
            "margin (gap) alone": lambda x: backend.row_scores(x, None, None, BIT["gap"]),
            "clone": torch.clone,
        },
        lambda: (random_logits(rows, classes, torch.bfloat16),),
        bytes=row_bytes(rows * classes, torch.bfloat16, rows),
    )
