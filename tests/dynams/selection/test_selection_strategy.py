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
    random_selection,
    refresh_block,
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


@given(st.integers(1, 200), st.data(), seeds, st.integers(0, 1000))
def test_a_random_selection_is_ascending_distinct_and_repeats(
    n: int, data: st.DataObject, seed: int, block: int
) -> None:
    size = data.draw(st.integers(1, n))
    selection = random_selection(n, size, seed, block)
    values = selection.tolist()
    assert len(values) == size
    assert values == sorted(set(values))
    assert set(values) <= set(range(n))
    assert torch.equal(selection, random_selection(n, size, seed, block))


def test_a_random_selection_is_not_the_head_of_a_permutation() -> None:
    head = permutation(50, 0, 0)[:25].sort().values
    assert not torch.equal(random_selection(50, 25, 0, 0), head)


def test_random_selections_leave_no_sample_out_in_the_long_run() -> None:
    counts = torch.zeros(40)
    for block in range(400):
        counts[random_selection(40, 10, 0, block)] += 1
    # 400 draws of a quarter: mean 100, standard deviation 8.7; five of them either side.
    assert counts.min() > 56
    assert counts.max() < 144


@given(st.integers(1, 60), st.data())
def test_overlap_is_the_share_of_the_new_selection_that_was_in_the_old(
    n: int, data: st.DataObject
) -> None:
    new = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    old = data.draw(st.sets(st.integers(0, n - 1)))
    measured = overlap(torch.tensor(sorted(new)), torch.tensor(sorted(old), dtype=torch.int64), n)
    assert float(measured) == pytest.approx(len(new & old) / len(new), abs=1e-15)
