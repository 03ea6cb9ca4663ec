"""Every kernel that can serve a linear head beside the others and the matrix product alone, so that the table of choices is measured.

What stands for "ours" here is F.linear alone: it cannot fail, and each kernel's time is a ratio to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from gpu import candidate_table, candidates, peers, timing

pytestmark = [pytest.mark.gpu, pytest.mark.benchmark(timer=timing.ManualClock())]

WORK = candidate_table.WORK
KINDS = {"gap": ("gap",), "loss, entropy, gap": ("loss", "entropy", "gap")}


def head(shape: tuple[int, int, int], *, labelled: bool) -> candidates.Head:
    """Of margins with a bias; of a language model's scores with labels, and no bias."""
    batch, width, classes = shape
    features = torch.randn(batch, width, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(classes, width, device="cuda", dtype=torch.bfloat16).mul_(width**-0.5)
    if labelled:
        return features, weight, None, torch.randint(classes, (batch,), device="cuda")
    return features, weight, torch.randn(classes, device="cuda", dtype=torch.bfloat16), None


def topk_gap(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor | None
) -> Tensor:
    top = linear(features, weight, bias).topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def of_head(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of features, weight and bias, as one of a head."""
    return lambda features, weight, bias, labels: call(features, weight, bias)


@pytest.mark.parametrize("work", WORK)
def bench_linear_candidates(
    against: Callable[..., None], benchmark: Any, request: pytest.FixtureRequest, work: str
) -> None:
    kinds, shape = KINDS[WORK[work][0]], WORK[work][1]
    batch, width, classes = shape
    targets = torch.randint(classes, (batch,), device="cuda")
    rivals = {"F.linear, topk(2), subtracted": topk_gap}
    for others in (
        peers.products(),
        peers.loss_of_a_head(targets),
        peers.linear_cross_entropies(targets),
    ):
        rivals |= {name: of_head(call) for name, call in others.items()}

    def untried(*one: Any) -> Any:
        facts = benchmark.extra_info
        facts["able"] = candidates.able(one, kinds)
        facts["chosen"] = candidates.chosen(one, kinds)
        facts["why_no_hopper"] = candidates.why_no_hopper()
        return candidates.on_trial(request.config, work, one, kinds)

    against(
        lambda f, w, b, y: linear(f, w, b),
        rivals,
        lambda: head(shape, labelled=len(kinds) > 1),
        bytes=2 * (batch * width + classes * width + classes) + 4 * batch * len(kinds),
        flops=2 * batch * width * classes,
        limit="bf16 matmul" if classes > 128 else "copy",
        untried=untried,
    )
