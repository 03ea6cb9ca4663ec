"""InfoBatch and selective backprop: who may go, how probably, and what the rest weigh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import Selection
from dynams.selection.methods import (
    InfoBatch,
    SelectiveBackprop,
    infobatch_subset,
    selective_backprop_mask,
)
from dynams.selection.signals import Signals
from strategy_inputs import generator, tensor

losses = st.lists(st.sampled_from([0.0, 0.5, 0.7, 1.0, 9.0, np.inf, np.nan]), max_size=20)


def drawn(count: int, seed: int) -> np.ndarray:
    """What a generator gives to whoever asks it for that many numbers first."""
    return torch.rand(count, generator=generator(seed), dtype=torch.float64).numpy()


LOSSES = [0.1, 0.2, 4.0, 0.3, 1.5, 3.0, 0.4]  # mean 9.5 / 7, about 1.36


def prune(strategy: InfoBatch, losses: list[float], seed: int = 0, at: float = 0.0) -> Selection:
    known = Signals(len(losses), {"last_loss": tensor(losses)})
    return strategy.select(known, 0, epoch=0, progress=at, generator=generator(seed))


@given(losses, st.sampled_from([0.0, 0.3, 0.9]), st.integers(0, 99))
def test_who_is_below_the_mean_of_the_known_may_go(
    values: list[float], ratio: float, seed: int
) -> None:
    indices, weights = infobatch_subset(tensor(values), generator(seed), ratio=ratio)
    array = np.asarray(values, np.float32).astype(float)
    known = array[np.isfinite(array)]
    easy = np.isfinite(array) & (array < (known.mean() if len(known) else np.nan))
    kept = np.flatnonzero(~easy | (drawn(len(values), seed) >= ratio))
    assert indices.tolist() == kept.tolist()
    expected = np.where(easy, 1 / (1 - ratio), 1.0)[kept]
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


def test_samples_without_a_loss_stay_and_move_no_mean() -> None:
    losses = [torch.inf, 0.25, 0.75, torch.nan, 0.5, torch.inf]
    for seed in range(20):
        indices, weights = infobatch_subset(tensor(losses), generator(seed), ratio=0.5)
        # Of the three known, of mean 0.5, the first alone is below it.
        assert weights.tolist() == [2.0 if index == 1 else 1.0 for index in indices.tolist()]
        assert {0, 2, 3, 4, 5} <= set(indices.tolist())


def test_equal_losses_are_not_below_their_mean() -> None:
    for loss in (0.1, 1 / 3, 7.3):
        assert len(prune(InfoBatch(ratio=0.9), [loss] * 1001).indices) == 1001


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_the_expected_gradient_is_that_of_all_samples(ratio: float) -> None:
    gradient = np.random.default_rng(0).normal(size=(7, 3))
    sums = []
    for seed in range(2000):
        selection = prune(InfoBatch(ratio), LOSSES, seed)
        assert selection.weights is not None
        sums.append(selection.weights.numpy() @ gradient[selection.indices.numpy()])
    error = np.std(sums, axis=0) / np.sqrt(len(sums))
    assert (np.abs(np.mean(sums, axis=0) - gradient.sum(0)) < 5 * error).all()


def test_the_last_epochs_keep_everything_at_weight_one() -> None:
    for at, whole in ((0.8, False), (0.87, False), (0.875, True), (1.0, True)):
        selection = prune(InfoBatch(ratio=0.9), [0.0] * 50 + [1.0], at=at)
        assert (len(selection.indices) == 51) == whole
        assert (selection.weights is None) == whole


@given(
    losses, losses, st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.integers(1, 25), st.integers(0, 99)
)
def test_the_probability_is_the_power_of_the_rank(
    past: list[float], values: list[float], beta: float, history: int, seed: int
) -> None:
    recent = np.nan_to_num(np.asarray(past, np.float32), nan=np.inf, posinf=np.inf)
    mask, after = selective_backprop_mask(
        tensor(values), tensor(recent), generator(seed), beta=beta, history=history
    )
    batch = np.nan_to_num(np.asarray(values, np.float32), nan=np.inf, posinf=np.inf)
    if not values:
        assert mask.shape == (0,)
        assert after.tolist() == recent.tolist()
        return
    seen = np.concatenate([recent, batch])[-history:]
    assert after.tolist() == seen.tolist()
    rank = (seen[None] <= batch[:, None]).mean(1)
    kept = drawn(len(values), seed) < rank**beta
    if not kept.any():
        kept[batch.argmax()] = True
    assert mask.tolist() == kept.tolist()


def test_the_hardest_is_kept_for_sure_only_where_nothing_else_is() -> None:
    recent, masks = torch.full((8,), 9.0), set()
    for seed in range(100):
        mask, _ = selective_backprop_mask(tensor([0.5, 1.0]), recent, generator(seed))
        kept = drawn(2, seed) < [0.1, 0.2]
        masks.add(tuple(mask.tolist()))
        assert mask.tolist() == (kept.tolist() if kept.any() else [False, True])
    assert (True, False) in masks


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio: got 1\.0, want a number in \[0, 1\)"):
        infobatch_subset(torch.zeros(3), generator(), ratio=1.0)
    with pytest.raises(ValueError, match=r"beta: got -1\.0, want a number in \[0, inf\)"):
        selective_backprop_mask(torch.zeros(3), None, generator(), beta=-1.0)
    with pytest.raises(ValueError, match="history: got 0, want at least 1"):
        selective_backprop_mask(torch.zeros(3), None, generator(), history=0)


def losses_of(values: list[float]) -> Signals:
    return Signals(len(values), {"loss": tensor(values)})


def test_one_in_beta_plus_one_is_kept() -> None:
    for beta in (0.0, 1.0, 3.0):
        strategy, source = SelectiveBackprop(beta=beta), generator(4)
        rng = np.random.default_rng(5)
        kept = [
            int(
                strategy.keep(
                    losses_of(rng.random(100).tolist()), progress=0.0, generator=source
                ).mask.sum()
            )
            for _ in range(80)
        ]
        rate = 1 / (beta + 1)
        assert abs(np.mean(kept[20:]) / 100 - rate) < 5 * np.sqrt(0.25 / 6000) + 1e-3


def test_the_history_forgets_the_oldest() -> None:
    strategy = SelectiveBackprop(history=4)
    strategy.keep(losses_of([1.0, 2.0, torch.nan]), progress=0.0, generator=generator())
    strategy.keep(losses_of([4.0, 5.0]), progress=0.0, generator=generator())
    assert strategy.state_dict()["losses"].tolist() == [2.0, torch.inf, 4.0, 5.0]


def test_a_resumed_run_keeps_the_same() -> None:
    rng = np.random.default_rng(6)
    batches = [losses_of(rng.random(8).tolist()) for _ in range(6)]
    whole, source = SelectiveBackprop(history=20), generator(7)
    expected = [whole.keep(each, progress=0.0, generator=source).mask for each in batches]
    before, source = SelectiveBackprop(history=20), generator(7)
    got = [before.keep(each, progress=0.0, generator=source).mask for each in batches[:3]]
    after = SelectiveBackprop(history=20)
    after.load_state_dict(before.state_dict())
    got += [after.keep(each, progress=0.0, generator=source).mask for each in batches[3:]]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    with pytest.raises(ValueError, match="state: got no losses, want all entries"):
        after.load_state_dict({})
