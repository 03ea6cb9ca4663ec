"""CRAIG: lazy greedy is greedy, greedy is near the best, clusters are counted, classes get their share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dynams.selection.methods import craig_subset
from dynams.selection.methods.facility_location import facility_location
from dynams.selection.signals import Signals
from strategy_inputs import generator, gradients, signals, tensor

Matrix = NDArray[np.float32]


def points(count: int, seed: int, grid: bool) -> Matrix:
    """Distances of points in the plane; on a small grid many are equal."""
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 4, (count, 2)).astype(float) if grid else rng.normal(size=(count, 2))
    return np.asarray(np.linalg.norm(places[:, None] - places[None], axis=2), dtype=np.float32)


def value(distances: Matrix, chosen: list[int]) -> float:
    """F(S) from its definition."""
    wide = distances.astype(np.float64)
    nearest = wide[chosen].min(0) if chosen else np.full(len(wide), wide.max())
    return float((wide.max() - np.minimum(nearest, wide.max())).sum())


@given(st.integers(1, 14), st.integers(0, 99), st.booleans(), st.data())
def test_lazy_greedy_takes_a_largest_gain_at_every_step(
    count: int, seed: int, grid: bool, data: st.DataObject
) -> None:
    distances = points(count, seed, grid)
    size = data.draw(st.integers(0, count))
    chosen = facility_location(distances, size).indices.tolist()
    assert len(set(chosen)) == size
    for step in range(size):
        others = [point for point in range(count) if point not in chosen[:step]]
        values = [value(distances, [*chosen[:step], point]) for point in others]
        taken = values[others.index(chosen[step])]
        assert taken == pytest.approx(max(values), abs=1e-5)
        # Of equal gains the lowest index; sums on the grid differ by rounding only if equal.
        first = next(i for i, v in enumerate(values) if v > max(values) - 1e-12)
        if grid and values[first] == max(values) == taken:
            assert chosen[step] <= others[first]


@given(st.integers(2, 9), st.integers(0, 99), st.integers(1, 4))
def test_greedy_is_within_its_bound_of_the_best(count: int, seed: int, size: int) -> None:
    distances, size = points(count, seed, grid=False), min(size, count)
    best = max(value(distances, list(s)) for s in itertools.combinations(range(count), size))
    got = value(distances, facility_location(distances, size).indices.tolist())
    assert got >= (1 - 1 / np.e) * best - 1e-6


@given(st.integers(1, 14), st.integers(0, 99), st.booleans(), st.data())
def test_every_point_is_counted_with_a_nearest_chosen_one(
    count: int, seed: int, grid: bool, data: st.DataObject
) -> None:
    distances = points(count, seed, grid)
    size = data.draw(st.integers(1, count))
    chosen, sizes = facility_location(distances, size)
    assert sizes.sum() == count
    assert sizes.min() >= 1
    owners = [
        int(np.flatnonzero(chosen == point)[0])
        if point in chosen
        else int(distances[chosen, point].argmin())  # the first chosen of several
        for point in range(count)
    ]
    assert sizes.tolist() == np.bincount(owners, minlength=size).tolist()


def clustered(sizes: list[int], labels: list[int]) -> Signals:
    """Tight groups of gradients, far from one another; group i in class labels[i]."""
    total = sum(sizes)
    group = np.repeat(np.arange(len(sizes)), sizes)
    noise = np.random.default_rng(0).normal(size=(total, 3)) * 1e-3
    features = np.eye(len(sizes))[group] * 10
    residuals = np.array([1.0, -0.5, -0.5]) + noise
    return Signals(
        total,
        labels=torch.from_numpy(np.array(labels)[group]),
        features=tensor(features),
        residuals=tensor(residuals),
    )


def subset(
    known: Signals, size: int, seed: int = 0, part_size: int = 2048
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    features, residuals = known.tensor("features"), known.tensor("residuals")
    indices, weights = craig_subset(
        features, residuals, known.tensor("labels"), size, generator(seed), part_size=part_size
    )
    return indices.numpy(), weights.numpy()


def test_one_of_each_cluster_with_its_weight() -> None:
    # Class 0: clusters of 6 and 2; class 1: clusters of 5 and 3. Four chosen: two of each class.
    chosen, weights = subset(clustered([6, 2, 5, 3], [0, 0, 1, 1]), 4)
    groups = np.repeat(np.arange(4), [6, 2, 5, 3])[chosen]
    assert groups.tolist() == [0, 1, 2, 3]
    # Sizes 6, 2, 5, 3 of 16, scaled to mean 1.
    np.testing.assert_allclose(weights, [1.5, 0.5, 1.25, 0.75], rtol=1e-6)


@given(st.integers(1, 40), st.integers(0, 99), st.data())
def test_classes_get_their_shares_and_medoids_weigh_what_is_nearest(
    count: int, seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(0, count))
    known = signals(count, classes=3, seed=seed)
    labels = known.tensor("labels").numpy()
    g = gradients(known.tensor("features"), known.tensor("residuals"))
    chosen, weights = subset(known, size)
    clusters, represented = np.zeros(size), 0
    for label in range(3):
        members = np.flatnonzero(labels == label)
        own = np.flatnonzero(labels[chosen] == label)
        assert abs(len(own) - size * len(members) / count) < 1
        if len(own):
            apart = np.linalg.norm(g[members][:, None] - g[chosen[own]][None], axis=2)
            clusters[own] = np.bincount(apart.argmin(1), minlength=len(own))
            represented += len(members)
    np.testing.assert_allclose(weights, clusters * size / max(represented, 1), rtol=1e-6)


def test_weighted_gradients_are_nearer_to_all_than_random_ones_are() -> None:
    known = signals(200, classes=4, width=6, seed=3)
    g = gradients(known.tensor("features"), known.tensor("residuals"))

    def error(chosen: NDArray[np.int64], weights: NDArray[np.float32]) -> float:
        return float(np.linalg.norm(weights @ g[chosen] / len(weights) - g.mean(0)))

    rng = np.random.default_rng(0)
    others = [error(rng.choice(200, 40, False), np.ones(40, np.float32)) for _ in range(50)]
    assert error(*subset(known, 40)) < np.median(others)


def test_without_split_classes_nothing_is_random() -> None:
    known = signals(40)
    assert subset(known, 9, 0)[0].tolist() == subset(known, 9, 1)[0].tolist()


def test_split_classes_are_selected_from_part_by_part() -> None:
    _, weights = subset(clustered([40], [0]), 8, part_size=10)
    # Four parts of ten, two chosen of each; every part's clusters cover its ten samples.
    sizes = weights * 40 / 8
    np.testing.assert_allclose(sizes, np.round(sizes), atol=1e-5)
    assert sizes.sum() == pytest.approx(40)
    assert sizes.max() <= 9


def test_what_does_not_fit_is_refused() -> None:
    x, y, labels = torch.zeros(6, 4), torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ValueError, match="size: got 7, want at most 6"):
        craig_subset(x, y, labels, 7, generator())
    with pytest.raises(ValueError, match="part_size: got 0, want at least 1"):
        craig_subset(x, y, labels, 2, generator(), part_size=0)
    with pytest.raises(ValueError, match=r"features: got shape \(5, 4\), want \(6, any\)"):
        craig_subset(x[1:], y, labels, 2, generator())
