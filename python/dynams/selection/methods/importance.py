"""Importance sampling: draw in proportion to the gradient norm, and weigh so that nothing is biased."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import fraction, interval, whole
from dynams.selection.methods.interface import BatchSelection, Selection
from dynams.selection.methods.sampling import (
    draw_counts,
    probabilities,
    sample_without_replacement,
)
from dynams.selection.signals import Signals
from dynams.selection.timetable import selection_size


@torch.no_grad()
def importance_sample(
    scores: Tensor,
    size: int,
    generator: Generator,
    *,
    replacement: bool = False,
    smoothing: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Draw samples with p_i proportional to a score, of weight 1 / (N p_i) a draw.

    The weighted mean over the selection is an unbiased estimate of the mean over all samples, whatever
    the scores. Without replacement (the default) p_i becomes the probability of being selected,
    pi_i = min(1, c s_i) with sum size, and the weight size / (N pi_i). With replacement a sample drawn
    c times comes once, with weight c k / (size N p_i), k being the number of distinct samples: fewer
    steps for the same estimate. The mean weight is 1 in expectation, not in each draw.

    Source: Katharopoulos & Fleuret 2018, whose bound of the gradient norm is ||p - y|| = "el2n"; their
    draw is from each large batch, with replacement (`importance_batch`), here from all samples.
    Cost: one forward pass of every sample for each choice. With replacement the host waits.
    Does not pay: where the scores differ little (see `batch_increment`); with stale scores, whose
    weights grow large where the network has since forgotten, unless smoothed; and against random subsets
    in the first epochs, when all gradients are alike.

    Args:
        scores: (N,) floating point; negative ones count as 0, what is not finite as the largest.
        size: how many draws, in [0, N].
        generator: of the draws.
        replacement: draw with replacement: fewer samples than `size` may come.
        smoothing: share of uniform probability, in [0, 1]; weights stay below 1 / smoothing. 0 is as
            published; scores as old as an epoch need some.

    Returns:
        Indices (k,) int64 ascending, and weights (k,) float32.

    Raises:
        ValueError: `size` or `smoothing` is out of range.
    """
    count = scores.shape[0]
    size = whole("size", size, 0, count)
    interval("smoothing", smoothing, "[0, 1]")
    probability = probabilities(scores, smoothing)
    if size == 0 or not replacement:
        indices, stands_for = sample_without_replacement(probability, size, generator)
        weights = stands_for * (size / max(count, 1))
    else:
        counts = draw_counts(probability, size, generator)
        indices = counts.nonzero().flatten()
        weights = counts[indices] / probability[indices]
        weights = weights * (indices.shape[0] / (size * count))
    return indices, weights.to(torch.float32)


@torch.no_grad()
def importance_batch(
    scores: Tensor,
    size: int,
    generator: Generator,
    *,
    replacement: bool = True,
    threshold: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Draw part of a large batch with p_i proportional to a score: without a wait for the device.

    The weight of a draw is 1 / (B p_i), so the step's gradient is that of the whole batch in expectation.
    Where the `batch_increment` tau is not above `threshold`, the draw is uniform.

    Source: Katharopoulos & Fleuret 2018. Theirs is with replacement; a sample drawn twice comes once,
    with twice the weight. Without replacement fewer steps repeat a sample and `size` are always kept.
    Their tau is smoothed over steps, and no large batch is read while it is small; here it is that
    of the batch, and skipping the large batch is the loop's business.
    Cost: a forward pass of the large batch, forward and backward of the b kept: B + 3 b against 3 B, and
    worth it where B + 3 b < 3 tau b, that is for tau > (B + 3 b) / (3 b).
    Does not pay: below that threshold: early in training, on easy data, with little spread in scores.

    Args:
        scores: (B,) floating point, such as EL2N, the published bound of the gradient.
        size: how many draws, in [0, B].
        generator: of the draws.
        replacement: draw with replacement, as published.
        threshold: least tau for importance; 0: always.

    Returns:
        (B,) bool, which to keep, and weights (B,) float32, 0 for the others. The loss is the sum of
        weight times loss over the kept, divided by their number.

    Raises:
        ValueError: `size` or `threshold` is out of range.
    """
    count = scores.shape[0]
    size = whole("size", size, 0, count)
    interval("threshold", threshold, "[0, inf)")
    mask = torch.zeros(count, dtype=torch.bool, device=scores.device)
    weights = torch.zeros(count, dtype=torch.float32, device=scores.device)
    if size == 0:
        return mask, weights
    probability = probabilities(scores, 0.0)
    if threshold > 0.0:
        worth = batch_increment(probability) > threshold
        probability = torch.where(worth, probability, 1.0 / count)
    if not replacement:
        indices, stands_for = sample_without_replacement(probability, size, generator)
        weights[indices] = (stands_for * (size / count)).to(torch.float32)
        mask.index_fill_(0, indices, True)  # assigned, it would wait for the device
        return mask, weights
    counts = draw_counts(probability, size, generator)
    mask = counts > 0
    kept = mask.sum().to(torch.float32)  # else the quotient is of the default dtype
    return mask, (counts / probability * (kept / (size * count))).to(torch.float32)


def batch_increment(probability: Tensor) -> Tensor:
    """Return tau: importance sampling equals a batch tau times as large (Katharopoulos & Fleuret 2018).

    1 / tau = sqrt(1 - ||p - u||^2 / ||p||^2) with u uniform, which is 1 / sqrt(N ||p||^2): 1 where all
    probabilities are equal, sqrt(N) where one sample has it all.

    Args:
        probability: (N,) not negative, sum 1.
    """
    return (probability.shape[0] * probability.square().sum()).sqrt()


@dataclass(frozen=True)
class Importance:
    """`importance_sample` of all samples at every refresh.

    Attributes:
        score: name of the score.
        replacement: draw with replacement; the selection may then be smaller than the size.
        smoothing: share of uniform probability, in [0, 1].
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True

    score: str = "el2n"
    replacement: bool = False
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        interval("smoothing", self.smoothing, "[0, 1]")

    @property
    def needs(self) -> frozenset[str]:
        """The score."""
        return frozenset({self.score})

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Draw `size` times; see `Strategy.select`."""
        scores = signals.score(self.score)
        drawn = importance_sample(
            scores, size, generator, replacement=self.replacement, smoothing=self.smoothing
        )
        return Selection(*drawn)


@dataclass(frozen=True)
class BatchImportance:
    """`importance_batch` of every batch.

    Attributes:
        share: of the batch to draw, to the nearest number but at least one, in (0, 1].
        score: name of the score; "el2n" is the published bound.
        replacement: draw with replacement, as published.
        threshold: least tau for importance; 0: always.
    """

    share: float = 1 / 3
    score: str = "el2n"
    replacement: bool = True
    threshold: float = 0.0

    def __post_init__(self) -> None:
        fraction("share", self.share)
        interval("threshold", self.threshold, "[0, inf)")

    @property
    def needs(self) -> frozenset[str]:
        """The score."""
        return frozenset({self.score})

    def keep(self, batch: Signals, *, progress: float, generator: Generator) -> BatchSelection:
        """Draw of the batch; see `BatchStrategy.keep`."""
        size = selection_size(batch.count, self.share) if batch.count else 0
        mask, weights = importance_batch(
            batch.score(self.score),
            size,
            generator,
            replacement=self.replacement,
            threshold=self.threshold,
        )
        known = size if size == 0 or not self.replacement else None
        return BatchSelection(mask, weights, known)
