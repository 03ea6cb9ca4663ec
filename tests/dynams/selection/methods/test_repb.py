"""RePB: who stays beside its own batch, who comes back, and what the inverse of a frequency makes of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import SubsetSampler, Visits
from dynams.selection.methods import repb_subset
from strategy_inputs import generator, tensor

# (loss minus its window's mean, epoch of the last step, epochs trained in)
samples = st.lists(
    st.tuples(
        st.sampled_from([-2.0, -0.1, 0.0, 0.5, np.inf, np.nan]),
        st.sampled_from([-np.inf, 0.0, 2.0, 3.0]),
        st.integers(0, 4),
    ),
    max_size=20,
)


@given(samples, st.sampled_from([0.0, 0.3, 0.9]), st.integers(0, 99))
def test_the_rules_one_by_one(
    known: list[tuple[float, float, int]], ratio: float, seed: int
) -> None:
    losses, last, trained = (tensor([each[i] for each in known]) for i in range(3))
    indices, weights = repb_subset(losses, last, trained, 4, generator(seed), ratio=ratio)
    drawn = torch.rand(len(known), generator=generator(seed), dtype=torch.float64).numpy()
    kept = []
    for place, (loss, epoch, _) in enumerate(known):
        if epoch == -np.inf:
            stays = True  # never trained on
        elif epoch == 3.0:
            stays = loss >= 0 or drawn[place] >= ratio  # local window pruning
        else:
            stays = drawn[place] >= 1 - (1 - ratio)  # resampling, with probability 1 - rho
        if stays:
            kept.append(place)
    assert indices.tolist() == kept
    wanted = [4 / max(1, known[place][2]) for place in kept]
    np.testing.assert_allclose(weights.numpy(), wanted, rtol=1e-6)


def test_windows_and_frequencies_are_those_of_the_training() -> None:
    """A run of a table of losses, retold in NumPy from the batches alone."""
    n, epochs = 23, 6
    visits = Visits(n, ["window_loss", "last_epoch", "trained_epochs"])
    sampler = SubsetSampler(n, "repb", score=visits.signals, seed=3)
    rng = np.random.default_rng(0)
    excess, last, counts = np.full(n, np.inf), np.full(n, -np.inf), np.zeros(n)
    for epoch in range(epochs):
        refresh = sampler.begin_epoch(epoch)
        assert refresh is not None
        chosen, weights = refresh.indices.numpy(), refresh.weights
        assert weights is not None
        trained = last == epoch - 1
        assert set(np.flatnonzero(trained & (excess >= 0))) <= set(chosen)
        if epoch == 0:
            assert len(chosen) == n
        elif epoch > 1:
            assert len(chosen) < n
        np.testing.assert_allclose(weights.numpy(), max(1, epoch) / np.maximum(1, counts)[chosen])
        for batch in sampler.order().split(5):
            logits = tensor(rng.normal(size=(len(batch), 3)))
            labels = torch.zeros(len(batch), dtype=torch.int64)
            visits.record(epoch, batch, logits, labels)
            losses = -logits.double().log_softmax(1)[:, 0].numpy()
            at = batch.numpy()
            excess[at], last[at] = losses - losses.mean(), epoch
            counts[at] += 1
    found = visits.signals()
    np.testing.assert_allclose(found.score("window_loss").numpy(), excess, atol=1e-6)
    assert found.score("trained_epochs").tolist() == counts.tolist()
    assert found.score("last_epoch").tolist() == last.tolist()


def test_an_epoch_counts_once_however_often_it_is_walked() -> None:
    visits = Visits(3, ["trained_epochs"])
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    for epoch, places in ((0, [0, 1]), (0, [1, 2]), (4, [1, 2])):
        visits.record(epoch, torch.tensor(places), logits, labels)
    assert visits.score("trained_epochs").tolist() == [1.0, 2.0, 2.0]


def test_equal_losses_are_not_below_their_mean() -> None:
    for loss in (0.1, 1 / 3, 7.3):
        visits = Visits(1001, ["window_loss"])
        logits = torch.tensor([[0.0, loss]]).repeat(1001, 1)
        visits.record(0, torch.arange(1001), logits, torch.zeros(1001, dtype=torch.int64))
        assert visits.score("window_loss").tolist() == [0.0] * 1001


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_in_the_long_run_every_sample_weighs_the_same(ratio: float) -> None:
    """E / N_i estimates 1 / p_i: what a sample adds over an epoch is 1 on average, hard or easy."""
    n, epochs, seeds = 8, 60, 40
    # The hard always stay; the easy go and come back: p is 1 - rho either way.
    hard = np.arange(n) < 3
    added = []
    for seed in range(seeds):
        last, counts, source = np.zeros(n), np.ones(n), generator(seed)
        total = np.zeros(n)
        for epoch in range(1, epochs):
            known = (np.where(hard, 1.0, -1.0), last, counts)
            indices, weights = repb_subset(*map(tensor, known), epoch, source, ratio=ratio)
            at = indices.numpy()
            if epoch >= epochs // 2:
                total[at] += weights.numpy()
            last[at], counts[at] = epoch, counts[at] + 1
        added.append(total / (epochs - epochs // 2))
    mean, error = np.mean(added, 0), np.std(added, 0) / np.sqrt(seeds)
    assert (mean[hard] == 1.0).all()
    # The inverse of an estimate is a little above the inverse (Jensen).
    assert (np.abs(mean - 1.0) < 5 * error + 0.05).all()


def test_what_is_out_of_range_is_refused() -> None:
    none = torch.zeros(3)
    with pytest.raises(ValueError, match=r"ratio: got 1\.0, want a number in \[0, 1\)"):
        repb_subset(none, none, none, 1, generator(), ratio=1.0)
    with pytest.raises(ValueError, match="epochs: got -1, want at least 0"):
        repb_subset(none, none, none, -1, generator())
