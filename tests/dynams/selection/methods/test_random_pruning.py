"""InfoBatch and selective backprop: who may go, how probably, and what the rest weigh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection.methods import InfoBatch, Selection, SelectiveBackprop
from dynams.selection.methods.selective_backprop import keep_probability
from dynams.selection.signals import Signals
from strategy_inputs import generator, tensor

LOSSES = [0.1, 0.2, 4.0, 0.3, 1.5, 3.0, 0.4]  # mean 9.5 / 7, about 1.36


def prune(strategy: InfoBatch, losses: list[float], seed: int = 0, at: float = 0.0) -> Selection:
    known = Signals(len(losses), {"last_loss": tensor(losses)})
    return strategy.select(known, 0, epoch=0, progress=at, generator=generator(seed))


def test_only_below_the_mean_goes_and_its_peers_weigh_more() -> None:
    for seed in range(20):
        selection = prune(InfoBatch(ratio=0.75), LOSSES, seed)
        assert selection.weights is not None
        weights = dict(zip(selection.indices.tolist(), selection.weights.tolist(), strict=True))
        assert weights[2] == weights[4] == weights[5] == 1.0
        assert all(weights[i] == 4.0 for i in weights if i not in (2, 4, 5))


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


def test_samples_without_a_loss_stay_and_move_no_mean() -> None:
    losses = [torch.inf, 0.1, 0.3, torch.nan, 0.2]
    for seed in range(20):
        selection = prune(InfoBatch(ratio=0.99), losses, seed)
        assert {0, 2, 3} <= set(selection.indices.tolist())
        assert selection.weights is not None
        assert selection.weights[0] == 1.0
    assert len(prune(InfoBatch(), [torch.inf] * 5).indices) == 5


def test_the_size_follows_from_the_ratio() -> None:
    selection = prune(InfoBatch(ratio=0.6), [0.0] * 500 + [1.0] * 500)
    assert abs(len(selection.indices) - (500 + 200)) < 5 * np.sqrt(500 * 0.24)


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, np.inf]), min_size=1, max_size=20),
    st.lists(st.sampled_from([0.0, 0.5, 0.7, 1.0, 9.0, np.inf]), min_size=1, max_size=9),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)
def test_the_probability_is_the_power_of_the_rank(
    history: list[float], losses: list[float], beta: float
) -> None:
    got = keep_probability(tensor(losses), tensor(history), beta)
    for loss, probability in zip(losses, got.tolist(), strict=True):
        share = sum(past <= loss for past in history) / len(history)
        assert probability == pytest.approx(share**beta)


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


def test_large_losses_are_kept_and_the_hardest_when_nothing_else_is() -> None:
    strategy = SelectiveBackprop(beta=1.0, history=100)
    strategy.keep(losses_of([1.0] * 100), progress=0.0, generator=generator())
    # Larger than all of the past: kept for sure. Smaller than all: never, but one has to stay.
    assert strategy.keep(losses_of([2.0]), progress=0.0, generator=generator()).mask.all()
    hard = SelectiveBackprop(beta=200.0, history=100)
    hard.keep(losses_of([1.0] * 100), progress=0.0, generator=generator())
    choice = hard.keep(losses_of([0.1, 0.3, 0.2]), progress=0.0, generator=generator())
    assert choice.mask.tolist() == [False, True, False]


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
    with pytest.raises(ValueError, match="state lacks losses"):
        after.load_state_dict({})
