"""Random draws: functions of seed, epoch and block, and of nothing else."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection.draws import epoch_order, selection_generator

seeds = st.integers(-(2**70), 2**70)


@given(st.integers(0, 200), seeds, st.integers(0, 1000))
def test_an_order_holds_every_place_once_and_repeats(size: int, seed: int, epoch: int) -> None:
    order = epoch_order(size, seed, epoch)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(size))
    torch.manual_seed(0)  # the global generator has no part in it
    assert torch.equal(order, epoch_order(size, seed, epoch))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = {
        tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


@given(seeds, st.integers(0, 1000))
def test_the_draws_of_a_selection_repeat_and_are_no_part_of_an_order(seed: int, block: int) -> None:
    draw = torch.randperm(50, generator=selection_generator(seed, block))
    torch.manual_seed(0)
    assert torch.equal(draw, torch.randperm(50, generator=selection_generator(seed, block)))
    assert not torch.equal(draw, epoch_order(50, seed, block))
