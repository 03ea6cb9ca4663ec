"""Distances between the classes of a linear head."""

from __future__ import annotations

import torch
from torch import Tensor

from dynams_kernels import _checks


def class_distances(weight: Tensor, *, width: int | float | None = None) -> Tensor:
    """Pairwise distances ||w_i - w_j||_2 of the classes' weights, for the ``distance`` margin.

    From the Gram matrix W W^T in float64, so that classes with close weights keep their distance; below its rounding
    noise a distance is 0. A constant for differentiation.

    Args:
        weight: (C, D), C >= 2; float32, float16, bfloat16 or float64.
        width: how many leading columns take part, as in :func:`linear_margin`.

    Returns:
        (C, C) float32, symmetric, zero diagonal.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is wanted.
    """
    weight = _checks.check_float("weight", weight, 2, "(C, D)")
    _checks.check_classes("weight", weight.shape[0])
    return distances_of(weight[:, : _checks.resolve_width(width, weight.shape[1])])


# Rows of the Gram matrix formed at a time: 64 MB of float64 at C = 32,000.
_GRAM_BLOCK_ELEMENTS = 1 << 23


def distances_of(weight: Tensor) -> Tensor:
    """The distances of a checked weight's classes."""
    classes = weight.shape[0]
    wide = weight.detach().to(torch.float64)
    squares = wide.square().sum(1)
    distances = torch.empty((classes, classes), dtype=torch.float32, device=weight.device)
    step = max(1, _GRAM_BLOCK_ELEMENTS // classes)
    for begin in range(0, classes, step):
        rows = slice(begin, min(begin + step, classes))
        norms = squares[rows].unsqueeze(1) + squares
        squared = norms - 2 * (wide[rows] @ wide.T)
        # The three terms cancel to within a few units of float64 rounding of `norms`: that much is no distance.
        squared = torch.where(squared > norms * 1e-14, squared, torch.zeros_like(squared))
        distances[rows] = squared.sqrt()
    # Blocks may round (i, j) and (j, i) differently.
    distances = torch.minimum(distances, distances.T)
    return distances.fill_diagonal_(0.0)
