"""SeTa: groups that are a fixed point of k-means, and the window that walks over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection.methods import SeTa, loss_groups, seta_subset
from dynams.selection.signals import Signals
from strategy_inputs import generator, tensor

losses = st.lists(st.floats(0.0, 9.0, width=32), min_size=1, max_size=40)


@given(losses, st.integers(1, 6))
def test_groups_are_in_order_and_every_loss_is_nearest_to_its_own_mean(
    values: list[float], k: int
) -> None:
    array = np.asarray(values, np.float32).astype(float)
    found = loss_groups(tensor(values), k).numpy()
    assert found.min() >= 0
    assert found.max() < k
    order = np.argsort(array, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    there = np.unique(found)
    means = np.array([array[found == each].mean() for each in there])
    own = np.abs(array - means[np.searchsorted(there, found)])
    nearest = np.abs(array[:, None] - means[None]).min(1)
    np.testing.assert_allclose(own, nearest, atol=1e-6)


def test_clear_groups_are_found_and_what_is_not_known_is_in_none() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 200)
    values = truth + rng.uniform(-0.1, 0.1, 200)
    values[[3, 50]] = np.inf, np.nan
    found = loss_groups(tensor(values), 4).numpy()
    truth[[3, 50]] = -1
    assert found.tolist() == truth.tolist()
    assert loss_groups(torch.full((3,), torch.inf), 4).tolist() == [-1] * 3
    assert loss_groups(torch.empty(0), 4).tolist() == []


@given(
    losses,
    st.integers(0, 12),
    st.sampled_from([(10, 0.5, 5), (10, 0.7, 7), (5, 0.9, 5), (3, 0.2, 1), (1, 1.0, 1)]),
    st.sampled_from([0.0, 0.1, 0.6]),
    st.integers(0, 99),
)
def test_the_window_walks_over_the_groups_of_what_was_drawn(
    values: list[float], step: int, shape: tuple[int, float, int], ratio: float, seed: int
) -> None:
    k, share, width = shape
    got = seta_subset(
        tensor(values), step, generator(seed), ratio=ratio, groups=k, window=share
    ).tolist()
    order = torch.randperm(len(values), generator=generator(seed)).numpy()
    size = min(len(values), max(1, int((1 - ratio) * len(values) + 0.5)))
    drawn = np.sort(order[:size])
    group = loss_groups(tensor(np.asarray(values)[drawn]), k).numpy()
    first = step % (k - width + 1)
    kept = drawn[(group >= first) & (group < first + width)].tolist()
    assert got == (kept or drawn.tolist())


def test_what_has_no_loss_yet_is_in_every_window() -> None:
    values = tensor([np.inf, *range(10)])
    for step in range(10):
        got = seta_subset(values, step, generator(), ratio=0.0, groups=10, window=0.1).tolist()
        assert got == [0, step + 1]


def test_the_last_epochs_keep_a_random_share() -> None:
    known = Signals(40, {"last_loss": torch.arange(40.0)})
    taken = {
        at: [
            SeTa(ratio=0.25)
            .select(known, 0, epoch=0, progress=at, generator=generator(seed))
            .indices.numpy()
            for seed in range(60)
        ]
        for at in (0.87, 0.875)
    }
    assert all(each.max() < 28 for each in taken[0.87])  # about the easier half
    assert all(len(each) == 30 for each in taken[0.875])
    often = np.bincount(np.concatenate(taken[0.875]), minlength=40) / 60
    assert (np.abs(often - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 60)).all()


def test_what_is_out_of_range_is_refused() -> None:
    none = torch.zeros(3)
    for name, value in (("ratio", 1.0), ("window", 0.0), ("groups", 0)):
        with pytest.raises(ValueError, match=f"{name}: got {value}, want"):
            seta_subset(none, 0, generator(), **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step: got -1, want at least 0"):
        seta_subset(none, -1, generator())
