"""Scores of a linear head on a GPU, against its matrix product alone, which they contain: 1.0 means that the scores are free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

import dynams_kernels as dk
from gpu import candidates, ledger, peers, timing

pytestmark = [pytest.mark.gpu, pytest.mark.benchmark(timer=timing.ManualClock())]


@pytest.fixture(autouse=True)
def no_dead_kernel() -> None:
    """The public functions may choose a kernel in which a process of this run died: the next would die in it too."""
    dead = ledger.dead_candidates()
    if dead:
        pytest.skip(f"a process died or hung in {', '.join(sorted(dead))}")


# Batch, width, classes.
IMAGENET = (65_536, 1024, 1000)
FLOAT32 = (16_384, 1024, 1000)
LANGUAGE_MODEL = (8192, 4096, 128_256)
HEADS = {
    "65536x1024-1000": IMAGENET,
    "65536x1024-10": (65_536, 1024, 10),
    "65536x1024-100": (65_536, 1024, 100),
    "8192x4096-128256": LANGUAGE_MODEL,
    "256x2048-1000": (256, 2048, 1000),
    "64x4096-1000000": (64, 4096, 1_000_000),
    "4096x1024-1000": (4096, 1024, 1000),
}
# What methods of training score samples by, from one sweep.
TRAINING = ["loss", "entropy", "gap"]
# Logits that the same by hand stores at once, in float32.
STORED_LOGITS = 1 << 28
# Up to so many classes the product is free beside reading the features.
SKINNY = 128
Head = tuple[int, int, int]


def head(shape: Head, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    batch, width, classes = shape
    features = torch.randn(batch, width, device="cuda", dtype=dtype)
    weight = torch.randn(classes, width, device="cuda", dtype=dtype).mul_(width**-0.5)
    return features, weight, torch.randn(classes, device="cuda", dtype=dtype)


def linear_bytes(shape: Head, size: int) -> int:
    """Features, weight and bias read once, every margin written once."""
    batch, width, classes = shape
    return size * (batch * width + classes * width + classes) + 4 * batch


def linear_flops(shape: Head) -> int:
    batch, width, classes = shape
    return 2 * batch * width * classes


def plain(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    top = linear(features, weight, bias).topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def scored_head(shape: Head) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weight and labels; no bias, as language models have none."""
    features, weight, _bias = head(shape, torch.bfloat16)
    return features, weight, torch.randint(shape[2], (shape[0],), device="cuda")


def without_bias(cross_entropy: Callable[..., Any]) -> Callable[[Tensor, Tensor, Tensor], Any]:
    return lambda features, weight, labels: cross_entropy(features, weight, None)


def by_hand(features: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, entropy and gap from logits that are stored, as many rows at a time as memory has room for."""
    rows = max(1, STORED_LOGITS // len(weight))
    found = []
    for some, own in zip(features.split(rows), labels.split(rows), strict=True):
        logits = linear(some, weight).float()
        logp = logits.log_softmax(1)
        loss = -logp.gather(1, own[:, None])[:, 0]
        entropy = -(logp.exp() * logp).sum(1)
        top = logits.topk(2, dim=1).values
        found.append((loss, entropy, top[:, 0] - top[:, 1]))
    loss, entropy, gap = (torch.cat(parts) for parts in zip(*found, strict=True))
    return loss, entropy, gap


@pytest.mark.parametrize("shape", ["8192x4096-128256", "4096x1024-1000"])
def bench_linear_scores(against: Callable[..., None], shape: str) -> None:
    batch, width, classes = HEADS[shape]
    targets = torch.randint(classes, (batch,), device="cuda")
    cross_entropies = peers.linear_cross_entropies(targets)
    against(
        lambda f, w, y: dk.linear_scores(f, w, TRAINING, labels=y),
        {
            "F.linear alone": lambda f, w, y: linear(f, w),
            "F.linear, log_softmax, topk(2), by blocks of rows": by_hand,
            "linear_margin alone": lambda f, w, y: dk.linear_margin(f, w),
            **{name: without_bias(call) for name, call in cross_entropies.items()},
        },
        lambda: scored_head(HEADS[shape]),
        bytes=2 * (batch * width + classes * width) + (8 + 4 * len(TRAINING)) * batch,
        flops=linear_flops(HEADS[shape]),
        limit="bf16 matmul",
    )


@pytest.mark.parametrize("shape", HEADS)
def bench_linear_margin(against: Callable[..., None], shape: str) -> None:
    batch, _width, classes = HEADS[shape]
    labels = torch.zeros(batch, dtype=torch.int64, device="cuda")
    rivals: dict[str, Callable[..., Any]] = {
        "F.linear alone": linear,
        "F.linear, topk(2), subtracted": plain,
        "clone of the features": lambda f, w, b: f.clone(),
        **peers.linear_cross_entropies(labels),
    }
    against(
        lambda f, w, b: dk.linear_margin(f, w, b),
        rivals,
        lambda: head(HEADS[shape], torch.bfloat16),
        bytes=linear_bytes(HEADS[shape], 2),
        flops=linear_flops(HEADS[shape]),
        limit="copy" if classes <= SKINNY or batch <= SKINNY else "bf16 matmul",
    )


@pytest.fixture
def float32_precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision({"tf32": "high", "ieee": "highest"}[request.param])
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("float32_precision", ["tf32", "ieee"], indirect=True)
def bench_linear_margin_float32(against: Callable[..., None], float32_precision: str) -> None:
    against(
        lambda f, w, b: dk.linear_margin(f, w, b),
        {
            "F.linear alone": linear,
            "F.linear, topk(2), subtracted": plain,
            "F.linear by blocks of rows, each scored": lambda f, w, b: candidates.scores_by(
                "eager", (f, w, b, None), ("gap",)
            ),
        },
        lambda: head(FLOAT32, torch.float32),
        bytes=linear_bytes(FLOAT32, 4),
        flops=linear_flops(FLOAT32),
        limit={"tf32": "tf32 matmul", "ieee": "fp32 matmul"}[float32_precision],
    )


def bench_widths(against: Callable[..., None]) -> None:
    """Three widths from one sweep: its work is that of the widest."""
    widths = [256, 512, 1024]
    against(
        lambda f, w, b: dk.linear_margin(f, w, b, width=widths),
        {
            "a call for each width": lambda f, w, b: [
                dk.linear_margin(f, w, b, width=width) for width in widths
            ],
            "the full width alone": lambda f, w, b: dk.linear_margin(f, w, b),
            "F.linear at full width": linear,
        },
        lambda: head(IMAGENET, torch.bfloat16),
        bytes=linear_bytes(IMAGENET, 2) + 8 * IMAGENET[0],
        flops=linear_flops(IMAGENET),
        limit="bf16 matmul",
    )


def bench_slim_head(against: Callable[..., None]) -> None:
    """Half the width of a weight that stays where it is."""
    batch, width, classes = IMAGENET
    half = (batch, width // 2, classes)
    against(
        lambda f, w, b: dk.linear_margin(f, w, b, width=0.5),
        {"F.linear at half the width": lambda f, w, b: linear(f[:, :512], w[:, :512], b)},
        lambda: head(IMAGENET, torch.bfloat16),
        bytes=linear_bytes(half, 2),
        flops=linear_flops(half),
        limit="bf16 matmul",
    )


@pytest.mark.parametrize("shape", ["65536x1024-1000", "8192x4096-128256"])
def bench_linear_margin_topk(against: Callable[..., None], shape: str) -> None:
    batch = HEADS[shape][0]
    k = 6 * batch // 10
    against(
        lambda f, w, b: dk.linear_margin_topk(f, w, k, b),
        {
            "linear_margin alone": lambda f, w, b: dk.linear_margin(f, w, b),
            "F.linear alone": linear,
        },
        lambda: head(HEADS[shape], torch.bfloat16),
        bytes=linear_bytes(HEADS[shape], 2) + 4 * batch + 12 * k,
        flops=linear_flops(HEADS[shape]),
        limit="bf16 matmul",
    )


@pytest.mark.parametrize("kind", ["probability", "label", "distance"])
def bench_linear_margin_kinds(against: Callable[..., None], kind: str) -> None:
    batch, _width, classes = IMAGENET
    labels = torch.randint(classes, (batch,), device="cuda")
    points = torch.randn(classes, 64, device="cuda")
    distances = torch.cdist(points, points)
    against(
        lambda f, w, b: dk.linear_margin(
            f, w, b, kind=kind, labels=labels, class_distances=distances
        ),
        {
            "linear_margin (gap)": lambda f, w, b: dk.linear_margin(f, w, b),
            "F.linear alone": linear,
        },
        lambda: head(IMAGENET, torch.bfloat16),
        bytes=linear_bytes(IMAGENET, 2),
        flops=linear_flops(IMAGENET),
        limit="bf16 matmul",
    )
