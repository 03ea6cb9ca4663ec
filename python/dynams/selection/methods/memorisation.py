"""Memorisation: how much a sample's own presence in the training set decides its prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynams.selection.methods.ranked import Ranked
from dynams.selection.precision import wide_dtype


def memorisation_scores(correct: Tensor, member: Tensor) -> Tensor:
    """Estimate memorisation from many networks, each trained on a random part of the data.

    mem(i) = P(right | trained with i) - P(right | trained without i): the mean of correct_t(i) over the
    networks t trained with i, minus the mean over those without. Keep the `largest`.

    Source: Feldman 2020; the subset estimator of Feldman & Zhang 2020, eq. for A^mem.
    Cost: thousands of trainings beforehand (the authors: 4,000 networks on CIFAR-100).
    Does not pay: unless published scores of the very data set are at hand.

    Args:
        correct: (T, N) bool: network t predicts sample i rightly.
        member: (T, N) bool: sample i was in the training part of network t.

    Returns:
        (N,) float32 in [-1, 1]; NaN where all networks or none were trained with the sample.

    Raises:
        ValueError: the shapes differ or are not (T, N).
    """
    if correct.dim() != 2 or correct.shape != member.shape:
        came = f"{tuple(correct.shape)} and {tuple(member.shape)}"
        raise ValueError(f"correct and member: got shapes {came}, want (T, N) for both")
    dtype = wide_dtype(correct.device)
    inside, right = member.to(dtype), correct.to(dtype)
    outside = 1 - inside
    with_it = (right * inside).sum(0) / inside.sum(0)
    without_it = (right * outside).sum(0) / outside.sum(0)
    return (with_it - without_it).to(torch.float32)


@dataclass(frozen=True)
class Memorisation(Ranked):
    """The most memorised, by `memorisation_scores` given as "memorisation". Static by nature."""

    dynamic: ClassVar[bool] = False
    score: ClassVar[str] = "memorisation"
