"""GLISTER: the samples whose gradient step lowers the loss on held-out samples most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import at_least, plain, positive, whole
from dynams.selection.methods.gradients import check_rows, finite
from dynams.selection.methods.interface import Selection
from dynams.selection.methods.ranked import largest
from dynams.selection.signals import Signals


@torch.no_grad()
def glister_subset(
    features: Tensor,
    residuals: Tensor,
    held_features: Tensor,
    held_residuals: Tensor,
    held_labels: Tensor,
    size: int,
    *,
    step: float = 1.0,
    rounds: int = 15,
) -> Tensor:
    """Choose greedily by the Taylor gain of the held-out loss under one step of the last layer.

    With the last layer moved by the selection so far, theta - eta sum over S of g_j, the gain of sample
    e is eta <g_e, grad L_V(theta - eta sum g_j)>, the first-order fall of the held-out loss. In each of
    `rounds` rounds the size / rounds samples of the largest gain are taken and the layer moves on; the
    held-out logits are then known exactly, z_v - eta sum_j (p_j - y_j) (h_j . h_v + 1). eta is
    step / size, so that the whole selection takes one step of length `step` along its mean gradient,
    whatever the size.

    Source: Killamsetty et al. 2021b; 15 rounds are their code's default ("r"), which takes the learning
    rate for eta and mini-batches for samples.
    Cost: one forward pass of every sample and of the held-out ones, features and residuals kept,
    N (D + C) numbers; then rounds * (N + V) C D multiplications. Nothing waits for the device.
    Does not pay: with a held-out set too small to speak for the test data, or taken from scarce
    training data; late in training, where its gradient is that of a few mistakes. Unbalanced where
    classes are not chosen from one by one.

    Args:
        features: (N, D) inputs h of the last layer.
        residuals: (N, C) softmax p minus one-hot label y.
        held_features: (V, D) of held-out samples.
        held_residuals: (V, C).
        held_labels: (V,) int64.
        size: how many, in [0, N].
        step: length of the step ahead, positive: about learning rate times steps to the next choice.
        rounds: how often the held-out gradient is taken anew.

    Returns:
        Indices (size,) int64, ascending.

    Raises:
        ValueError: `size` or an option is out of range, or a tensor has another number of rows.
    """
    count = features.shape[0]
    check_rows(count, features=features, residuals=residuals)
    check_rows(held_labels.shape[0], held_features=held_features, held_residuals=held_residuals)
    size = whole("size", size, 0, count)
    step, rounds = plain(step), plain(rounds)
    _check(step, rounds)
    inputs, held_inputs, residuals = _inputs(features), _inputs(held_features), finite(residuals)
    held_probabilities = finite(held_residuals)
    # Not F.one_hot, which looks at the labels and so waits for the device.
    truth = torch.zeros_like(held_probabilities).scatter_(1, held_labels.unsqueeze(1), 1.0)
    held_probabilities = held_probabilities + truth
    # They stand for logits: equal up to a constant of each row.
    logits = held_probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
    chosen = torch.zeros(count, dtype=torch.bool, device=features.device)
    moved = residuals.new_zeros(residuals.shape[1], inputs.shape[1])
    rounds = min(rounds, size)
    for number in range(rounds):
        ahead = (logits - held_inputs @ moved.T).softmax(1) - truth
        gradient = ahead.T @ held_inputs / max(held_labels.shape[0], 1)
        gains = ((inputs @ gradient.T) * residuals).sum(1)
        gains = torch.where(chosen, -torch.inf, gains)
        taken = largest(gains, (number + 1) * size // rounds - number * size // rounds)
        chosen[taken] = True
        moved = moved + (step / size) * (residuals[taken].T @ inputs[taken])
    return largest(chosen.float(), size)


@dataclass(frozen=True)
class Glister:
    """`glister_subset` at every refresh, with the held-out samples of the signals' `validation`.

    Attributes:
        step: length of the step ahead, positive.
        rounds: how often the held-out gradient is taken anew.
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset(
        {
            "features",
            "residuals",
            "validation.features",
            "validation.residuals",
            "validation.labels",
        }
    )

    step: float = 1.0
    rounds: int = 15

    def __post_init__(self) -> None:
        _check(self.step, self.rounds)

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Take the largest gains, round by round; see `Strategy.select`."""
        held = signals.held_out()
        indices = glister_subset(
            signals.tensor("features"),
            signals.tensor("residuals"),
            held.tensor("features"),
            held.tensor("residuals"),
            held.tensor("labels"),
            size,
            step=self.step,
            rounds=self.rounds,
        )
        return Selection(indices)


def _inputs(features: Tensor) -> Tensor:
    return torch.nn.functional.pad(finite(features), (0, 1), value=1.0)


def _check(step: float, rounds: int) -> None:
    positive("step", step)
    at_least("rounds", rounds, 1)
