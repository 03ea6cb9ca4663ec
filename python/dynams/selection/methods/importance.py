"""Importance sampling: draw in proportion to the gradient norm, and weigh so that nothing is biased."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynams.selection.methods.interface import BatchChoice, Selection, check_share, check_size
from dynams.selection.methods.sampling import (
    draw_counts,
    probabilities,
    sample_without_replacement,
)
from dynams.selection.signals import Signals


@dataclass(frozen=True)
class Importance:
    """An epoch's samples drawn with p_i proportional to a score, of weight 1 / (N p_i) a draw.

    The weighted mean over the selection is an unbiased estimate of the mean over all samples, whatever
    the scores. Without replacement (the default) p_i becomes the probability of being selected,
    pi_i = min(1, c s_i) with sum size, and the weight size / (N pi_i). With replacement a sample drawn
    c times comes once, with weight c k / (size N p_i), k being the number of distinct samples: fewer
    steps for the same estimate. The mean weight is 1 in expectation, not in each draw.

    Source: Katharopoulos & Fleuret 2018, whose bound of the gradient norm is ||p - y|| = "el2n"; their
    draw is from each large batch, with replacement (`BatchImportance`), here from all samples.
    Cost: one forward pass of every sample at each refresh.
    Does not pay: where the scores differ little (see `batch_increment`); with stale scores, whose
    weights grow large where the network has since forgotten, unless smoothed; and against `Random` in
    the first epochs, when all gradients are alike.

    Attributes:
        score: name of the score.
        replacement: draw with replacement.
        smoothing: share of uniform probability, in [0, 1]; weights stay below 1 / smoothing. 0 is as
            published; scores as old as an epoch need some.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True

    score: str = "el2n"
    replacement: bool = False
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_share("smoothing", self.smoothing)

    @property
    def needs(self) -> frozenset[str]:
        """The score."""
        return frozenset({self.score})

    def select(
        self,
        signals: Signals,
        size: int,
        *,
        epoch: int,
        progress: float,
        generator: torch.Generator,
    ) -> Selection:
        """Draw `size` times; see `Strategy.select`. With replacement the selection may be smaller."""
        check_size(signals, size)
        count = signals.count
        probability = probabilities(signals.score(self.score), self.smoothing)
        if size == 0 or not self.replacement:
            indices, stands_for = sample_without_replacement(probability, size, generator)
            weights = stands_for * (size / max(count, 1))
        else:
            counts = draw_counts(probability, size, generator)
            # How many are distinct is random: here the host has to wait for the device.
            indices = counts.nonzero().flatten()
            weights = counts[indices] / probability[indices]
            weights = weights * (indices.shape[0] / (size * count))
        return Selection(indices, weights.to(torch.float32))


@dataclass(frozen=True)
class BatchImportance:
    """Part of every large batch, drawn with replacement by p_i proportional to the gradient's bound.

    Of a batch of B samples b = round(share * B) are drawn; the weight of a draw is 1 / (B p_i), so the
    step's gradient is that of the whole batch in expectation. Where the batch increment
    tau = sqrt(B sum p^2) is not above `threshold`, the draw is uniform.

    Source: Katharopoulos & Fleuret 2018. Theirs is with replacement; a sample drawn twice comes once,
    with twice the weight. Without replacement fewer steps repeat a sample and b are always kept.
    Their tau is smoothed over steps, and no large batch is read while it is small; here it is that
    of the batch, and skipping the large batch is the trainer's business.
    Cost: a forward pass of the large batch, forward and backward of the kept: B + 3 b against 3 B, and
    worth it where B + 3 b < 3 tau b, that is for tau > (B + 3 b) / (3 b).
    Does not pay: below that threshold: early in training, on easy data, with little spread in scores.

    Attributes:
        share: b / B, in (0, 1].
        score: "el2n" is the published bound.
        replacement: draw with replacement, as published.
        threshold: least tau for importance; 0: always.
    """

    share: float = 1 / 3
    score: str = "el2n"
    replacement: bool = True
    threshold: float = 0.0

    def __post_init__(self) -> None:
        check_share("share", self.share)
        if self.share == 0.0:
            raise ValueError("share must be above 0, got 0.0")
        if not self.threshold >= 0.0:
            raise ValueError(f"threshold must be at least 0, got {self.threshold!r}")

    @property
    def needs(self) -> frozenset[str]:
        """The score."""
        return frozenset({self.score})

    def keep(self, batch: Signals, *, progress: float, generator: torch.Generator) -> BatchChoice:
        """Draw of the batch; see `BatchStrategy.keep`."""
        size = batch.count
        draws = min(size, max(1, math.floor(self.share * size + 0.5)))
        mask = torch.zeros(size, dtype=torch.bool, device=batch.device)
        if size == 0:
            return BatchChoice(mask, count=0)
        probability = probabilities(batch.score(self.score), 0.0)
        if self.threshold > 0.0:
            worth = batch_increment(probability) > self.threshold
            probability = torch.where(worth, probability, 1.0 / size)
        if not self.replacement:
            indices, stands_for = sample_without_replacement(probability, draws, generator)
            weights = torch.zeros(size, dtype=torch.float32, device=batch.device)
            weights[indices] = (stands_for * (draws / size)).to(torch.float32)
            mask[indices] = True
            return BatchChoice(mask, weights, draws)
        counts = draw_counts(probability, draws, generator)
        mask = counts > 0
        weights = counts / probability * (mask.sum() / (draws * size))
        return BatchChoice(mask, weights.to(torch.float32))


def batch_increment(probability: Tensor) -> Tensor:
    """Return tau: importance sampling equals a batch tau times as large (Katharopoulos & Fleuret 2018).

    1 / tau = sqrt(1 - ||p - u||^2 / ||p||^2) with u uniform, which is 1 / sqrt(N ||p||^2): 1 where all
    probabilities are equal, sqrt(N) where one sample has it all.

    Args:
        probability: (N,) not negative, sum 1.
    """
    return (probability.shape[0] * probability.square().sum()).sqrt()
