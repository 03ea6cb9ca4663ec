"""Importance sampling: exact probabilities, weights that make every mean unbiased, by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection.methods import batch_increment, importance_batch, importance_sample
from dynams.selection.methods.sampling import (
    draw_counts,
    inclusion_probabilities,
    probabilities,
    systematic,
)
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


@given(scores, st.floats(0.01, 1), st.integers(0, 99), st.data())
def test_weights_are_those_documented(
    values: list[float], mix: float, seed: int, data: st.DataObject
) -> None:
    count = len(values)
    size = data.draw(st.integers(1, count))
    p = probabilities(tensor(values), mix).numpy()
    indices, weights = importance_sample(
        tensor(values), size, generator(seed), replacement=True, smoothing=mix
    )
    times = draw_counts(wide(p), size, generator(seed)).numpy()
    assert times.sum() == size
    kept = np.flatnonzero(times)
    assert indices.tolist() == kept.tolist()
    np.testing.assert_allclose(
        weights.numpy(), times[kept] * len(kept) / (size * count * p[kept]), rtol=1e-6
    )
    indices, weights = importance_sample(tensor(values), size, generator(seed), smoothing=mix)
    assert len(set(indices.tolist())) == size
    np.testing.assert_allclose(
        weights.numpy(), size / (count * capped(p, size)[indices.numpy()]), rtol=1e-5
    )


def test_counts_with_replacement_follow_the_probabilities() -> None:
    p = np.array([0.5, 0.25, 0.2, 0.05])
    counts = draw_counts(wide(p), 20_000, generator()).numpy()
    assert np.abs(counts - 20_000 * p).max() < 5 * np.sqrt(20_000 * 0.25)


def test_weights_without_replacement_by_hand() -> None:
    values = tensor([1.0, 1.0, 2.0, 96.0])
    indices, weights = importance_sample(values, 2, generator(), smoothing=0.0)
    # The last is certain; one of the others comes with probability 1/4, 1/4, 1/2.
    first = indices.tolist()[0]
    assert indices.tolist() == [first, 3]
    expected = [2 / 4 / [0.25, 0.25, 0.5][first], 2 / 4]
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("replacement", [False, True])
def test_the_weighted_mean_is_unbiased_over_many_draws(replacement: bool) -> None:
    rng = np.random.default_rng(0)
    losses, values = rng.exponential(size=9), tensor(rng.random(9))
    means = []
    source = generator(1)
    for _ in range(1500):
        indices, weights = importance_sample(values, 4, source, replacement=replacement)
        means.append(np.mean(weights.numpy() * losses[indices.numpy()]))
    error = np.std(means) / np.sqrt(len(means))
    assert 0 < error < 0.05
    assert abs(np.mean(means) - losses.mean()) < 5 * error


def test_smoothing_bounds_the_weights() -> None:
    _, weights = importance_sample(tensor([0.0] * 49 + [1.0]), 10, generator(), smoothing=0.25)
    assert float(weights.max()) <= 4.0


@pytest.mark.parametrize("replacement", [False, True])
def test_the_batchs_weighted_mean_is_unbiased(replacement: bool) -> None:
    rng = np.random.default_rng(2)
    losses, values = rng.exponential(size=8), tensor(0.1 + rng.random(8))
    source = generator(3)
    means = []
    for _ in range(1500):
        mask, weights = importance_batch(values, 4, source, replacement=replacement)
        kept = mask.numpy()
        assert kept.sum() == 4 or (replacement and kept.sum() < 4)
        means.append((weights.numpy() * losses)[kept].sum() / kept.sum())
    error = np.std(means) / np.sqrt(len(means))
    assert abs(np.mean(means) - losses.mean()) < 5 * error


@given(scores, st.booleans(), st.integers(0, 99), st.data())
def test_a_batch_is_drawn_and_weighed_as_samples_are(
    values: list[float], replacement: bool, seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(0, len(values)))
    mask, weights = importance_batch(tensor(values), size, generator(seed), replacement=replacement)
    indices, expected = importance_sample(
        tensor(values), size, generator(seed), replacement=replacement, smoothing=0.0
    )
    assert mask.nonzero().flatten().tolist() == indices.tolist()
    np.testing.assert_allclose(weights[mask].numpy(), expected.numpy(), rtol=1e-6)
    assert not weights[~mask].any()


def test_what_is_out_of_range_is_refused() -> None:
    for draw in (importance_sample, importance_batch):
        with pytest.raises(ValueError, match="size: got 4, want at most 3"):
            draw(torch.zeros(3), 4, generator())
    with pytest.raises(ValueError, match=r"smoothing: got 1\.5, want a number in \[0, 1\]"):
        importance_sample(torch.zeros(3), 1, generator(), smoothing=1.5)
    with pytest.raises(ValueError, match=r"threshold: got -1\.0, want a number in \[0, inf\)"):
        importance_batch(torch.zeros(3), 1, generator(), threshold=-1.0)


@given(st.lists(st.floats(0.015625, 10, width=32), min_size=1, max_size=20))
def test_the_batch_increment_is_the_published_one(values: list[float]) -> None:
    p = np.array(values) / np.sum(values)
    u = 1 / len(p)
    published = 1 / np.sqrt(1 - ((p - u) ** 2).sum() / (p**2).sum())
    assert float(batch_increment(wide(p))) == pytest.approx(published)


def test_below_the_threshold_a_batch_is_drawn_evenly() -> None:
    values = tensor([1.0, 1.0, 1.0, 5.0])
    tau = float(batch_increment(wide([1 / 8, 1 / 8, 1 / 8, 5 / 8])))
    # Unevenly pi is 1/3 for the three, 1 for the last: weights 2 / (4 pi).
    for threshold, expected in ((tau + 0.01, [1.0, 1.0]), (tau - 0.01, [1.5, 0.5])):
        mask, weights = importance_batch(
            values, 2, generator(), replacement=False, threshold=threshold
        )
        np.testing.assert_allclose(weights[mask].numpy(), expected, rtol=1e-6)
