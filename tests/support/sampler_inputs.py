"""What tests of the sampler share: margins full of ties, handed over in pairs, and the oracle that selects from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynams.selection import SubsetSampler

N = 40


def margins_of(epoch: int, n: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + epoch)
    # Few distinct values: ties are the rule.
    return torch.randint(0, n // 3 + 1, (n,), generator=generator).float()


def scorer(
    epoch: int, n: int = N, calls: list[int] | None = None
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    def score() -> Iterator[tuple[Tensor, Tensor]]:
        if calls is not None:
            calls.append(epoch)
        margins = margins_of(epoch, n)
        for indices in torch.arange(n).split(7):
            yield indices, margins[indices]

    return score


def run(sampler: SubsetSampler, epochs: int, calls: list[int] | None = None) -> list[list[int]]:
    """The order of every epoch."""
    orders = []
    for epoch in range(epochs):
        sampler.begin_epoch(epoch, scorer(epoch, calls=calls))
        orders.append(list(sampler))
    return orders


def smallest(margins: Tensor, k: int) -> list[int]:
    """The oracle: NumPy's stable sort, NaN last."""
    order = np.argsort(margins.double().numpy(), kind="stable")
    return sorted(order[:k].tolist())


def assert_states_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_states_equal(one[key], other[key])
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == other
