"""CRAIG: the samples whose gradients stand for all gradients of their class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import at_least, whole
from dynams.selection.methods.facility_location import facility_location
from dynams.selection.methods.gradients import check_rows, distances
from dynams.selection.methods.interface import Selection
from dynams.selection.quotas import class_parts, proportional_quotas
from dynams.selection.signals import Signals


@torch.no_grad()
def craig_subset(
    features: Tensor,
    residuals: Tensor,
    labels: Tensor,
    size: int,
    generator: Generator,
    *,
    part_size: int = 2048,
) -> tuple[Tensor, Tensor]:
    """Choose medoids of the last-layer gradients, class by class, weighted by the size of their clusters.

    Per class it minimises sum_i min over j in S of ||g_i - g_j||, a bound of the gradient's error when
    every sample is replaced by its nearest chosen one, by greedy facility location. The weight of j is
    the number of samples nearest to it, scaled to mean 1 over the selection. Classes get their share of
    the size in proportion to their numbers, by largest remainder.

    Distances are of the exact last-layer gradients (p - y) (x) [h, 1] by the factorised inner product;
    the authors use p - y alone for networks. Classes above `part_size` are split at random into equal
    parts, each with its share: the random draw is the only one.

    Source: Mirzasoleiman, Bilmes & Leskovec 2020.
    Cost: one forward pass of every sample, its features and residuals kept, N (D + C) numbers; then
    N * part_size (D + C) multiplications, part_size^2 numbers of memory, and a greedy choice on the CPU,
    some ten gains of part_size numbers for each sample chosen: a few seconds for 50,000 samples at the
    default. The host waits.
    Does not pay: with many classes of few samples each, where quotas are 0 or 1; late in training, when
    all gradients are small and distances are noise; more often than every few epochs.

    Args:
        features: (N, D) inputs h of the last layer.
        residuals: (N, C) softmax p minus one-hot label y.
        labels: (N,) int64.
        size: how many, in [0, N].
        generator: of the parts.
        part_size: most samples compared with one another.

    Returns:
        Indices (size,) int64 ascending, and weights (size,) float32.

    Raises:
        ValueError: `size` or `part_size` is out of range, or a tensor has another number of rows.
    """
    check_rows(labels.shape[0], features=features, residuals=residuals)
    size = whole("size", size, 0, labels.shape[0])
    part_size = whole("part_size", part_size, 1)
    parts = class_parts(labels, part_size, generator)
    quotas = proportional_quotas([part.shape[0] for part in parts], size)
    chosen, clusters = [labels.new_empty(0)], [torch.empty(0, dtype=torch.int64, device="cpu")]
    for part, quota in zip(parts, quotas, strict=True):
        if quota:
            apart = distances(features[part], residuals[part]).numpy()
            medoids = facility_location(apart, quota)
            chosen.append(part[torch.from_numpy(medoids.indices).to(part.device)])
            clusters.append(torch.from_numpy(medoids.sizes))
    indices, places = torch.cat(chosen).sort()
    weights = torch.cat(clusters).to(torch.float64)
    return indices, (weights / weights.mean()).to(features.device, torch.float32)[places]


@dataclass(frozen=True)
class Craig:
    """`craig_subset` at every refresh: dynamic, as published for networks.

    Attributes:
        part_size: most samples compared with one another.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "residuals", "labels"})

    part_size: int = 2048

    def __post_init__(self) -> None:
        at_least("part_size", self.part_size, 1)

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Choose the medoids; see `Strategy.select`."""
        features, residuals = signals.tensor("features"), signals.tensor("residuals")
        labels = signals.tensor("labels")
        medoids = craig_subset(
            features, residuals, labels, size, generator, part_size=self.part_size
        )
        return Selection(*medoids)
