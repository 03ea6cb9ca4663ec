"""GLISTER: the greedy choice by the gradient of the held-out loss, which autograd confirms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dynams.selection.methods import Glister
from dynams.selection.signals import Signals
from strategy_inputs import generator


class Head:
    """A last layer on samples of known features: what `Signals` would be made from."""

    def __init__(self, count: int, held_out: int, seed: int) -> None:
        source = generator(seed)
        self.weight = torch.randn(3, 5, generator=source, dtype=torch.float64)
        self.features = torch.randn(count, 4, generator=source, dtype=torch.float64)
        self.labels = torch.randint(0, 3, (count,), generator=source)
        self.held_features = torch.randn(held_out, 4, generator=source, dtype=torch.float64)
        self.held_labels = torch.randint(0, 3, (held_out,), generator=source)

    @staticmethod
    def logits(weight: Tensor, features: Tensor) -> Tensor:
        return features @ weight[:, :4].T + weight[:, 4]

    def residuals(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.logits(self.weight, features).softmax(1) - functional.one_hot(labels, 3)

    def signals(self) -> Signals:
        held_out = Signals(
            len(self.held_labels),
            labels=self.held_labels,
            features=self.held_features,
            residuals=self.residuals(self.held_features, self.held_labels),
        )
        return Signals(
            len(self.labels),
            features=self.features,
            residuals=self.residuals(self.features, self.labels),
            validation=held_out,
        )

    def gradient(self, weight: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        weight = weight.clone().requires_grad_()
        loss = functional.cross_entropy(self.logits(weight, features), labels)
        (gradient,) = torch.autograd.grad(loss, weight)
        return gradient


def greedy(head: Head, size: int, rounds: int, step: float) -> list[int]:
    """The definition, with autograd and the weights themselves."""
    own = [
        head.gradient(head.weight, head.features[i : i + 1], head.labels[i : i + 1])
        for i in range(len(head.labels))
    ]
    chosen: list[int] = []
    bounds = [number * size // rounds for number in range(rounds + 1)]
    for taken in np.diff(bounds):
        moved = sum((own[i] for i in chosen), torch.zeros_like(head.weight))
        ahead = head.weight - step / size * moved
        wanted = head.gradient(ahead, head.held_features, head.held_labels)
        gains = {i: float((wanted * own[i]).sum()) for i in range(len(own)) if i not in chosen}
        chosen += sorted(gains, key=lambda i: -gains[i])[: int(taken)]
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rounds", "step"), [(100, 5.0), (3, 20.0), (1, 1.0)])
def test_the_choice_is_the_greedy_one(seed: int, rounds: int, step: float) -> None:
    head = Head(20, 7, seed)
    selection = Glister(step=step, rounds=rounds).select(
        head.signals(), 9, epoch=0, progress=0.0, generator=generator()
    )
    assert selection.indices.tolist() == greedy(head, 9, min(rounds, 9), step)
    assert selection.weights is None


def test_looking_ahead_changes_the_choice() -> None:
    """Otherwise the rounds above would prove nothing."""
    head = Head(20, 7, 0)
    assert greedy(head, 9, 9, 20.0) != greedy(head, 9, 1, 20.0)


def test_the_selections_step_lowers_the_held_out_loss_more_than_the_rests() -> None:
    head = Head(40, 15, 1)
    chosen = (
        Glister().select(head.signals(), 20, epoch=0, progress=0.0, generator=generator()).indices
    )
    rest = torch.tensor([i for i in range(40) if i not in chosen.tolist()])

    def loss_after(samples: Tensor) -> float:
        gradient = head.gradient(head.weight, head.features[samples], head.labels[samples])
        logits = head.logits(head.weight - 0.1 * gradient, head.held_features)
        return float(functional.cross_entropy(logits, head.held_labels))

    assert loss_after(chosen) < loss_after(rest)
