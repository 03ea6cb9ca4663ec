"""Streams of margins: values of several kinds in orders that are hard for a sketch, in batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 3.0e38, -3.0e38, 1.0, 2.0]


def ascending(values: Floats) -> Floats:
    return np.sort(values)


def descending(values: Floats) -> Floats:
    return np.sort(values)[::-1].copy()


def from_both_ends(values: Floats) -> Floats:
    ordered = np.sort(values)
    mixed = np.empty_like(ordered)
    mixed[0::2], mixed[1::2] = (
        ordered[: (len(ordered) + 1) // 2],
        ordered[::-1][: len(ordered) // 2],
    )
    return mixed


def in_blocks(values: Floats) -> Floats:
    blocks = np.array_split(np.sort(values), 7)
    return np.concatenate([blocks[place] for place in (3, 0, 6, 1, 5, 2, 4)])


def as_it_comes(values: Floats) -> Floats:
    return values


ORDERS = [ascending, descending, from_both_ends, in_blocks, as_it_comes]


def normal(source: np.random.Generator, count: int) -> Floats:
    return source.standard_normal(count, dtype=np.float32)


def few_distinct(source: np.random.Generator, count: int) -> Floats:
    return source.integers(0, 4, count).astype(np.float32)


def one_value(source: np.random.Generator, count: int) -> Floats:
    return np.full(count, 0.5, dtype=np.float32)


def special(source: np.random.Generator, count: int) -> Floats:
    return np.where(
        source.random(count) < 0.5,
        source.choice(np.array(SPECIAL, dtype=np.float32), count),
        normal(source, count),
    ).astype(np.float32)


VALUES = [normal, few_distinct, one_value, special]


def shares(values: Floats, threshold: float) -> tuple[float, float]:
    """Which share is before, and which at or before, a threshold, in the total order."""
    if math.isnan(threshold):
        return float(np.mean(~np.isnan(values))), 1.0
    return float(np.mean(values < threshold)), float(np.mean(values <= threshold))


def in_batches(values: Floats, size: int) -> list[Tensor]:
    return list(torch.from_numpy(values).split(size))


streams = st.fixed_dictionaries(
    {
        "values": st.sampled_from(VALUES),
        "order": st.sampled_from(ORDERS),
        "count": st.integers(1, 30_000),
        "batch": st.integers(1, 4000),
        "seed": st.integers(0, 2**32),
    }
)


def stream_of(drawn: dict[str, Any]) -> tuple[Floats, list[Tensor]]:
    source = np.random.default_rng(drawn["seed"])
    values = drawn["order"](drawn["values"](source, drawn["count"]))
    return values, in_batches(values, max(drawn["batch"], drawn["count"] // 200))
