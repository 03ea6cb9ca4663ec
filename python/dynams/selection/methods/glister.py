"""GLISTER: the samples whose gradient step lowers the loss on held-out samples most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynams.selection.methods.gradients import finite
from dynams.selection.methods.interface import Selection, check_size
from dynams.selection.methods.ranked import largest
from dynams.selection.signals import Signals


@dataclass(frozen=True)
class Glister:
    """Greedy on the Taylor gain of the held-out loss under one step of the last layer.

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
    training data; late in training, where its gradient is that of a few mistakes. Unbalanced without
    the class-balanced switch.

    Attributes:
        step: length of the step ahead, positive: about learning rate times steps to the next refresh.
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
        if not 0.0 < self.step < float("inf"):
            raise ValueError(f"step must be positive and finite, got {self.step!r}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    def select(
        self,
        signals: Signals,
        size: int,
        *,
        epoch: int,
        progress: float,
        generator: torch.Generator,
    ) -> Selection:
        """Take the largest gains, round by round; see `Strategy.select`."""
        check_size(signals, size)
        held_out = HeldOut.of(signals.held_out())
        inputs = _inputs(signals.tensor("features"))
        residuals = finite(signals.tensor("residuals"))
        chosen = torch.zeros(signals.count, dtype=torch.bool, device=signals.device)
        moved = residuals.new_zeros(residuals.shape[1], inputs.shape[1])
        rounds = min(self.rounds, size)
        for number in range(rounds):
            gains = ((inputs @ held_out.gradient(moved).T) * residuals).sum(1)
            gains = torch.where(chosen, -torch.inf, gains)
            taken = largest(gains, (number + 1) * size // rounds - number * size // rounds)
            chosen[taken] = True
            moved = moved + (self.step / size) * (residuals[taken].T @ inputs[taken])
        return Selection(largest(chosen.float(), size))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out samples, as functions of how far the last layer has moved.

    Attributes:
        inputs: (V, D + 1) features and a 1.
        log_probabilities: (V, C) before any move; they stand for logits, up to a constant of each row.
        labels: (V,) int64.
    """

    inputs: Tensor
    log_probabilities: Tensor
    labels: Tensor

    @classmethod
    def of(cls, signals: Signals) -> HeldOut:
        """Take them from their signals: softmax is the residual plus the one-hot label."""
        labels = signals.tensor("labels")
        probabilities = finite(signals.tensor("residuals"))
        probabilities = probabilities + _one_hot(labels, probabilities)
        tiny = torch.finfo(torch.float32).tiny
        return cls(_inputs(signals.tensor("features")), probabilities.clamp(min=tiny).log(), labels)

    def gradient(self, moved: Tensor) -> Tensor:
        """Return the gradient of the mean loss, (C, D + 1), with the last layer at theta - moved."""
        logits = self.log_probabilities - self.inputs @ moved.T
        residuals = logits.softmax(1) - _one_hot(self.labels, logits)
        return residuals.T @ self.inputs / max(self.labels.shape[0], 1)


def _inputs(features: Tensor) -> Tensor:
    return torch.nn.functional.pad(finite(features), (0, 1), value=1.0)


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    # Not F.one_hot, which looks at the labels and so waits for the device.
    return torch.zeros_like(like).scatter_(1, labels.unsqueeze(1), 1.0)
