"""Matching pursuit: every fit is the best non-negative one, every step the steepest; GradMatch on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import nnls

from dynams.selection.methods import gradmatch_batches, gradmatch_subset
from dynams.selection.methods.pursuit import matching_pursuit
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


def test_weights_are_in_proportion_to_what_they_stand_for() -> None:
    # One class, two groups of equal gradients. Features h with h . h' = -1 between the groups: then
    # <g, g'> = |r|^2 (h . h' + 1) = 0.
    angle = np.repeat([0.0, np.pi], [6, 2])
    features = tensor(np.stack([np.cos(angle), np.zeros(8)], 1))
    residuals, labels = tensor(np.tile([0.6, -0.6], (8, 1))), torch.zeros(8, dtype=torch.int64)
    chosen, weights = gradmatch_subset(features, residuals, labels, 2, generator(), ridge=1e-6)
    assert chosen.tolist() == [0, 6]
    np.testing.assert_allclose(weights.numpy(), [1.5, 0.5], rtol=1e-4)


def test_what_the_pursuit_leaves_is_drawn_at_random() -> None:
    """Four gradients point away from the sum: they never enter, so two of the eight are drawn."""
    residuals = tensor(np.repeat([1.0, -1.0], [6, 4])[:, None] * [0.6, -0.6])
    features, labels = torch.ones(10, 2), torch.zeros(10, dtype=torch.int64)
    drawn = set()
    for seed in range(60):
        chosen, weights = gradmatch_subset(features, residuals, labels, 8, generator(seed))
        assert chosen.tolist()[:6] == list(range(6))
        drawn.add(tuple(chosen.tolist()[6:]))
        # Equal gradients have equal weights, of mean 1; drawn ones weigh 1.
        np.testing.assert_allclose(weights.numpy(), 1.0, rtol=1e-6)
    assert len(drawn) == 6


@given(st.integers(1, 60), st.integers(0, 99), st.data())
def test_each_class_is_matched_by_its_own_samples(
    count: int, seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(0, count))
    known = signals(count, classes=3, width=5, seed=seed)
    features, residuals = known.tensor("features"), known.tensor("residuals")
    labels = known.tensor("labels").numpy()
    indices, weights = gradmatch_subset(
        features, residuals, known.tensor("labels"), size, generator()
    )
    got = dict(zip(indices.tolist(), weights.tolist(), strict=True))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        own = {each: got.pop(each) for each in members.tolist() if each in got}
        assert abs(len(own) - size * len(members) / count) < 1
        g = gradients(features[members], residuals[members])
        fit = naive_pursuit(g, g.sum(0), len(own), 0.5 * (g**2).sum(1).mean())
        for atom, weight in fit.items():
            # Of mean 1 over the class, and so over the whole.
            expected = weight / np.mean(list(fit.values()))
            assert own.pop(int(members[atom])) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert list(own.values()) == [1.0] * len(own)  # drawn where the pursuit ended early
    assert not got


def test_batches_are_chosen_whole_and_matched() -> None:
    known = signals(48, classes=3, width=5, seed=4)
    features, residuals = known.tensor("features"), known.tensor("residuals")
    size, seed = 26, 5
    chosen, matched = gradmatch_batches(features, residuals, size, generator(seed), batch_size=8)
    order = torch.randperm(48, generator=generator(seed)).numpy()
    g = gradients(features, residuals)
    sums = np.stack([g[batch].sum(0) for batch in order.reshape(6, 8)])
    fit = naive_pursuit(sums, sums.sum(0), 3, 0.5 * (sums**2).sum(1).mean())
    weights = dict(zip(chosen.tolist(), matched.tolist(), strict=True))
    assert len(weights) == size
    scale = np.mean(list(fit.values()))
    for batch, weight in fit.items():
        for sample in order[batch * 8 : batch * 8 + 8]:
            assert weights.pop(int(sample)) == pytest.approx(weight / scale, rel=1e-5)
    # 26 - 24 drawn at random, weight 1.
    assert list(weights.values()) == [1.0] * (size - 8 * len(fit))


def test_vanished_gradients_are_matched_by_anyone() -> None:
    features, residuals = torch.ones(9, 2), torch.zeros(9, 3)
    labels = torch.zeros(9, dtype=torch.int64)
    for _, weights in (
        gradmatch_subset(features, residuals, labels, 4, generator()),
        gradmatch_batches(features, residuals, 4, generator(), batch_size=2),
    ):
        assert weights.tolist() == [1.0] * 4


def test_what_does_not_fit_is_refused() -> None:
    x, y, labels = torch.zeros(6, 4), torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ValueError, match="size: got 7, want at most 6"):
        gradmatch_subset(x, y, labels, 7, generator())
    with pytest.raises(ValueError, match="part_size: got 0, want at least 1"):
        gradmatch_subset(x, y, labels, 2, generator(), part_size=0)
    with pytest.raises(ValueError, match=r"features: got shape \(5, 4\), want \(6, any\)"):
        gradmatch_subset(x[1:], y, labels, 2, generator())
    with pytest.raises(ValueError, match=r"residuals: got shape \(5, 3\), want \(6, any\)"):
        gradmatch_batches(x, y[1:], 2, generator())
    with pytest.raises(ValueError, match=r"ridge: got 0\.0, want a number in \(0, inf\)"):
        gradmatch_batches(x, y, 2, generator(), ridge=0.0)
