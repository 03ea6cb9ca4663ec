"""What a call costs the host beside the work: inputs so small that there is next to none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import dynams_kernels as dk

# One call is too short for the clock.
CALLS = 100
SIX_KINDS = ["gap", "probability", "loss", "el2n", "entropy", "confidence"]

OPERATIONS = (
    "margin",
    "margin, with a gradient",
    "smallest_k",
    "margin_topk",
    "scores, six kinds",
    "linear_margin",
)


def calls() -> dict[str, Callable[[], Any]]:
    logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
    trained = torch.randn(8, 10, requires_grad=True)
    features, weight, values = torch.randn(8, 16), torch.randn(10, 16), torch.randn(64)
    return {
        "margin": lambda: dk.margin(logits),
        "margin, with a gradient": lambda: dk.margin(trained),
        "smallest_k": lambda: dk.smallest_k(values, 38),
        "margin_topk": lambda: dk.margin_topk(logits, 5),
        "scores, six kinds": lambda: dk.scores(logits, SIX_KINDS, labels=labels),
        "linear_margin": lambda: dk.linear_margin(features, weight),
    }


def repeated(call: Callable[[], Any]) -> Callable[[], None]:
    def hundred() -> None:
        for _ in range(CALLS):
            call()

    return hundred


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("operation", OPERATIONS)
def bench_a_hundred_calls(versus: Callable[..., None], operation: str) -> None:
    logits, features, weight = torch.randn(8, 10), torch.randn(8, 16), torch.randn(10, 16)
    versus(
        repeated(calls()[operation]),
        {
            "torch.topk(2)": repeated(lambda: torch.topk(logits, 2)),
            "F.linear": repeated(lambda: torch.nn.functional.linear(features, weight)),
        },
        rounds=31,
    )
