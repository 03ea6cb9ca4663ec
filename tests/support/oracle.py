"""What the kernels must return, written from the formulas alone in NumPy float64.

Nothing here is fast and nothing here is shared with the package: logits of any dtype are widened
exactly to float64, every score is computed by its definition (with the limits at infinity spelt
out), and a selection is a stable sort of all the values. `check` and `same_bits` compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

MARGIN_KINDS = ("gap", "probability", "distance", "label")
SCORE_KINDS = ("gap", "probability", "label", "loss", "el2n", "entropy", "confidence")
LABEL_KINDS = ("label", "loss", "el2n")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def array(tensor: Tensor) -> Array:
    """The values of a tensor in float64, exactly."""
    wide: Array = tensor.detach().cpu().to(torch.float64).resolve_neg().numpy()
    return wide


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a score of logits of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# ------------------------------------------------------------------------------------ row scores


def difference(left: Array, right: Array) -> Array:
    """left - right, where equal values (infinities too) differ by zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        plain: Array = np.where(left == right, 0.0, left - right)
    return plain


def softmax(logits: Array) -> Array:
    """Rows of probabilities; the limit is taken at infinities, NaN fills a row that holds one."""
    top = logits.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        mass = np.where(logits == top, 1.0, np.exp(logits - top))
    mass = np.where(np.isposinf(top) & (logits != top), 0.0, mass)
    p: Array = mass / mass.sum(axis=1, keepdims=True)
    p[np.isnan(logits).any(axis=1)] = np.nan
    return p


def margin(
    logits: Array,
    kind: str = "gap",
    labels: Indices | None = None,
    class_distances: Array | None = None,
    largest: float = math.inf,
) -> Array:
    """(B,) margins of (B, C) logits. A difference over `largest`, that of the accumulation, is inf."""
    rows = np.arange(len(logits))
    if kind == "gap":
        ordered = np.sort(logits, axis=1)
        out = difference(ordered[:, -1], ordered[:, -2])
    elif kind == "probability":
        ordered = np.sort(softmax(logits), axis=1)
        out = ordered[:, -1] - ordered[:, -2]
    elif kind == "label":
        assert labels is not None
        others = np.array(logits)
        others[rows, labels] = -np.inf
        out = difference(logits[rows, labels], others.max(axis=1))
    elif kind == "distance":
        assert class_distances is not None
        best = logits.argmax(axis=1)
        rise = difference(logits[rows, best][:, None], logits)
        rise = np.where(rise > largest, np.inf, rise)
        apart = class_distances[best]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            quotient = np.where(rise == 0, 0.0, np.where(apart == 0, np.inf, rise / apart))
        quotient[rows, best] = np.inf
        out = quotient.min(axis=1)
    else:
        raise AssertionError(kind)
    result: Array = np.where(np.isnan(logits).any(axis=1), np.nan, out)
    return result


def loss(logits: Array, labels: Indices) -> Array:
    """logsumexp - z_y; with the mass shared among +inf logits, and all -inf taken as all equal."""
    rows = np.arange(len(logits))
    top = logits.max(axis=1)
    at_infinity = np.isinf(top)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        shifted = np.where(logits == top[:, None], 0.0, logits - top[:, None])
        finite = np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, labels]
        limit = -np.log(softmax(logits)[rows, labels])
    out: Array = np.where(at_infinity, limit, finite)
    out[np.isnan(logits).any(axis=1)] = np.nan
    return out


def logsumexp(logits: Array) -> Array:
    """log of the sum of exponentials; an infinite largest logit is the sum's logarithm itself."""
    top = logits.max(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    out: Array = np.where(np.isinf(top), top, finite)
    return out


def scores(
    logits: Array,
    kinds: Sequence[str],
    labels: Indices | None = None,
    class_distances: Array | None = None,
    largest: float = math.inf,
) -> dict[str, Array]:
    """Every score asked for, in the order asked for; a label outside the classes makes its row's label-based scores NaN."""
    p = softmax(logits)
    ignored = np.zeros(len(logits), dtype=bool)
    if labels is not None:
        ignored = (labels < 0) | (labels >= logits.shape[1])
        labels = np.where(ignored, 0, labels)
    out: dict[str, Array] = {}
    for kind in kinds:
        if kind in MARGIN_KINDS:
            out[kind] = margin(logits, kind, labels, class_distances, largest)
        elif kind == "loss":
            assert labels is not None
            out[kind] = loss(logits, labels)
        elif kind == "el2n":
            assert labels is not None
            onehot = np.arange(logits.shape[1]) == labels[:, None]
            out[kind] = np.sqrt(((p - onehot) ** 2).sum(axis=1))
        elif kind == "entropy":
            with np.errstate(divide="ignore", invalid="ignore"):
                out[kind] = -np.where(p == 0, 0.0, p * np.log(p)).sum(axis=1)
        elif kind == "confidence":
            # 1 - p_(1) as the sum of the others: no cancellation in the reference.
            out[kind] = np.sort(p, axis=1)[:, :-1].sum(axis=1)
        elif kind == "logsumexp":
            out[kind] = logsumexp(logits)
        else:
            raise AssertionError(kind)
        if kind in LABEL_KINDS:
            out[kind] = np.where(ignored, np.nan, out[kind])
    return out


# ------------------------------------------------------------------------------------ linear heads


def columns(total: int, width: int | float | None) -> int:
    """How many leading features a width names."""
    if width is None:
        return total
    return width if isinstance(width, int) else max(1, math.floor(total * width + 0.5))


def linear(
    features: Array, weight: Array, bias: Array | None = None, width: int | float | None = None
) -> Array:
    """Logits of a slim linear head; columns past the width are never looked at."""
    w = columns(weight.shape[1], width)
    out: Array = features[:, :w] @ weight[:, :w].T
    return out if bias is None else out + bias


def class_distances(weight: Array, width: int | float | None = None) -> Array:
    """Euclidean distance of every two rows of the weight, by plain differences."""
    used = weight[:, : columns(weight.shape[1], width)]
    out = np.empty((len(used), len(used)))
    for row in range(len(used)):
        gaps = used - used[row]
        scale = np.abs(gaps).max(initial=0.0)
        out[row] = np.sqrt(((gaps / scale) ** 2).sum(axis=1)) * scale if scale else 0.0
    return out


# ------------------------------------------------------------------------------------ selection


def smallest_k(values: Array, k: int, order: str = "index") -> Indices:
    """Indices of the k smallest: ascending value, NaN last, ties to the lowest index."""
    isnan = np.isnan(values)
    ranked = np.lexsort((np.arange(len(values)), np.where(isnan, 0.0, values), isnan))[:k]
    return np.sort(ranked) if order == "index" else ranked


def share(k: int | float, size: int) -> int:
    """How many of `size` a k stands for."""
    if isinstance(k, int) or size == 0:
        return 0 if isinstance(k, float) else k
    return max(1, math.floor(k * size + 0.5))


def smallest_k_grouped(
    values: Array, groups: Indices, k: Sequence[int] | float, order: str = "index"
) -> Indices:
    """Indices of the k[g] smallest of every group, group by group, then put in order."""
    chosen = [np.empty(0, dtype=np.int64)]
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        quota = share(k, len(members)) if isinstance(k, float) else int(k[group])
        chosen.append(members[smallest_k(values[members], quota)])
    together = np.sort(np.concatenate(chosen))
    return (
        together
        if order == "index"
        else together[smallest_k(values[together], len(together), "value")]
    )


class Selector:
    """A MarginSelector that keeps (was it scored, margin) in the open."""

    def __init__(self, num_samples: int) -> None:
        self.scored = np.zeros(num_samples, dtype=bool)
        self.margins = np.full(num_samples, -np.inf, dtype=np.float32)

    def update(self, indices: Sequence[int], margins: Sequence[float]) -> None:
        fresh: dict[int, np.float32] = {}
        for index, value in zip(indices, np.asarray(margins, dtype=np.float32), strict=True):
            old = fresh.get(index)
            if old is None or np.isnan(old) or value < old:
                fresh[index] = value
        for index, value in fresh.items():
            self.scored[index] = True
            self.margins[index] = value

    def smallest(self, k: int) -> tuple[npt.NDArray[np.float32], Indices]:
        isnan = np.isnan(self.margins)
        keys = np.where(isnan, 0.0, self.margins)
        ranked = np.lexsort((np.arange(len(keys)), keys, isnan, self.scored))[:k]
        chosen = np.sort(ranked)
        return self.margins[chosen], chosen


# ------------------------------------------------------------------------------------ comparison


def bits(tensor: Tensor) -> Tensor:
    """The bit pattern of a floating tensor as integers, on the CPU."""
    flat = tensor.detach().cpu().contiguous()
    return flat.view(_BITS[flat.element_size()]) if flat.is_floating_point() else flat


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Same dtype, shape and every bit (so NaN equals NaN, and -0.0 differs from 0.0)."""
    return left.dtype == right.dtype and torch.equal(bits(left), bits(right))


def same_answer(left: Tensor, right: Tensor) -> bool:
    """Same dtype, shape and bits, where any NaN is as good as another."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    both_nan = left.isnan() & right.isnan()
    return same_bits(left.masked_fill(both_nan, 0), right.masked_fill(both_nan, 0))


def check(actual: Tensor, expected: Array, *, ulps: float = 0.0, floor: float = 0.0) -> None:
    """Asserts that a float tensor is within ulps * eps * max(|expected|, floor) of the expected.

    The expected values are first rounded to the tensor's dtype; NaN and infinities must stand at
    the same places. With `ulps` 0 the values must be equal (zeros of either sign are).
    """
    got = array(actual)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    with np.errstate(over="ignore"):
        rounded = expected.astype(np.float64 if actual.dtype == torch.float64 else np.float32)
    want = rounded.astype(np.float64)
    with np.errstate(invalid="ignore"):
        bound = ulps * torch.finfo(actual.dtype).eps * np.maximum(np.abs(want), floor)
        near = np.isfinite(want) & (np.abs(got - want) <= bound)
    good = (got == want) | (np.isnan(got) & np.isnan(want)) | near
    if not good.all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        raise AssertionError(
            f"{int((~good).sum())} of {good.size} wrong; first at {where}: "
            f"got {got[where]!r}, expected {want[where]!r}, bound {bound[where]!r}"
        )


def worst(actual: Tensor | Array, expected: Array) -> float:
    """Largest absolute error over the finite expected values; 0 for nothing to compare."""
    got = array(actual) if isinstance(actual, Tensor) else actual
    finite = np.isfinite(expected)
    return float(np.abs(got[finite] - expected[finite]).max(initial=0.0))


def check_selection(result: Any, values: Tensor, k: int | Indices, order: str = "index") -> None:
    """Asserts that a SmallestK is the exact selection of `values`, the input's own bits kept.

    `k`: how many, or the very indices that are wanted, in order.
    """
    want = smallest_k(array(values), k, order) if isinstance(k, int) else k
    got = result.indices.cpu().numpy()
    assert result.indices.dtype == torch.int64
    assert got.shape == want.shape, f"{len(got)} indices, expected {len(want)}"
    if not np.array_equal(got, want):
        place = int(np.flatnonzero(got != want)[0])
        raise AssertionError(
            f"index {place}: got {got[place]}, expected {want[place]} (k={len(want)})"
        )
    picked = values.detach().cpu()[torch.from_numpy(want)]
    assert same_bits(result.values, picked), "values are not the input's own bits"
