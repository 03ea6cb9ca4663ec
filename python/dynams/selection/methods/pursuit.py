"""Orthogonal matching pursuit with non-negative weights and a ridge, from inner products alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Error of a refined fit, in the target, beyond which the updated inverse has drifted and is made anew.
_ACCURACY = 1e-11


class Pursuit(NamedTuple):
    """The atoms chosen, in no particular order, and their weights, all positive."""

    indices: NDArray[np.int64]
    weights: Array


def matching_pursuit(gram: Array, correlation: Array, count: int, ridge: float) -> Pursuit:
    """Match a target by few atoms: minimise ||sum_j w_j a_j - t||^2 + ridge ||w||^2 over w >= 0.

    The atom of the largest correlation with what is left of the target, <a_j, t - sum w a>, enters, then
    all weights are fitted anew, until `count` atoms are in or no atom correlates positively. An atom
    whose weight the fit would make negative leaves, and may enter again: the active-set method of
    Lawson & Hanson (1974), ended early. So the weights are always the exact fit of their atoms.

    The inverse of the chosen atoms' Gram matrix is updated as atoms enter and leave, O(k^2) each, and
    the fit is refined against the matrix itself, which also tells when rounding has made the inverse
    useless (small ridges): then it is made anew, O(k^3). O(n k) for the correlations.

    Args:
        gram: (n, n) inner products <a_i, a_j>, float64.
        correlation: (n,) <a_j, t>.
        count: most atoms, in [0, n].
        ridge: positive.

    Returns:
        At most `count` atoms: fewer where the target is matched, or no weights above 0 match better.
    """
    fit = _Fit(gram, correlation, count, ridge)
    tolerance = 1e-12 * float(np.abs(correlation).max(initial=0.0))
    # Each atom that enters lowers the objective, so no set of atoms comes twice; the limit is against
    # rounding, as in every implementation of the active-set method.
    for _ in range(3 * max(count, 1)):
        if fit.size >= count:
            break
        unmatched = fit.unmatched()
        atom = int(unmatched.argmax())
        if not unmatched[atom] > tolerance:
            break
        fit.enter(atom)
    size = fit.size
    return Pursuit(fit.atoms[:size].copy(), fit.weights[:size].copy())


class _Fit:
    """The chosen atoms and their weights, the fit under non-negativity."""

    def __init__(self, gram: Array, correlation: Array, count: int, ridge: float) -> None:
        self._gram = gram
        self._correlation = correlation
        self._ridge = ridge
        self.size = 0
        self.atoms = np.empty(count, dtype=np.int64)
        self.weights = np.zeros(count)
        self._rows = np.empty((count, gram.shape[0]))
        self._inverse = np.empty((count, count))

    def unmatched(self) -> Array:
        """Correlation of every atom with what is left of the target; -inf for chosen ones."""
        unmatched: Array = self._correlation - self.weights[: self.size] @ self._rows[: self.size]
        unmatched[self.atoms[: self.size]] = -np.inf
        return unmatched

    def enter(self, atom: int) -> None:
        """Take an atom in and fit, letting atoms go whose weight would turn negative."""
        self._append(atom)
        while True:
            fitted = self._solve()
            wrong = np.flatnonzero(fitted <= 0.0)
            if wrong.size == 0:
                self.weights[: self.size] = fitted
                return
            # Go towards the fit as far as all weights stay non-negative; who reaches 0 leaves.
            old = self.weights[: self.size]
            fall = old[wrong] - fitted[wrong]
            steps = np.divide(old[wrong], fall, out=np.zeros_like(fall), where=fall > 0.0)
            step = float(steps.min())
            old += step * (fitted - old)
            for place in sorted(wrong[steps <= step], reverse=True):
                self._remove(int(place))
            if self.size == 0:
                return

    def _solve(self) -> Array:
        size, atoms = self.size, self.atoms[: self.size]
        matrix = self._rows[:size, atoms]
        inverse, target = self._inverse[:size, :size], self._correlation[atoms]
        fitted: Array = inverse @ target
        for attempt in range(3):
            error = target - matrix @ fitted - self._ridge * fitted
            if attempt and np.abs(error).max() <= _ACCURACY * np.abs(target).max():
                break
            if attempt == 2:
                inverse[:] = np.linalg.inv(matrix + self._ridge * np.eye(size))
            fitted += inverse @ error
        return fitted

    def _append(self, atom: int) -> None:
        size = self.size
        self.atoms[size], self.weights[size] = atom, 0.0
        self._rows[size] = self._gram[atom]
        inverse = self._inverse
        cross = self._gram[atom, self.atoms[:size]]
        product = inverse[:size, :size] @ cross
        # Schur's complement: at least the ridge, save for rounding.
        schur = max(self._gram[atom, atom] + self._ridge - cross @ product, self._ridge)
        inverse[:size, :size] += np.outer(product, product / schur)
        inverse[size, :size] = inverse[:size, size] = -product / schur
        inverse[size, size] = 1.0 / schur
        self.size = size + 1

    def _remove(self, place: int) -> None:
        last = self.size - 1
        inverse = self._inverse
        # The last atom takes the place of the one that leaves.
        for array in (self.atoms, self.weights, self._rows):
            array[[place, last]] = array[[last, place]]
        inverse[[place, last], : self.size] = inverse[[last, place], : self.size]
        inverse[: self.size, [place, last]] = inverse[: self.size, [last, place]]
        column = inverse[:last, last] / inverse[last, last]
        inverse[:last, :last] -= np.outer(column, inverse[last, :last])
        self.size = last
