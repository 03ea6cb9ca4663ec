"""Signals of made-up samples: a random last layer on random features, and all that follows from it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynams.selection.signals import Signals

Array = NDArray[np.float64]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def signals(count: int, *, classes: int = 3, width: int = 4, seed: int = 0) -> Signals:
    """All signals that any strategy asks for, consistent with one another where they can be."""
    training = last_layer(count, classes, width, seed)
    held_out = last_layer(5, classes, width, seed + 1)
    return Signals(
        count,
        training.scores,
        training.labels,
        training.features,
        training.residuals,
        held_out,
    )


def last_layer(count: int, classes: int, width: int, seed: int) -> Signals:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, width))
    labels = rng.integers(0, classes, count)
    logits = features @ rng.normal(size=(width, classes))
    probabilities = softmax(logits)
    residuals = probabilities.copy()
    residuals[np.arange(count), labels] -= 1
    ordered = np.sort(logits, 1)
    rest = logits.copy()
    rest[np.arange(count), labels] = -np.inf
    error = np.linalg.norm(residuals, axis=1)
    scores = {
        "gap": ordered[:, -1] - ordered[:, -2],
        "probability": rng.random(count),
        "distance": rng.random(count),
        "label": logits[np.arange(count), labels] - rest.max(1),
        "loss": -np.log(probabilities[np.arange(count), labels]),
        "el2n": error,
        "entropy": -(probabilities * np.log(probabilities)).sum(1),
        "confidence": 1 - probabilities.max(1),
        "grand": error * np.sqrt((features**2).sum(1) + 1),
        "last_loss": rng.exponential(size=count),
        "last_epoch": rng.choice([-np.inf, 0.0, 1.0, 2.0], count),
        "window_loss": rng.normal(size=count),
        "trained_epochs": rng.integers(1, 4, count).astype(float),
        "alignment": rng.uniform(-1, 1, count),
        "forgetting": rng.integers(0, 4, count).astype(float),
        "memorisation": rng.uniform(-1, 1, count),
        "irreducible_loss": rng.exponential(size=count),
    }
    return Signals(
        count,
        {name: tensor(score) for name, score in scores.items()},
        torch.from_numpy(labels),
        tensor(features),
        tensor(residuals),
    )


def tensor(values: object) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def gradients(features: Tensor, residuals: Tensor) -> Array:
    """The last-layer gradients themselves, one flat row a sample."""
    h = np.concatenate([features.double().numpy(), np.ones((len(features), 1))], 1)
    return np.einsum("ic,id->icd", residuals.double().numpy(), h).reshape(len(h), -1)
