"""Selection via proxy: the samples that a small network is least sure of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dynams.selection.methods.ranked import Ranked, largest


def least_certain(doubts: Tensor, size: int, *, order: Tensor | None = None) -> Tensor:
    """Return the samples of the largest doubt: the indices (size,) int64, ascending.

    With probabilities p = softmax(z), `dynams_kernels.scores(logits, ...)` knows two doubts:

    - confidence: 1 - max_c p_c;
    - entropy: -sum_c p_c log p_c.

    Source: Coleman et al. 2020 (selection via proxy). Published as static: a separate small network,
    trained beforehand, scores once; the slim width can take its part, also again and again.
    Cost: one forward pass of every sample by the proxy, and the proxy's training.
    Does not pay: where a separate proxy has to be trained for one run only. Of two classes, both rank as
    the margin "probability" does, at the same cost; with many, the entropy is dominated by the tail of
    unlikely classes, far from any boundary.

    Args:
        doubts: (N,) floating point; NaN is taken last.
        size: how many, in [0, N].
        order: a permutation of the samples: equal doubts go by their place in it; None: by index.

    Raises:
        ValueError: `size` is out of range.
    """
    return largest(doubts, size, order=order)


@dataclass(frozen=True)
class Confidence(Ranked):
    """`least_certain` by the confidence; static as published."""

    dynamic: ClassVar[bool] = False
    choose: ClassVar[Callable[..., Tensor]] = staticmethod(least_certain)
    score: ClassVar[str] = "confidence"


@dataclass(frozen=True)
class Entropy(Ranked):
    """`least_certain` by the entropy; static as published."""

    dynamic: ClassVar[bool] = False
    choose: ClassVar[Callable[..., Tensor]] = staticmethod(least_certain)
    score: ClassVar[str] = "entropy"
