"""GradMatch: few weighted samples, or batches, whose gradient matches that of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynams.selection.methods.gradients import gram, group_gram
from dynams.selection.methods.interface import Selection, check_size, permutation
from dynams.selection.methods.pursuit import matching_pursuit
from dynams.selection.quotas import class_parts, proportional_quotas
from dynams.selection.signals import Signals


@dataclass(frozen=True)
class GradMatch:
    """Orthogonal matching pursuit of every class's last-layer gradient, with weights w >= 0.

    Per class it minimises ||sum over S of w_j g_j - sum_i g_i||^2 + lambda ||w||^2, adding the sample
    that correlates most with what is left and fitting all weights anew. Weights are scaled to mean 1
    over the samples matched. Where the pursuit ends early, since nothing correlates any more, the rest
    of the class's share is drawn at random with weight 1.

    Classes get shares in proportion to their numbers, by largest remainder; classes above `part_size`
    are split at random into equal parts, each matched for itself. lambda is `ridge` times the mean
    squared gradient norm of the part, so that it means the same when gradients have become small (the
    authors: 0.5, absolute).

    Source: Killamsetty et al. 2021a (GRAD-MATCH), its per-class form. Dynamic, every 20 epochs there.
    Cost: one forward pass of every sample, its features and residuals kept, N (D + C) numbers; then
    N * part_size (D + C) multiplications and, on the CPU, k^2 (n + k) a part of n samples of which k
    are kept. The host waits.
    Does not pay: at budgets above about a third, where the pursuit costs more than it saves and ends
    early; every epoch; with the gradient of one moment matched over many epochs of training.

    Attributes:
        ridge: lambda in units of the mean squared gradient norm, positive.
        part_size: most samples of a pursuit.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "residuals", "labels"})

    ridge: float = 0.5
    part_size: int = 1024

    def __post_init__(self) -> None:
        _check_ridge(self.ridge)
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
        """Match every class; see `Strategy.select`."""
        check_size(signals, size)
        features, residuals = signals.tensor("features"), signals.tensor("residuals")
        parts = class_parts(signals.tensor("labels"), self.part_size, generator)
        quotas = proportional_quotas([part.shape[0] for part in parts], size)
        weights = torch.zeros(signals.count, dtype=torch.float64)
        for part, quota in zip(parts, quotas, strict=True):
            if quota:
                matched = _match(gram(features[part], residuals[part]), quota, self.ridge)
                weights[part.cpu()] = _fill(matched, quota, generator)
        return _selection(weights, signals)


@dataclass(frozen=True)
class BatchGradMatch:
    """Orthogonal matching pursuit over whole mini-batches: GradMatch-PB.

    The samples are split at random into batches; batches are the atoms, their summed last-layer
    gradients matched to the sum of all. Every sample of a chosen batch has the batch's weight. Whole
    batches that fit into the size are chosen; the rest of it is drawn at random with weight 1.

    Source: Killamsetty et al. 2021a, the form they recommend. They train on the very batches chosen;
    the trainer here shuffles the samples, which leaves the weighted sum as it is.
    Cost: as `GradMatch`, but N C D multiplications, and a pursuit over N / batch_size atoms only:
    little. Memory: (N / batch_size)^2 numbers, and the batches' gradients a few classes at a time.
    Does not pay: batches are nearly alike, so that for the first epochs and at large batch sizes this
    is random selection with uneven weights.

    Attributes:
        batch_size: samples of an atom.
        ridge: as of `GradMatch`, for the atoms.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "residuals"})

    batch_size: int = 64
    ridge: float = 0.5

    def __post_init__(self) -> None:
        _check_ridge(self.ridge)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def select(
        self,
        signals: Signals,
        size: int,
        *,
        epoch: int,
        progress: float,
        generator: torch.Generator,
    ) -> Selection:
        """Match by whole batches; see `Strategy.select`."""
        check_size(signals, size)
        order = permutation(signals.count, generator, signals.device)
        features, residuals = signals.tensor("features"), signals.tensor("residuals")
        atoms = group_gram(features[order], residuals[order], self.batch_size)
        # All but the last batch are whole, so no more fit than this.
        matched = _match(atoms, size // self.batch_size, self.ridge)
        weights = torch.zeros(signals.count, dtype=torch.float64)
        weights[order.cpu()] = matched.repeat_interleave(self.batch_size)[: signals.count]
        return _selection(_fill(weights, size, generator), signals)


def _match(atoms: Tensor, count: int, ridge: float) -> Tensor:
    """Weights (n,) of at most `count` atoms that match the sum of all; 0 where not chosen."""
    weights = torch.zeros(atoms.shape[0], dtype=torch.float64)
    scale = float(atoms.diagonal().mean()) if atoms.shape[0] else 0.0
    if count == 0 or scale <= 0.0:
        return weights
    found = matching_pursuit(atoms.numpy(), atoms.sum(1).numpy(), count, ridge * scale)
    weights[torch.from_numpy(found.indices)] = torch.from_numpy(found.weights)
    return weights


def _fill(weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Scale positive weights to mean 1 and give weight 1 to others at random until `size` are positive."""
    chosen = weights > 0
    found = int(chosen.sum())
    filled = weights / weights[chosen].mean() if found else weights
    others = (~chosen).nonzero().flatten()
    drawn = permutation(others.shape[0], generator, others.device)[: size - found]
    filled[others[drawn]] = 1.0
    return filled


def _selection(weights: Tensor, signals: Signals) -> Selection:
    indices = weights.nonzero().flatten()
    chosen = weights[indices].to(torch.float32).clamp(min=torch.finfo(torch.float32).tiny)
    return Selection(indices.to(signals.device), chosen.to(signals.device))


def _check_ridge(ridge: float) -> None:
    if not 0.0 < ridge < float("inf"):
        raise ValueError(f"ridge must be positive and finite, got {ridge!r}")
