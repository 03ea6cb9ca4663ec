"""Facility location by lazy greedy: the few points that stand for all with the least total distance."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Medoids(NamedTuple):
    """Chosen points in the order of choice, and how many points each stands for."""

    indices: NDArray[np.int64]
    sizes: NDArray[np.int64]


def facility_location(distances: NDArray[np.float32], count: int) -> Medoids:
    """Choose points that maximise F(S) = sum_i (d_max - min over j in S of d_ij), greedily.

    d_max is the largest distance: an imaginary point as far from all. F is monotone and submodular, so
    the greedy choice is within 1 - 1/e of the best (Nemhauser et al. 1978), and a gain never grows:
    gains of earlier steps are upper bounds, kept in a heap, and only those at the top are computed
    again (Minoux 1978). Equal gains go to the lowest index.

    Args:
        distances: (n, n) symmetric, zero diagonal, finite.
        count: points to choose, in [0, n].

    Returns:
        The points, and the sizes of their clusters: every point belongs to the nearest chosen one
        (the one chosen first, of several), a chosen one to itself.
    """
    n = distances.shape[0]
    chosen = np.empty(count, dtype=np.int64)
    if count == 0:
        return Medoids(chosen, np.zeros(0, dtype=np.int64))
    nearest = np.full(n, distances.max(), dtype=np.float32)
    owner = np.zeros(n, dtype=np.int64)
    closer = np.empty(n, dtype=np.float32)

    # Sums in double precision; a row is always summed the same way, so bounds hold to the last bit.
    def gain(point: int) -> float:
        np.subtract(nearest, distances[point], out=closer)
        np.maximum(closer, 0.0, out=closer)
        return float(closer.sum(dtype=np.float64))

    heap = [(-gain(point), point) for point in range(n)]
    heapq.heapify(heap)
    for step in range(count):
        while True:
            _, point = heap[0]
            bound = (-gain(point), point)
            heapq.heapreplace(heap, bound)
            # Still first among bounds, so first among gains.
            if heap[0] == bound:
                heapq.heappop(heap)
                break
        chosen[step] = point
        won = distances[point] < nearest
        owner[won] = step
        nearest[won] = distances[point][won]
    # A point as far from the first choice as d_max, or at no distance from an earlier one, is won by none.
    owner[chosen] = np.arange(count)
    return Medoids(chosen, np.bincount(owner, minlength=count))
