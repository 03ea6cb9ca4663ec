"""GradMatch: few weighted samples, or batches, whose gradient matches that of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import at_least, plain, positive, whole
from dynams.selection.draws import random_order
from dynams.selection.methods.gradients import check_rows, gram, group_gram
from dynams.selection.methods.interface import Selection
from dynams.selection.methods.pursuit import matching_pursuit
from dynams.selection.quotas import class_parts, proportional_quotas
from dynams.selection.signals import Signals


@torch.no_grad()
def gradmatch_subset(
    features: Tensor,
    residuals: Tensor,
    labels: Tensor,
    size: int,
    generator: Generator,
    *,
    ridge: float = 0.5,
    part_size: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Match every class's last-layer gradient by orthogonal pursuit, with weights w >= 0.

    Per class it minimises ||sum over S of w_j g_j - sum_i g_i||^2 + lambda ||w||^2, adding the sample
    that correlates most with what is left and fitting all weights anew. Weights are scaled to mean 1
    over the samples matched. Where the pursuit ends early, since nothing correlates any more, the rest
    of the class's share is drawn at random with weight 1.

    Classes get shares in proportion to their numbers, by largest remainder; classes above `part_size`
    are split at random into equal parts, each matched for itself. lambda is `ridge` times the mean
    squared gradient norm of the part, so that it means the same when gradients have become small (the
    authors: 0.5, absolute).

    Source: Killamsetty et al. 2021a (GRAD-MATCH), its per-class form, chosen anew every 20 epochs there.
    Cost: one forward pass of every sample, its features and residuals kept, N (D + C) numbers; then
    N * part_size (D + C) multiplications and, on the CPU, k^2 (n + k) a part of n samples of which k
    are kept. The host waits.
    Does not pay: at budgets above about a third, where the pursuit costs more than it saves and ends
    early; every epoch; with the gradient of one moment matched over many epochs of training.

    Args:
        features: (N, D) inputs h of the last layer.
        residuals: (N, C) softmax p minus one-hot label y.
        labels: (N,) int64.
        size: how many, in [0, N].
        generator: of the parts, and of what is drawn at random.
        ridge: lambda in units of the mean squared gradient norm, positive.
        part_size: most samples of a pursuit.

    Returns:
        Indices (size,) int64 ascending, and weights (size,) float32.

    Raises:
        ValueError: `size` or an option is out of range, or a tensor has another number of rows.
    """
    count = labels.shape[0]
    check_rows(count, features=features, residuals=residuals)
    size = whole("size", size, 0, count)
    ridge, part_size = plain(ridge), plain(part_size)
    _check(ridge, part_size=part_size)
    parts = class_parts(labels, part_size, generator)
    quotas = proportional_quotas([part.shape[0] for part in parts], size)
    weights = torch.zeros(count, dtype=torch.float64, device="cpu")
    for part, quota in zip(parts, quotas, strict=True):
        if quota:
            matched = _match(gram(features[part], residuals[part]), quota, ridge)
            weights[part.cpu()] = _fill(matched, quota, generator)
    return _chosen(weights, features.device)


@torch.no_grad()
def gradmatch_batches(
    features: Tensor,
    residuals: Tensor,
    size: int,
    generator: Generator,
    *,
    batch_size: int = 64,
    ridge: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Match the last-layer gradient by whole mini-batches, by orthogonal pursuit: GradMatch-PB.

    The samples are split at random into batches; batches are the atoms, their summed last-layer
    gradients matched to the sum of all. Every sample of a chosen batch has the batch's weight. Whole
    batches that fit into the size are chosen; the rest of it is drawn at random with weight 1.

    Source: Killamsetty et al. 2021a, the form they recommend. They train on the very batches chosen;
    a loop that shuffles the samples leaves the weighted sum as it is.
    Cost: as `gradmatch_subset`, but N C D multiplications, and a pursuit over N / batch_size atoms only:
    little. Memory: (N / batch_size)^2 numbers, and the batches' gradients a few classes at a time.
    Does not pay: batches are nearly alike, so that for the first epochs and at large batch sizes this
    is random selection with uneven weights.

    Args, returns and errors as of `gradmatch_subset`; `batch_size` is of an atom, `ridge` for the atoms.
    """
    count = features.shape[0]
    check_rows(count, features=features, residuals=residuals)
    size = whole("size", size, 0, count)
    ridge, batch_size = plain(ridge), plain(batch_size)
    _check(ridge, batch_size=batch_size)
    order = random_order(count, generator, features.device)
    atoms = group_gram(features[order], residuals[order], batch_size)
    # All but the last batch are whole, so no more fit than this.
    matched = _match(atoms, size // batch_size, ridge)
    weights = torch.zeros(count, dtype=torch.float64, device="cpu")
    weights[order.cpu()] = matched.repeat_interleave(batch_size)[:count]
    return _chosen(_fill(weights, size, generator), features.device)


@dataclass(frozen=True)
class GradMatch:
    """`gradmatch_subset` at every refresh.

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
        _check(self.ridge, part_size=self.part_size)

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Match every class; see `Strategy.select`."""
        features, residuals = signals.tensor("features"), signals.tensor("residuals")
        matched = gradmatch_subset(
            features,
            residuals,
            signals.tensor("labels"),
            size,
            generator,
            ridge=self.ridge,
            part_size=self.part_size,
        )
        return Selection(*matched)


@dataclass(frozen=True)
class BatchGradMatch:
    """`gradmatch_batches` at every refresh.

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
        _check(self.ridge, batch_size=self.batch_size)

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Match by whole batches; see `Strategy.select`."""
        features, residuals = signals.tensor("features"), signals.tensor("residuals")
        matched = gradmatch_batches(
            features, residuals, size, generator, batch_size=self.batch_size, ridge=self.ridge
        )
        return Selection(*matched)


def _match(atoms: Tensor, count: int, ridge: float) -> Tensor:
    """Weights (n,) of at most `count` atoms that match the sum of all; 0 where not chosen."""
    weights = torch.zeros(atoms.shape[0], dtype=torch.float64, device="cpu")
    scale = float(atoms.diagonal().mean()) if atoms.shape[0] else 0.0
    if count == 0 or scale <= 0.0:
        return weights
    found = matching_pursuit(atoms.numpy(), atoms.sum(1).numpy(), count, ridge * scale)
    weights[torch.from_numpy(found.indices)] = torch.from_numpy(found.weights)
    return weights


def _fill(weights: Tensor, size: int, generator: Generator) -> Tensor:
    """Scale positive weights to mean 1 and give weight 1 to others at random until `size` are positive."""
    chosen = weights > 0
    found = int(chosen.sum())
    filled = weights / weights[chosen].mean() if found else weights
    others = (~chosen).nonzero().flatten()
    drawn = random_order(others.shape[0], generator, others.device)[: size - found]
    filled[others[drawn]] = 1.0
    return filled


def _chosen(weights: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    indices = weights.nonzero().flatten()
    chosen = weights[indices].to(torch.float32).clamp(min=torch.finfo(torch.float32).tiny)
    return indices.to(device), chosen.to(device)


def _check(ridge: float, **sizes: int) -> None:
    positive("ridge", ridge)
    for name, value in sizes.items():
        at_least(name, value, 1)
