"""Margins and scores of a linear head whose classes are spread over the ranks of a group, as tensor-parallel heads are.

Each rank reduces the logits of its own classes to a state of two to six floats a row; the states, not the logits, are exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from dynams_kernels import _checks, linear
from dynams_kernels._kinds import (
    MARGIN_KINDS,
    MarginKind,
    ScoreKind,
    check_kind,
    check_kinds,
)
from dynams_kernels.distributed.groups import Ranks, agree, ranks_of
from dynams_kernels.distributed.shards import SAME, Shard, scores_over_ranks
from dynams_kernels.logits import as_dict


def linear_margin(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    width: int | float | None = None,
    kind: MarginKind = "gap",
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
    group: Any = None,
) -> Tensor:
    """Margins of a linear head whose weight's rows are spread over ranks, rank after rank: the same on every rank.

    Those of `dynams_kernels.linear_margin` of the whole head, from the same logits: ``gap`` and ``label`` bit for bit
    where a logit's bits do not depend on which other classes are multiplied beside it. See :func:`linear_scores` for what
    ranks exchange, what they must agree on, and gradients.

    Args:
        features: (..., D) or (..., width), the same on all ranks; float32, float16, bfloat16 or float64.
        weight: (C_r, D), this rank's classes, any number of them, also none; two or more over all ranks.
        bias: (C_r,) or None, of this rank's classes.
        width: how many leading features take part; one, see `dynams_kernels.linear_margin`.
        kind: ``gap``, ``probability`` or ``label``. ``distance`` is known to a group of one rank alone.
        labels: (...) int64 in [0, C), numbered over all ranks, the same on all of them, for ``label``.
        class_distances: for ``distance``.
        group: the process group, by default all processes; without one this process is all of them.

    Returns:
        (...) float32; float64 for float64 features.

    Raises:
        TypeError, ValueError: as `dynams_kernels.linear_margin`, on all ranks where it is on one; also where they disagree.
        RuntimeError: not all ranks came, within the group's time-out.
    """
    ranks = ranks_of(group)
    if ranks.size == 1:
        return linear.linear_margin(
            features,
            weight,
            bias,
            width=width,
            kind=kind,
            labels=labels,
            class_distances=class_distances,
        )

    def checked() -> Shard:
        check_kind(kind, MARGIN_KINDS)
        return Shard(features, weight, bias, width, (kind,), labels, _checks.IGNORED)

    return _scores(ranks, "linear_margin", checked)[0]


def linear_scores(
    features: Tensor,
    weight: Tensor,
    kinds: Sequence[ScoreKind],
    bias: Tensor | None = None,
    *,
    width: int | float | None = None,
    labels: Tensor | None = None,
    class_distances: Tensor | None = None,
    ignore_index: int = _checks.IGNORED,
    group: Any = None,
) -> dict[str, Tensor]:
    """Scores of a linear head whose weight's rows are spread over ranks, rank after rank: the same on every rank.

    Those of `dynams_kernels.linear_scores` of the whole head, within the same error. A rank holds its own logits one tile
    at a time, as there; it sends 8 bytes a row (of float64 features 16), and 4 (8) more for each that the kinds need of:
    the sum of exponentials, of their squares (``el2n``), of their logarithms (``entropy``), the label's logit. They are
    merged on every rank in the order of ranks, in float64: ranks with processors of one kind get the same bits.

    Before, ranks tell each other what they were called with, in one exchange of 512 bytes, for which the host waits.
    Features and labels must be the same on all ranks, which is checked by sums of their bits.

    Differentiable with respect to features, weight and bias. The gradients are those of the whole head: of weight and bias
    this rank's rows, of the features the sum over all ranks, which the backward pass forms by an all-reduce. So every
    rank must go through the same backward pass, with the same gradient of the scores, as after any all-gather of
    tensor-parallel layers. An infinite logit leaves its row no gradient (NaN) but of ``gap`` and ``label``.

    Args:
        features: (..., D) or (..., width), the same on all ranks; float32, float16, bfloat16 or float64.
        weight: (C_r, D), this rank's classes, any number of them, also none; two or more over all ranks.
        kinds: names of scores, each at most once, see `dynams_kernels.scores`; ``distance`` is known to a group of one
            rank alone.
        bias: (C_r,) or None, of this rank's classes.
        width: how many leading features take part; one, see `dynams_kernels.linear_margin`.
        labels: (...) int64 in [0, C), numbered over all ranks, the same on all of them, for ``label``, ``loss``, ``el2n``.
        class_distances: for ``distance``.
        ignore_index: the label of samples whose label-based scores are NaN.
        group: the process group, by default all processes; without one this process is all of them.

    Returns:
        A dict in the order of ``kinds``, each score (...) float32; float64 for float64 features.

    Raises:
        TypeError, ValueError: as `dynams_kernels.linear_scores`, on all ranks where it is on one; also where they disagree.
        RuntimeError: not all ranks came, within the group's time-out.
    """
    ranks = ranks_of(group)
    if ranks.size == 1:
        return linear.linear_scores(
            features,
            weight,
            kinds,
            bias,
            width=width,
            labels=labels,
            class_distances=class_distances,
            ignore_index=ignore_index,
        )

    def checked() -> Shard:
        check_kinds(kinds)
        return Shard(features, weight, bias, width, kinds, labels, ignore_index)

    found = _scores(ranks, "linear_scores", checked)
    return as_dict(found, kinds, check_kinds(kinds), found.shape[1:]) if kinds else {}


def _scores(ranks: Ranks, call: str, checked: Callable[[], Shard]) -> Tensor:
    """The scores (n, ...) of a call whose ranks all passed their checks, and agree."""
    shards: list[Shard] = []

    def tell() -> dict[str, Any]:
        shards.append(checked())
        ranks.check_device("features", shards[0].features.device)
        return shards[0].told(call)

    told = agree(ranks, tell, SAME)
    return scores_over_ranks(ranks, shards[0], told)
