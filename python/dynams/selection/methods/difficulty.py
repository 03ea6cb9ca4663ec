"""Hardest first, by the network's error on a sample: loss, EL2N, last-layer GraNd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dynams.selection.methods.ranked import Ranked, largest


def hardest(errors: Tensor, size: int, *, order: Tensor | None = None) -> Tensor:
    """Return the samples of the largest error: the indices (size,) int64, ascending.

    With probabilities p = softmax(z), one-hot label y and the last layer's inputs h these are errors:

    - loss: -log p_y;
    - el2n: ||p - y||_2 = sqrt(sum p^2 - 2 p_y + 1), like the loss one of `dynams_kernels.scores`;
    - grand: ||p - y|| sqrt(||h||^2 + 1), see `last_layer_gradient_norm`.

    Source: Paul, Ganguli & Dziugaite 2021 for EL2N and GraNd (theirs is of all layers' gradients). Published
    as static: scored after 10 to 20 epochs, GraNd also at initialisation, and averaged over about 10
    initialisations; what is handed in may be such an average. The loss is taken for importance by
    Katharopoulos & Fleuret 2018 and Jiang et al. 2019; keeping just the largest is its biased form.
    Cost: one forward pass of every sample for each choice, times the initialisations; for GraNd the norms
    of the features too. None for losses that training steps left behind.
    Does not pay: with label noise, where mislabelled samples are hardest for good (use the noise guard); at
    budgets under a third, where the paper itself leaves the very hardest out; early in training; without an
    average, as one network's scores. GraNd at initialisation says mostly how large the images' norms are.

    Args:
        errors: (N,) floating point; NaN is taken last.
        size: how many, in [0, N].
        order: a permutation of the samples: equal errors go by their place in it; None: by index.

    Raises:
        ValueError: `size` is out of range.
    """
    return largest(errors, size, order=order)


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
    """`hardest` by the loss."""

    choose: ClassVar[Callable[..., Tensor]] = staticmethod(hardest)
    score: ClassVar[str] = "loss"


@dataclass(frozen=True)
class EL2N(Ranked):
    """`hardest` by EL2N; static as published."""

    dynamic: ClassVar[bool] = False
    choose: ClassVar[Callable[..., Tensor]] = staticmethod(hardest)
    score: ClassVar[str] = "el2n"


@dataclass(frozen=True)
class GraNd(Ranked):
    """`hardest` by the last layer's GraNd, the score "grand"; static as published."""

    dynamic: ClassVar[bool] = False
    choose: ClassVar[Callable[..., Tensor]] = staticmethod(hardest)
    score: ClassVar[str] = "grand"
