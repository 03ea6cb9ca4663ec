"""Margin selection: the samples nearest the decision boundary, chosen again (DynaMS) or once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dynams.checks import one_of
from dynams.selection.methods.ranked import Ranked, smallest
from dynams.selection.signals import Signals

MARGINS: tuple[str, ...] = ("gap", "probability", "distance", "label")


def smallest_margins(margins: Tensor, size: int, *, order: Tensor | None = None) -> Tensor:
    """Return the samples nearest the decision boundary: the indices (size,) int64, ascending.

    With logits z, predicted class p and head rows w_c, `dynams_kernels.margin` knows these kinds:

    - gap: z_(1) - z_(2);
    - probability: softmax(z)_(1) - softmax(z)_(2);
    - distance: min over c != p of (z_p - z_c) / ||w_p - w_c||, true distance in feature space;
    - label: z_y - max over c != y of z_c, negative where misclassified: most wrong first.

    Source: Wang et al. 2023 (DynaMS); the label-free margins are of Emam et al. 2021.
    Cost: one forward pass of every sample, by a proxy say, for each choice; O(N) numbers.
    Does not pay: when epochs between refreshes are few and the proxy is dear: c + 3 Q b p c must stay
    below 3 Q (1 - b), with c the cost of the proxy over that of the network, b the budget, Q epochs from
    refresh to refresh and p the fraction of steps that train the proxy too (a training step being three
    forward passes). "label" takes noisy and unlearnt samples first and hurts early in training; guard it
    against label noise or use another kind.

    Args:
        margins: (N,) floating point; NaN is taken last.
        size: how many, in [0, N].
        order: a permutation of the samples: equal margins go by their place in it; None: by index.

    Raises:
        ValueError: `size` is out of range.
    """
    return smallest(margins, size, order=order)


@dataclass(frozen=True)
class Margin(Ranked):
    """`smallest_margins`, chosen again at every refresh: dynamic margin selection.

    Attributes:
        kind: which margin.
    """

    keeps_largest: ClassVar[bool] = False
    choose: ClassVar[Callable[..., Tensor]] = staticmethod(smallest_margins)

    kind: str = "gap"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("kind", self.kind, MARGINS)

    @property
    def needs(self) -> frozenset[str]:
        """The margin of its kind."""
        return frozenset({self.kind})

    def values(self, signals: Signals) -> Tensor:
        """Return the margins."""
        return signals.score(self.kind)


@dataclass(frozen=True)
class StaticMargin(Margin):
    """`smallest_margins` by one scoring, kept for good.

    Source: the ablation "MS" of Wang et al. 2023.
    Cost: one forward pass of every sample in all.
    Does not pay: the boundary moves on and the subset does not; scored before the network has learnt
    anything, it is a random subset with a bias.
    """

    dynamic: ClassVar[bool] = False
