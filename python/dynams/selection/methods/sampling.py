"""Sampling with unequal probabilities: the mathematics under importance sampling.

Two designs, both with weights that make any sum over the samples unbiased. With replacement: m draws
with probabilities p_i; a sample drawn c times stands for c / (m p_i). Without replacement: exactly m
distinct samples, sample i with probability pi_i = min(1, c s_i) of being among them; it stands for
1 / pi_i (Horvitz & Thompson 1952). The second never spends a step twice on one sample and has no
variance for those that are certain.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

import dynams_kernels as dk
from dynams.selection.draws import random_numbers, random_order
from dynams.selection.precision import wide_dtype

# A score below this part of the mean counts as this much: no probability is 0, so that any number of
# samples can be drawn and a weight is always finite.
_FLOOR = 1e-9


def probabilities(scores: Tensor, smoothing: float) -> Tensor:
    """Return probabilities proportional to the scores, mixed with uniform ones: (N,), sum 1.

    p_i = (1 - smoothing) s_i / sum s + smoothing / N, so that 1 / (N p_i) <= 1 / smoothing. Negative
    scores count as 0, those that are not finite as the largest finite one; all 0: uniform.

    Args:
        scores: (N,) floating point, not negative.
        smoothing: share of the uniform distribution, in [0, 1].
    """
    count = scores.shape[0]
    values = scores.to(wide_dtype(scores.device))
    known = values.isfinite()
    values = torch.where(known, values.clamp(min=0.0), 0.0)
    if count:
        values = torch.where(known, values, values.max())
    floor = values.sum() / max(count, 1) * _FLOOR
    values = torch.where(floor > 0, torch.maximum(values, floor), 1.0)
    return (1 - smoothing) * (values / values.sum()) + smoothing / max(count, 1)


def inclusion_probabilities(probability: Tensor, size: int) -> Tensor:
    """Return pi_i = min(1, c p_i) with c such that they sum to `size`: (N,).

    The largest that c lifts to 1 are certain. With the p sorted downwards, T_m = sum of all from place
    m on: the m first are certain for the smallest m with (size - m) p_(m) <= T_m.

    Args:
        probability: (N,) positive.
        size: in [0, N].
    """
    count = probability.shape[0]
    if size == 0 or size == count:
        return torch.full_like(probability, float(size > 0))
    down = probability.sort(descending=True).values
    tails = down.flip(0).cumsum(0).flip(0)
    remaining = size - torch.arange(count, device=down.device)
    # At m = size the left side is 0, so there is a first place where it holds.
    # Indexing by a 0-dimensional tensor would wait for the device, gathering does not.
    certain = (remaining * down <= tails).int().argmax().unsqueeze(0)
    scale = (size - certain) / tails.gather(0, certain)
    return (probability * scale).clamp(max=1.0)


def systematic(inclusion: Tensor, order: Tensor, start: Tensor, size: int) -> Tensor:
    """Draw exactly `size` distinct samples, i with probability inclusion_i: systematic sampling.

    The probabilities are laid end to end in a random order; the points start, start + 1, ... on that
    line fall on the samples drawn (Madow 1949). No length exceeds 1, so none is hit twice.

    Args:
        inclusion: (N,) in [0, 1], sum `size`.
        order: a permutation of the samples; a random one makes all pairs possible.
        start: 0-dimensional, uniform in [0, 1).
        size: how many.

    Returns:
        (size,) int64 ascending. Nothing here waits for the device.
    """
    ends = inclusion[order].cumsum(0)
    # Rounding of a long sum must not cost the last point, nor give one too many.
    ends = ends * (size / ends[-1:])
    ends[-1:] = size
    points = torch.ceil(ends - start)
    hit = torch.diff(points, prepend=torch.zeros_like(points[:1])) > 0
    missed = torch.empty_like(hit)
    missed[order] = ~hit
    return dk.smallest_k(missed.float(), size).indices


def sample_without_replacement(
    probability: Tensor, size: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw `size` distinct samples: indices ascending, and what each stands for, 1 / pi_i.

    Args:
        probability: (N,) positive.
        size: in [0, N].
        generator: of the order and the start.
    """
    device = probability.device
    order = random_order(probability.shape[0], generator, device)
    start = random_numbers(1, generator, device)
    inclusion = inclusion_probabilities(probability, size)
    if size == 0:
        return order[:0], inclusion[:0]
    indices = systematic(inclusion, order, start, size)
    return indices, 1.0 / inclusion[indices]


def draw_counts(probability: Tensor, size: int, generator: Generator) -> Tensor:
    """Draw `size` times with replacement: (N,) int64, how often each sample came.

    By inversion of the summed probabilities: any number of samples, in double precision.
    """
    count = probability.shape[0]
    ends = probability.cumsum(0)
    points = random_numbers(size, generator, probability.device) * ends[-1:]
    drawn = torch.searchsorted(ends, points, right=True).clamp(max=count - 1)
    counts = torch.zeros(count, dtype=torch.int64, device=probability.device)
    return counts.scatter_add_(0, drawn, torch.ones_like(drawn))
