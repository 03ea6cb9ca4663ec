"""OrderDP: the largest losses of a random draw, and the probability of each rank that its paper derives."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection.methods import OrderDP, hardest, orderdp_subset
from dynams.selection.signals import Signals
from strategy_inputs import generator, tensor

losses = st.lists(st.sampled_from([0.0, 0.5, 0.7, 1.0, 9.0, np.inf, np.nan]), max_size=20)


def gamma(n: int, s: int, q: int) -> np.ndarray:
    """P(the sample of the j-th largest loss is kept), j from 1: equation of gamma_j."""

    def of(j: int) -> float:
        places = range(max(1, s - n + j), min(q, j) + 1)
        return sum(comb(j - 1, k - 1) * comb(n - j, s - k) for k in places) / comb(n, s)

    return np.array([of(j) for j in range(1, n + 1)])


@given(losses, st.floats(0.0, 1.0), st.sampled_from([0.2, 0.6, 1.0]), st.integers(0, 99))
def test_the_largest_of_the_first_of_a_random_order_are_kept(
    values: list[float], share: float, exploitation: float, seed: int
) -> None:
    size = int(share * len(values))
    indices = orderdp_subset(tensor(values), size, generator(seed), exploitation=exploitation)
    order = torch.randperm(len(values), generator=generator(seed)).numpy()
    pool = order[: min(len(values), int(size / exploitation + 0.5))]
    array = np.asarray(values)[pool]
    # The first drawn wins among equal losses; NaN is last.
    ranked = sorted(range(len(pool)), key=lambda p: (np.isnan(array[p]), -np.nan_to_num(array[p])))
    assert indices.tolist() == sorted(pool[ranked[:size]].tolist())


@pytest.mark.parametrize(("size", "exploitation"), [(3, 0.6), (4, 1.0), (6, 0.6)])
def test_each_rank_is_kept_as_often_as_the_surrogate_loss_says(
    size: int, exploitation: float
) -> None:
    n, draws = 10, 3000
    rng = np.random.default_rng(1)
    values = rng.permutation(n).astype(float)
    kept = np.zeros(n)
    for seed in range(draws):
        indices = orderdp_subset(tensor(values), size, generator(seed), exploitation=exploitation)
        kept[indices.numpy()] += 1
    wanted = gamma(n, min(n, int(size / exploitation + 0.5)), size)
    assert wanted.sum() == pytest.approx(size)
    by_rank = kept[np.argsort(-values)] / draws
    error = np.sqrt(wanted * (1 - wanted) / draws)
    assert (np.abs(by_rank - wanted) <= 5 * error).all()


def test_with_too_few_to_draw_from_it_is_the_hardest() -> None:
    values = torch.rand(50, generator=generator(3))
    for size in (30, 31, 50):
        assert torch.equal(orderdp_subset(values, size, generator(4)), hardest(values, size))


def test_those_never_visited_come_first_in_random_order() -> None:
    known = Signals(40, {"last_loss": torch.full((40,), torch.inf)})
    first = {
        tuple(
            OrderDP()
            .select(known, 6, epoch=0, progress=1.0, generator=generator(seed))
            .indices.tolist()
        )
        for seed in range(5)
    }
    assert len(first) == 5
    values = torch.zeros(40)
    values[7] = torch.inf
    held = [7 in orderdp_subset(values, 6, generator(s)).tolist() for s in range(400)]
    assert abs(np.mean(held) - 10 / 40) < 5 * np.sqrt(0.25 * 0.75 / 400)


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"exploitation: got 0\.0, want a number in \(0, 1\]"):
        orderdp_subset(torch.zeros(3), 1, generator(), exploitation=0.0)
    with pytest.raises(ValueError, match="size: got 4, want at most 3"):
        orderdp_subset(torch.zeros(3), 4, generator())
