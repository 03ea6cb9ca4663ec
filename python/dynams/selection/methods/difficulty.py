"""Hardest first, by the network's error on a sample: loss, EL2N, last-layer GraNd.

In any loop: `largest(scores, size)` of `dynams_kernels.scores(logits, ("loss", "el2n"), labels=labels)`, or of
the gradients' norms below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dynams.selection.methods.ranked import Ranked


def last_layer_gradient_norm(el2n: Tensor, feature_norm: Tensor) -> Tensor:
    """Return GraNd of the last layer, exactly: ||p - y|| sqrt(||h||^2 + 1).

    The gradient with respect to weight and bias is the outer product (p - y) (x) [h, 1], whose norm is
    the product of the two norms.

    Args:
        el2n: (B,) ||p - y||, as `dynams_kernels.scores` gives it.
        feature_norm: (B,) ||h|| of the inputs of the last layer.
    """
    return el2n * (feature_norm.square() + 1).sqrt()


@dataclass(frozen=True)
class Loss(Ranked):
    """The largest losses: -log p_y.

    Source: Katharopoulos & Fleuret 2018 and Jiang et al. 2019 take the loss for importance; keeping
    just the largest is the biased, deterministic form of it.
    Cost: one forward pass of every sample at each refresh; free where the losses of the last visits
    are remembered instead.
    Does not pay: with label noise (mislabelled samples have the largest losses for good) or early in
    training; without weights the gradient is biased towards outliers.
    """

    score: ClassVar[str] = "loss"


@dataclass(frozen=True)
class EL2N(Ranked):
    """The largest error norms: EL2N = E ||p - y||_2 = sqrt(sum p^2 - 2 p_y + 1).

    Source: Paul, Ganguli & Dziugaite 2021. Published as static: scored after a few epochs (10 to 20),
    averaged over about 10 initialisations. The score handed in may be such an average.
    Cost: one forward pass of every sample, after some epochs of training, times the initialisations.
    Does not pay: at budgets under a third, where the hardest are too hard or mislabelled (the paper
    itself then leaves the very hardest out: use the label-noise guard); and as one network's scores.
    """

    dynamic: ClassVar[bool] = False
    score: ClassVar[str] = "el2n"


@dataclass(frozen=True)
class GraNd(Ranked):
    """The largest gradient norms of the last layer: ||p - y|| sqrt(||h||^2 + 1).

    Exact for weight and bias of the last layer, see `last_layer_gradient_norm`; the score "grand".

    Source: Paul, Ganguli & Dziugaite 2021, with the gradient of the last layer in place of all layers'.
    Static as published, averaged over initialisations.
    Cost: one forward pass of every sample, and the norm of its features.
    Does not pay: as `EL2N`; scored at initialisation it says mostly how large the images' norms are.
    """

    dynamic: ClassVar[bool] = False
    score: ClassVar[str] = "grand"
