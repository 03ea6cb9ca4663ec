"""Selection via proxy: the samples that a small network is least sure of.

In any loop: `largest(scores, size)` of `dynams_kernels.scores(logits, ("confidence", "entropy"))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynams.selection.methods.ranked import Ranked


@dataclass(frozen=True)
class Confidence(Ranked):
    """The least confident: largest 1 - max_c p_c.

    Source: Coleman et al. 2020 (selection via proxy). Published as static: a separate small network,
    trained beforehand, scores once; here the slim width can take its part, also again and again.
    Cost: one forward pass of every sample by the proxy, and the proxy's training.
    Does not pay: where a separate proxy has to be trained for one run only. Two classes: it ranks as
    the margin "probability" does, at the same cost.
    """

    dynamic: ClassVar[bool] = False
    score: ClassVar[str] = "confidence"


@dataclass(frozen=True)
class Entropy(Ranked):
    """The largest entropies: -sum_c p_c log p_c.

    Source: Coleman et al. 2020. Static as published, see `Confidence`.
    Cost: as `Confidence`.
    Does not pay: as `Confidence`; with many classes the entropy is dominated by the tail of unlikely
    classes, far from any boundary.
    """

    dynamic: ClassVar[bool] = False
    score: ClassVar[str] = "entropy"
