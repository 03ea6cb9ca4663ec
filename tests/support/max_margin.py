"""Separable problems for a linear classifier, and their hard-margin solution by an exact method.

The classifier is z = W x without a bias (a constant feature is one); the margin of sample i is
m_i = z_y - max over c != y of z_c. The hard-margin solution is the W of least norm with m_i >= 1 for
every i, which is unique. It is found as a least-distance problem by non-negative least squares
(Lawson and Hanson, "Solving Least Squares Problems", chapter 23), a finite active-set method that has
nothing in common with gradient training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """Samples `features` (N, D) with `labels` (N,) in [0, classes)."""

    features: Array
    labels: NDArray[np.int64]
    classes: int

    @property
    def count(self) -> int:
        return len(self.labels)

    def margins(self, weight: Array) -> Array:
        """m_i = z_y - max over c != y of z_c, (N,)."""
        logits = self.features @ weight.T
        rows = np.arange(self.count)
        own = logits[rows, self.labels]
        logits[rows, self.labels] = -np.inf
        return own - logits.max(axis=1)

    def logits(self, weight: Array) -> torch.Tensor:
        return torch.from_numpy(self.features @ weight.T)

    def subset(self, indices: NDArray[np.int64]) -> Problem:
        return Problem(self.features[indices], self.labels[indices], self.classes)


@dataclass(frozen=True)
class Solution:
    """`weight` (C, D) of least norm, and the multiplier of every sample (N,): its constraints' sum."""

    weight: Array
    multipliers: Array

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.weight))

    @property
    def support(self) -> NDArray[np.int64]:
        """Indices of the support vectors: the samples with a positive multiplier."""
        return np.flatnonzero(self.multipliers > 1e-9)


def separable(seed: int, samples: int, dimensions: int, classes: int, gap: float = 0.3) -> Problem:
    """Normal features labelled by a random classifier; those it is unsure of are left out."""
    random = np.random.default_rng(seed)
    teacher = random.normal(size=(classes, dimensions))
    teacher /= np.linalg.norm(teacher)
    features = np.empty((0, dimensions))
    while len(features) < samples:
        drawn = random.normal(size=(4 * samples, dimensions))
        top = np.sort(drawn @ teacher.T, axis=1)
        features = np.concatenate([features, drawn[top[:, -1] - top[:, -2] > gap]])
    features = features[:samples]
    return Problem(features, (features @ teacher.T).argmax(axis=1), classes)


def hard_margin(problem: Problem) -> Solution:
    """Return the hard-margin solution, whose optimality conditions are checked before.

    Raises:
        ValueError: the problem is not separable, or no solution was found to precision.
    """
    rows, count = [], problem.count
    for features, label in zip(problem.features, problem.labels, strict=True):
        for other in range(problem.classes):
            if other != label:
                row = np.zeros((problem.classes, len(features)))
                row[label], row[other] = features, -features
                rows.append(row.ravel())
    constraints = np.array(rows)
    system = np.concatenate([constraints.T, np.ones((1, len(rows)))])
    target = np.zeros(len(system))
    target[-1] = 1.0
    dual, _ = nnls(system, target, maxiter=50 * len(rows))
    slack = 1.0 - dual.sum()
    if slack < 1e-9:
        raise ValueError("not separable")
    multipliers = dual / slack
    flat = constraints.T @ multipliers  # stationarity holds by construction
    if (constraints @ flat).min() < 1 - 1e-7:
        raise ValueError("a constraint is violated")
    if np.abs(multipliers * (constraints @ flat - 1)).max() > 1e-6 * max(1.0, multipliers.max()):
        raise ValueError("a multiplier belongs to a constraint that does not bind")
    weight = flat.reshape(problem.classes, -1)
    return Solution(weight, multipliers.reshape(count, -1).sum(axis=1))


def cosine(one: Array, other: Array) -> float:
    """The cosine of the angle between two classifiers: 1 for the same separator."""
    return float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))
