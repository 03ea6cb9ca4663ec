"""The pure functions of selection: sizes, blocks of epochs, draws and overlaps."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection.strategy import (
    overlap,
    permutation,
    progress_at,
    refresh_block,
    selection_generator,
    selection_size,
)

seeds = st.integers(-(2**70), 2**70)


@given(st.integers(1, 10**9), st.integers(1, 64))
def test_selection_size_is_the_nearest_whole_number_and_at_least_one(n: int, parts: int) -> None:
    exact = Fraction(n * parts, 64)
    assert selection_size(n, parts / 64) == max(1, int(exact + Fraction(1, 2)))


@given(st.integers(1, 10**9), st.floats(1e-9, 1.0))
def test_selection_size_is_within_the_samples(n: int, budget: float) -> None:
    assert 1 <= selection_size(n, budget) <= n
    assert selection_size(n, 1.0) == n


@pytest.mark.parametrize(
    ("n", "budget", "message"), [(0, 0.5, "num_samples"), (5, 0.0, "budget"), (5, 1.5, "budget")]
)
def test_selection_size_refuses_by_name(n: int, budget: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selection_size(n, budget)


@given(st.integers(0, 9), st.integers(1, 7))
def test_blocks_start_after_the_warm_up_and_every_q_epochs(warmup: int, every: int) -> None:
    expected: list[int | None] = [None] * warmup
    expected += [block for block in range(5) for _ in range(every)]
    blocks = [
        refresh_block(epoch, warmup_epochs=warmup, refresh_every=every)
        for epoch in range(len(expected))
    ]
    assert blocks == expected


@given(st.integers(0, 20), st.integers(1, 50))
def test_progress_rises_from_zero_to_one_over_the_scheduled_epochs(warmup: int, count: int) -> None:
    values = [
        progress_at(epoch, warmup_epochs=warmup, epochs=warmup + count)
        for epoch in range(warmup, warmup + count)
    ]
    np.testing.assert_allclose(values, np.linspace(0, 1, count) if count > 1 else [1.0])
    assert values[-1] == 1.0
    assert progress_at(warmup + count + 3, warmup_epochs=warmup, epochs=warmup + count) == 1.0


@given(st.integers(0, 200), seeds, st.integers(0, 1000))
def test_a_permutation_holds_every_place_once_and_repeats(size: int, seed: int, epoch: int) -> None:
    order = permutation(size, seed, epoch)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(size))
    torch.manual_seed(0)  # the global generator has no part in it
    assert torch.equal(order, permutation(size, seed, epoch))


def test_permutations_differ_between_epochs_and_seeds() -> None:
    orders = {
        tuple(permutation(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


@given(seeds, st.integers(0, 1000))
def test_the_draws_of_a_selection_repeat_and_are_no_part_of_a_permutation(
    seed: int, block: int
) -> None:
    draw = torch.randperm(50, generator=selection_generator(seed, block))
    torch.manual_seed(0)
    assert torch.equal(draw, torch.randperm(50, generator=selection_generator(seed, block)))
    assert not torch.equal(draw, permutation(50, seed, block))


@given(st.integers(1, 60), st.data())
def test_overlap_is_the_share_of_the_new_selection_that_was_in_the_old(
    n: int, data: st.DataObject
) -> None:
    new = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    old = data.draw(st.sets(st.integers(0, n - 1)))
    measured = overlap(torch.tensor(sorted(new)), torch.tensor(sorted(old), dtype=torch.int64), n)
    assert float(measured) == pytest.approx(len(new & old) / len(new), abs=1e-15)
