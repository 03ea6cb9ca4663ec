"""Small linear heads for the interpreted Triton kernels, and their scores held against the oracle's."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from dynams_kernels._kinds import BIT, KINDS, LABELLED_KINDS, kinds_of, mask_of
from kernel_inputs import labels_for

# Whatever imports this tests interpreted kernels, and is skipped elsewhere.
if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from dynams_kernels._triton import linear
from dynams_kernels._triton.linear_configuration import Configuration

__all__ = [
    "DESCRIBED", "LABELLED", "SMALL", "TRAINING", "UNLABELLED", "WIDE", "WITH_PAIRS",
    "aligned", "check", "linear", "pairs_of", "want_of",
]  # fmt: skip

LABELLED = ("label", "loss", "el2n")
UNLABELLED = ("gap", "probability", "entropy", "confidence")
TRAINING = ("gap", "loss", "entropy")
# What descriptors can load tiles for.
DESCRIBED = tuple(kind for kind in KINDS if kind != "distance")
WITH_PAIRS = ("gap", "distance", "label")
NAN = math.nan
SMALL = Configuration(16, 16, 16, num_warps=4, num_stages=1)
WIDE = Configuration(16, 64, 32, num_warps=4, num_stages=1)


def aligned(operand: Tensor) -> Tensor:
    """The same rows, as far apart as descriptors ask; NaN between them, where nothing may be read."""
    # 16 bytes; Triton 3.4's interpreter takes it for elements.
    wide = operand.new_full((len(operand), operand.shape[1] // 16 * 16 + 16), NAN)
    return wide[:, : operand.shape[1]].copy_(operand)


def pairs_of(
    z: oracle.Array, kind: str, labels: oracle.Indices | None, apart: oracle.Array | None
) -> oracle.Indices:
    """The classes whose logits' difference is the margin, by sorting: descending logits, lowest class first."""
    out = np.empty((len(z), 2), dtype=np.int64)
    for row, logits in enumerate(z):
        order = np.lexsort((np.arange(len(logits)), -logits))
        out[row] = order[:2]
        if kind == "label":
            assert labels is not None
            out[row] = labels[row], next(c for c in order if c != labels[row])
        elif kind == "distance":
            assert apart is not None
            p = order[0]
            rise = oracle.difference(logits[p], logits)
            with np.errstate(divide="ignore", invalid="ignore"):
                quotient = np.where(rise == 0, 0.0, rise / apart[p])
            quotient[p] = np.inf
            out[row, 1] = quotient.argmin()
    return out


def want_of(
    z: oracle.Array, kind: str, labels: oracle.Indices | None, apart: oracle.Array | None
) -> oracle.Array:
    """The oracle's score of one kind; NaN where the label names no class."""
    with np.errstate(invalid="ignore"):
        if kind not in LABELLED_KINDS:
            return (
                oracle.margin(z, kind, None, apart)
                if kind == "distance"
                else oracle.scores(z, (kind,))[kind]
            )
        assert labels is not None
        named = (labels >= 0) & (labels < z.shape[1])
        want = oracle.scores(z, (kind,), np.where(named, labels, 0))[kind]
        return np.where(named, want, np.nan)


def check(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kinds: str | Sequence[str],
    *,
    ulps: float = 64,
    labels: Tensor | None = None,
    apart: Tensor | None = None,
    pairs: bool = False,
    **how: Any,
) -> Tensor:
    """Scores (kinds, B), and pairs where asked for, against the oracle's; logits near one.

    Operands whose tiles descriptors load are aligned for it first.
    """
    if how.get("loads") == "descriptors":
        features, weight = aligned(features), aligned(weight)
    mask = mask_of((kinds,) if isinstance(kinds, str) else kinds)
    wide = oracle.array(weight)
    z = oracle.linear(
        oracle.array(features), wide, None if bias is None else oracle.array(bias), None
    )
    if labels is None:
        labels = labels_for(torch.empty(z.shape))
    if apart is None:
        apart = torch.from_numpy(oracle.class_distances(wide)).float()
    y, distances = labels.numpy(), oracle.array(apart)
    got, got_pairs = linear.linear_scores(
        features,
        weight,
        bias,
        labels,
        apart if mask & BIT["distance"] else None,
        [weight.shape[1]],
        mask,
        pairs,
        **how,
    )
    names = kinds_of(mask)
    assert got.dtype == torch.float32
    assert got.shape == (len(names), 1, len(z))
    for kind, scores in zip(names, got[:, 0], strict=True):
        want = want_of(z, kind, y, distances)
        try:
            oracle.check(scores, want, ulps=ulps, floor=1.0)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from error
        assert kind != "entropy" or not (scores < 0).any()
    assert (got_pairs is not None) == pairs
    if got_pairs is not None:
        assert got_pairs.shape == (len(z), 2)
        assert got_pairs.dtype == torch.int64
        (kind,) = names
        whole = ~np.isnan(z).any(axis=1)
        assert np.array_equal(got_pairs.numpy()[whole], pairs_of(z, kind, y, distances)[whole])
        assert ((got_pairs >= 0) & (got_pairs < z.shape[1])).all()
    return got[:, 0]
