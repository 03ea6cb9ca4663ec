"""Matching pursuit: every fit is the best non-negative one, every step the steepest; GradMatch on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import nnls

from dynams.selection.methods import BatchGradMatch, GradMatch, Selection, Strategy
from dynams.selection.methods.pursuit import matching_pursuit
from dynams.selection.signals import Signals
from strategy_inputs import generator, gradients, signals, tensor

Array = NDArray[np.float64]


def best_fit(atoms: Array, target: Array, ridge: float) -> Array:
    """Non-negative least squares by SciPy: the ridge as rows of its own."""
    rows = np.concatenate([atoms.T, np.sqrt(ridge) * np.eye(len(atoms))])
    return np.asarray(nnls(rows, np.concatenate([target, np.zeros(len(atoms))]))[0])


def naive_pursuit(atoms: Array, target: Array, count: int, ridge: float) -> dict[int, float]:
    """The same method from the atoms themselves, every fit made anew."""
    chosen: list[int] = []
    weights = np.zeros(len(atoms))
    while len(chosen) < count:
        left = atoms @ (target - weights @ atoms)
        left[chosen] = -np.inf
        atom = int(left.argmax())
        if left[atom] <= 1e-9:
            break
        chosen.append(atom)
        weights[:] = 0
        weights[chosen] = best_fit(atoms[chosen], target, ridge)
        chosen = [each for each in chosen if weights[each] > 0]
    return {each: float(weights[each]) for each in sorted(chosen)}


def pursue(atoms: Array, target: Array, count: int, ridge: float) -> dict[int, float]:
    found = matching_pursuit(atoms @ atoms.T, atoms @ target, count, ridge)
    return dict(sorted(zip(found.indices.tolist(), found.weights.tolist(), strict=True)))


def test_orthogonal_atoms_enter_by_their_correlation() -> None:
    atoms = np.diag([1.0, 2.0, 1.0, 3.0])
    target = np.array([5.0, 4.0, -6.0, 1.0])
    # Correlations 5, 8, -6, 3; weights b / (a^2 + ridge); the negative one never enters.
    assert pursue(atoms, target, 2, 1.0) == pytest.approx({0: 2.5, 1: 1.6})
    assert pursue(atoms, target, 4, 1.0) == pytest.approx({0: 2.5, 1: 1.6, 3: 0.3})


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 999), st.data())
def test_the_pursuit_is_that_of_the_definition(
    count: int, dimensions: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(count, dimensions))
    target = atoms.sum(0) if seed % 2 else rng.normal(size=dimensions) * 3
    size = data.draw(st.integers(0, count))
    ridge = data.draw(st.sampled_from([0.5, 1e-2]))
    expected = naive_pursuit(atoms, target, size, ridge)
    got = pursue(atoms, target, size, ridge)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_many_leave_and_enter_and_the_fit_stays_exact() -> None:
    """Positively correlated atoms: weights turn negative often, the inverse is updated both ways."""
    rng = np.random.default_rng(8)
    atoms = rng.normal(size=(120, 30)) + 2.0
    target = rng.normal(size=30) * 5 + 40.0
    got = pursue(atoms, target, 60, 1e-4)
    chosen = list(got)
    np.testing.assert_allclose(
        list(got.values()), best_fit(atoms[chosen], target, 1e-4), rtol=1e-6, atol=1e-9
    )
    everywhere = best_fit(atoms, target, 1e-4)
    if len(got) < 60:  # ended early: nothing matches better
        np.testing.assert_allclose(sorted(got), np.flatnonzero(everywhere > 1e-9))


@pytest.mark.parametrize("ridge", [0.1, 1e-4, 1e-8])
def test_the_fit_stays_exact_where_the_matrix_is_nearly_singular(ridge: float) -> None:
    """More atoms than dimensions: only the ridge holds the inverse together, step after step."""
    rng = np.random.default_rng(1)
    atoms = rng.normal(size=(200, 40)) + 2.0
    target = atoms.sum(0)
    got = pursue(atoms, target, 100, ridge)
    chosen, weights = list(got), np.array(list(got.values()))
    wanted = atoms[chosen] @ target
    error = wanted - atoms[chosen] @ (weights @ atoms[chosen]) - ridge * weights
    assert np.abs(error).max() <= 1e-10 * np.abs(wanted).max()


def select(strategy: Strategy, known: Signals, size: int, seed: int = 0) -> Selection:
    return strategy.select(known, size, epoch=0, progress=0.0, generator=generator(seed))


def known_groups(counts: list[int]) -> Signals:
    """One class; groups of equal gradients, orthogonal to other groups'."""
    group = np.repeat(np.arange(len(counts)), counts)
    # Features h with h . h' = -1 between groups: then <g, g'> = |r|^2 (h . h' + 1) = 0.
    angle = group * np.pi
    features = np.stack([np.cos(angle), np.zeros(len(group))], 1)
    return Signals(
        len(group),
        labels=torch.zeros(len(group), dtype=torch.int64),
        features=tensor(features),
        residuals=tensor(np.tile([0.6, -0.6], (len(group), 1))),
    )


def test_weights_are_in_proportion_to_what_they_stand_for() -> None:
    selection = select(GradMatch(ridge=1e-6), known_groups([6, 2]), 2)
    assert selection.indices.tolist() == [0, 6]
    assert selection.weights is not None
    np.testing.assert_allclose(selection.weights.numpy(), [1.5, 0.5], rtol=1e-4)


def test_what_the_pursuit_leaves_is_drawn_at_random() -> None:
    """Four gradients point away from the sum: they never enter, so two of the eight are drawn."""
    away = np.repeat([1.0, -1.0], [6, 4])
    known = Signals(
        10,
        labels=torch.zeros(10, dtype=torch.int64),
        features=torch.ones(10, 2),
        residuals=tensor(away[:, None] * [0.6, -0.6]),
    )
    drawn = set()
    for seed in range(60):
        selection = select(GradMatch(), known, 8, seed)
        assert selection.weights is not None
        assert selection.indices.tolist()[:6] == list(range(6))
        drawn.add(tuple(selection.indices.tolist()[6:]))
        # Equal gradients have equal weights, of mean 1; drawn ones weigh 1.
        np.testing.assert_allclose(selection.weights.numpy(), 1.0, rtol=1e-6)
    assert len(drawn) == 6


def test_each_class_is_matched_by_its_own_samples() -> None:
    known = signals(60, classes=3, width=5, seed=2)
    assert known.labels is not None
    assert known.features is not None
    assert known.residuals is not None
    selection = select(GradMatch(), known, 12)
    assert selection.weights is not None
    matched: dict[int, float] = {}
    shares = np.bincount(known.labels.numpy(), minlength=3) * 12 / 60
    for label in range(3):
        members = np.flatnonzero(known.labels.numpy() == label)
        g = gradients(known.features[members], known.residuals[members])
        got = np.isin(members, selection.indices.numpy())
        assert abs(got.sum() - shares[label]) < 1
        fit = naive_pursuit(g, g.sum(0), int(got.sum()), 0.5 * (g**2).sum(1).mean())
        assert sorted(fit) == np.flatnonzero(got).tolist()
        scale = np.mean(list(fit.values()))
        matched |= {int(members[atom]): weight / scale for atom, weight in fit.items()}
    expected = [matched[index] for index in selection.indices.tolist()]
    # Each class's weights have mean 1, and so the whole.
    np.testing.assert_allclose(selection.weights.numpy(), expected, rtol=1e-5)


def test_batches_are_chosen_whole_and_matched() -> None:
    known = signals(48, classes=3, width=5, seed=4)
    assert known.features is not None
    assert known.residuals is not None
    size, seed = 26, 5
    selection = select(BatchGradMatch(batch_size=8), known, size, seed)
    order = torch.randperm(48, generator=generator(seed)).numpy()
    g = gradients(known.features, known.residuals)
    sums = np.stack([g[batch].sum(0) for batch in order.reshape(6, 8)])
    fit = naive_pursuit(sums, sums.sum(0), 3, 0.5 * (sums**2).sum(1).mean())
    assert selection.weights is not None
    weights = dict(zip(selection.indices.tolist(), selection.weights.tolist(), strict=True))
    assert len(weights) == size
    scale = np.mean(list(fit.values()))
    for batch, weight in fit.items():
        for sample in order[batch * 8 : batch * 8 + 8]:
            assert weights.pop(int(sample)) == pytest.approx(weight / scale, rel=1e-5)
    # 26 - 24 drawn at random, weight 1.
    assert list(weights.values()) == [1.0] * (size - 8 * len(fit))


def test_vanished_gradients_are_matched_by_anyone() -> None:
    known = Signals(
        9,
        labels=torch.zeros(9, dtype=torch.int64),
        features=torch.ones(9, 2),
        residuals=torch.zeros(9, 3),
    )
    strategies: list[Strategy] = [GradMatch(), BatchGradMatch(batch_size=2)]
    for strategy in strategies:
        selection = select(strategy, known, 4)
        assert selection.weights is not None
        assert selection.weights.tolist() == [1.0] * 4
