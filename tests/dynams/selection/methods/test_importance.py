"""Importance sampling: exact probabilities, weights that make every mean unbiased, by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection.methods import BatchImportance, Importance, batch_increment
from dynams.selection.methods.sampling import (
    draw_counts,
    inclusion_probabilities,
    probabilities,
    systematic,
)
from dynams.selection.signals import Signals
from strategy_inputs import generator, tensor

scores = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=12)


def wide(values: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def capped(p: np.ndarray, size: int) -> np.ndarray:
    """min(1, c p) with sum `size`, c by bisection."""
    low, high = 0.0, 1.0
    while np.minimum(1, high * p).sum() < size - 1e-13 and high < 1e30:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(1, middle * p).sum() < size else (low, middle)
    return np.asarray(np.minimum(1, high * p))


@given(scores, st.floats(0, 1))
def test_probabilities_are_proportional_and_smoothed(values: list[float], mix: float) -> None:
    s = np.array(values)
    share = s / s.sum() if s.sum() > 0 else np.full(len(s), 1 / len(s))
    expected = (1 - mix) * share + mix / len(s)
    got = probabilities(tensor(values), mix).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)
    assert got.sum() == pytest.approx(1)
    assert (got > 0).all()


def test_scores_that_are_no_numbers_count_as_the_largest() -> None:
    got = probabilities(tensor([1.0, np.nan, 3.0, np.inf, -5.0]), 0.0)
    np.testing.assert_allclose(got.numpy(), [0.1, 0.3, 0.3, 0.3, 0.0], atol=1e-8)


@given(scores, st.data())
def test_inclusion_probabilities_are_capped_and_sum_to_the_size(
    values: list[float], data: st.DataObject
) -> None:
    size = data.draw(st.integers(0, len(values)))
    p = probabilities(tensor(values), 0.05)
    got = inclusion_probabilities(p, size).numpy()
    assert got.sum() == pytest.approx(size)
    np.testing.assert_allclose(got, capped(p.numpy(), size) if size else 0.0, atol=1e-9)


@given(scores, st.integers(0, 99), st.data())
def test_systematic_sampling_has_exactly_its_probabilities(
    values: list[float], seed: int, data: st.DataObject
) -> None:
    """The draw is constant between breakpoints of the start: their lengths add up to pi."""
    size = data.draw(st.integers(1, len(values)))
    inclusion = inclusion_probabilities(probabilities(tensor(values), 0.05), size)
    order = torch.randperm(len(values), generator=generator(seed))
    breaks = np.unique(np.append(np.mod(inclusion[order].cumsum(0).numpy(), 1.0), [0.0, 1.0]))
    frequency = np.zeros(len(values))
    for low, high in itertools.pairwise(breaks):
        if high - low < 1e-9:  # rounding of one breakpoint
            continue
        drawn = systematic(inclusion, order, wide((low + high) / 2), size).numpy()
        assert len(set(drawn)) == size
        frequency[drawn] += high - low
    np.testing.assert_allclose(frequency, inclusion.numpy(), atol=1e-7)


def enumerated_mean(p: np.ndarray, losses: np.ndarray, draws: int) -> float:
    """Expected weighted mean over all sequences of draws, weights as documented."""
    count, total = len(p), 0.0
    for sequence in itertools.product(range(count), repeat=draws):
        times = np.bincount(sequence, minlength=count)
        kept = times > 0
        k = kept.sum()
        weights = times * k / (draws * count * p)
        total += np.prod(p[list(sequence)]) * (weights * losses)[kept].sum() / k
    return total


def test_documented_weights_with_replacement_are_unbiased() -> None:
    p, losses = np.array([0.5, 0.3, 0.15, 0.05]), np.array([1.0, -2.0, 5.0, 7.0])
    assert enumerated_mean(p, losses, 3) == pytest.approx(losses.mean())


def test_weights_with_replacement_are_those_documented() -> None:
    known = Signals(5, {"el2n": tensor([1.0, 2.0, 3.0, 4.0, 10.0])})
    p = np.array([1, 2, 3, 4, 10]) / 20
    strategy = Importance(replacement=True, smoothing=0.0)
    for seed in range(20):
        selection = strategy.select(known, 4, epoch=0, progress=0.0, generator=generator(seed))
        times = draw_counts(wide(p), 4, generator(seed)).numpy()
        assert times.sum() == 4
        kept = np.flatnonzero(times)
        assert selection.indices.tolist() == kept.tolist()
        assert selection.weights is not None
        expected = times[kept] * len(kept) / (4 * 5 * p[kept])
        np.testing.assert_allclose(selection.weights.numpy(), expected, rtol=1e-6)


def test_counts_with_replacement_follow_the_probabilities() -> None:
    p = np.array([0.5, 0.25, 0.2, 0.05])
    counts = draw_counts(wide(p), 20_000, generator()).numpy()
    assert np.abs(counts - 20_000 * p).max() < 5 * np.sqrt(20_000 * 0.25)


def test_weights_without_replacement_are_size_over_n_pi() -> None:
    known = Signals(4, {"loss": tensor([1.0, 1.0, 2.0, 96.0])})
    strategy = Importance(score="loss", smoothing=0.0)
    selection = strategy.select(known, 2, epoch=0, progress=0.0, generator=generator())
    # The last is certain; one of the others comes with probability 1/4, 1/4, 1/2.
    assert selection.weights is not None
    first = selection.indices.tolist()[0]
    assert selection.indices.tolist() == [first, 3]
    expected = [2 / 4 / [0.25, 0.25, 0.5][first], 2 / 4]
    np.testing.assert_allclose(selection.weights.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("replacement", [False, True])
def test_the_weighted_mean_is_unbiased_over_many_draws(replacement: bool) -> None:
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=9)
    known = Signals(9, {"el2n": tensor(rng.random(9))})
    strategy = Importance(replacement=replacement)
    means = []
    source = generator(1)
    for _ in range(1500):
        selection = strategy.select(known, 4, epoch=0, progress=0.0, generator=source)
        assert selection.weights is not None
        means.append(np.mean(selection.weights.numpy() * losses[selection.indices.numpy()]))
    error = np.std(means) / np.sqrt(len(means))
    assert 0 < error < 0.05
    assert abs(np.mean(means) - losses.mean()) < 5 * error


def test_smoothing_bounds_the_weights() -> None:
    known = Signals(50, {"el2n": tensor([0.0] * 49 + [1.0])})
    selection = Importance(smoothing=0.25).select(
        known, 10, epoch=0, progress=0.0, generator=generator()
    )
    assert selection.weights is not None
    assert float(selection.weights.max()) <= 4.0


@pytest.mark.parametrize("replacement", [False, True])
def test_the_batchs_weighted_mean_is_unbiased(replacement: bool) -> None:
    rng = np.random.default_rng(2)
    losses = rng.exponential(size=8)
    batch = Signals(8, {"el2n": tensor(0.1 + rng.random(8))})
    strategy = BatchImportance(share=0.5, replacement=replacement)
    source = generator(3)
    means = []
    for _ in range(1500):
        choice = strategy.keep(batch, progress=0.0, generator=source)
        assert choice.weights is not None
        kept = choice.mask.numpy()
        assert kept.sum() == 4 or (replacement and kept.sum() < 4)
        means.append((choice.weights.numpy() * losses)[kept].sum() / kept.sum())
    error = np.std(means) / np.sqrt(len(means))
    assert abs(np.mean(means) - losses.mean()) < 5 * error


@given(st.lists(st.floats(0.015625, 10, width=32), min_size=1, max_size=20))
def test_the_batch_increment_is_the_published_one(values: list[float]) -> None:
    p = np.array(values) / np.sum(values)
    u = 1 / len(p)
    published = 1 / np.sqrt(1 - ((p - u) ** 2).sum() / (p**2).sum())
    assert float(batch_increment(wide(p))) == pytest.approx(published)


def test_below_the_threshold_a_batch_is_drawn_evenly() -> None:
    batch = Signals(4, {"el2n": tensor([1.0, 1.0, 1.0, 5.0])})
    tau = float(batch_increment(wide([1 / 8, 1 / 8, 1 / 8, 5 / 8])))
    even = BatchImportance(0.5, replacement=False, threshold=tau + 0.01)
    uneven = BatchImportance(0.5, replacement=False, threshold=tau - 0.01)
    choice = even.keep(batch, progress=0.0, generator=generator())
    assert choice.weights is not None
    np.testing.assert_allclose(choice.weights[choice.mask].numpy(), 1.0, rtol=1e-6)
    choice = uneven.keep(batch, progress=0.0, generator=generator())
    assert choice.weights is not None
    # pi = 1/3 for the three, 1 for the last: weights 2 / (4 pi).
    np.testing.assert_allclose(choice.weights[choice.mask].numpy(), [1.5, 0.5], rtol=1e-6)
