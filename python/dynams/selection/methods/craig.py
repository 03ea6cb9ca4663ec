"""CRAIG: the samples whose gradients stand for all gradients of their class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dynams.selection.methods.facility_location import facility_location
from dynams.selection.methods.gradients import distances
from dynams.selection.methods.interface import Selection, check_size
from dynams.selection.quotas import class_parts, proportional_quotas
from dynams.selection.signals import Signals


@dataclass(frozen=True)
class Craig:
    """Medoids of the last-layer gradients, class by class, weighted by the size of their clusters.

    Per class it minimises sum_i min over j in S of ||g_i - g_j||, a bound of the gradient's error when
    every sample is replaced by its nearest chosen one, by greedy facility location. The weight of j is
    the number of samples nearest to it, scaled to mean 1 over the selection. Classes get their share of
    the size in proportion to their numbers, by largest remainder.

    Distances are of the exact last-layer gradients (p - y) (x) [h, 1] by the factorised inner product;
    the authors use p - y alone for networks. Classes above `part_size` are split at random into equal
    parts, each with its share: the random draw is the only one.

    Source: Mirzasoleiman, Bilmes & Leskovec 2020. Dynamic as published for networks.
    Cost: one forward pass of every sample, its features and residuals kept, N (D + C) numbers; then
    N * part_size (D + C) multiplications, part_size^2 numbers of memory, and a greedy choice on the CPU,
    some ten gains of part_size numbers for each sample chosen: a few seconds for 50,000 samples at the
    default. The host waits.
    Does not pay: with many classes of few samples each, where quotas are 0 or 1; late in training, when
    all gradients are small and distances are noise; more often than every few epochs.

    Attributes:
        part_size: most samples compared with one another.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "residuals", "labels"})

    part_size: int = 2048

    def __post_init__(self) -> None:
        if self.part_size < 1:
            raise ValueError(f"part_size must be at least 1, got {self.part_size}")

    def select(
        self,
        signals: Signals,
        size: int,
        *,
        epoch: int,
        progress: float,
        generator: torch.Generator,
    ) -> Selection:
        """Choose the medoids; see `Strategy.select`."""
        check_size(signals, size)
        features, residuals = signals.tensor("features"), signals.tensor("residuals")
        parts = class_parts(signals.tensor("labels"), self.part_size, generator)
        quotas = proportional_quotas([part.shape[0] for part in parts], size)
        indices, clusters = [], []
        for part, quota in zip(parts, quotas, strict=True):
            if quota == 0:
                continue
            apart = distances(features[part], residuals[part]).numpy()
            medoids = facility_location(apart, quota)
            indices.append(part[torch.from_numpy(medoids.indices).to(part.device)])
            clusters.append(torch.from_numpy(medoids.sizes))
        return clustered_selection(signals, indices, clusters)


def clustered_selection(
    signals: Signals, indices: list[torch.Tensor], weights: list[torch.Tensor]
) -> Selection:
    """Put the choices of several groups together, their weights scaled to mean 1."""
    device = signals.device
    if not indices:
        return Selection(
            torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, device=device)
        )
    chosen, places = torch.cat(indices).sort()
    weight = torch.cat(weights).to(torch.float64)
    scaled = (weight / weight.mean()).to(device, torch.float32)
    return Selection(chosen, scaled[places])
