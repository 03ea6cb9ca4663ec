"""GLISTER: the greedy choice by the gradient of the held-out loss, which autograd confirms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dynams.selection.methods import glister_subset
from strategy_inputs import generator


class Head:
    """A last layer on samples of known features, some of them held out."""

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

    def chosen(self, size: int, **options: float) -> Tensor:
        residuals = self.residuals(self.features, self.labels)
        held_out = self.residuals(self.held_features, self.held_labels)
        return glister_subset(
            self.features,
            residuals,
            self.held_features,
            held_out,
            self.held_labels,
            size,
            **options,  # type: ignore[arg-type]
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
    chosen = head.chosen(9, step=step, rounds=rounds)
    assert chosen.tolist() == greedy(head, 9, min(rounds, 9), step)


def test_looking_ahead_changes_the_choice() -> None:
    """Otherwise the rounds above would prove nothing."""
    head = Head(20, 7, 0)
    assert greedy(head, 9, 9, 20.0) != greedy(head, 9, 1, 20.0)


def test_the_selections_step_lowers_the_held_out_loss_more_than_the_rests() -> None:
    head = Head(40, 15, 1)
    chosen = head.chosen(20)
    rest = torch.tensor([i for i in range(40) if i not in chosen.tolist()])

    def loss_after(samples: Tensor) -> float:
        gradient = head.gradient(head.weight, head.features[samples], head.labels[samples])
        logits = head.logits(head.weight - 0.1 * gradient, head.held_features)
        return float(functional.cross_entropy(logits, head.held_labels))

    assert loss_after(chosen) < loss_after(rest)


def test_what_does_not_fit_is_refused() -> None:
    head = Head(6, 3, 0)
    for options, message in (
        ({"size": 7}, "size: got 7, want at most 6"),
        ({"size": 2, "step": 0.0}, r"step: got 0\.0, want a number in \(0, inf\)"),
        ({"size": 2, "rounds": 0}, "rounds: got 0, want at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            head.chosen(**options)  # type: ignore[arg-type]
    x, y, v = torch.zeros(6, 4), torch.zeros(6, 3), torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"residuals: got shape \(5, 3\), want \(6, any\)"):
        glister_subset(x, y[1:], v, y[:3], head.labels[:3], 2)
    with pytest.raises(ValueError, match=r"held_features: got shape \(3, 4\), want \(2, any\)"):
        glister_subset(x, y, v, y[:3], head.labels[:2], 2)
