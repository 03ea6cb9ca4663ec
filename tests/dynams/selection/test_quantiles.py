"""The sketch of a stream: keys in the total order, and its error bound for any order of what came."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from dynams.selection.quantiles import (
    QuantileSketch,
    cut,
    level_size,
    margin_of,
    ordered_keys,
    rank_error,
)
from margin_streams import (
    SPECIAL,
    shares,
    stream_of,
    streams,
)


@given(st.lists(st.one_of(st.sampled_from(SPECIAL), st.floats(width=32))))
def test_keys_are_in_the_total_order(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    keys = ordered_keys(torch.from_numpy(array))
    order = oracle.smallest_k(array, len(array), order="value")
    assert list(np.argsort(keys, kind="stable")) == list(order)
    back = np.array([margin_of(int(key)) for key in keys], dtype=np.float32)
    np.testing.assert_array_equal(back, array)
    assert len(np.unique(keys)) == len(np.unique(array + np.float32(0)))


def test_every_nan_is_the_same_and_last() -> None:
    patterns = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000], np.uint32)
    keys = ordered_keys(torch.from_numpy(patterns.view(np.float32)))
    assert len(set(keys[:4])) == 1
    assert keys[4] < keys[0]


@given(streams, st.floats(0.01, 1.0), st.sampled_from([0.02, 0.1, 0.5]))
def test_a_rank_errs_by_no_more_than_what_was_counted(
    drawn: dict[str, Any], share: float, accuracy: float
) -> None:
    values, batches = stream_of(drawn)
    sketch = QuantileSketch(level_size(accuracy), f"{drawn['seed']}")
    for batch in batches:
        sketch.update(ordered_keys(batch))
    key, part = cut([sketch], share)
    before, reached = shares(values, margin_of(key))
    bound = rank_error([sketch])
    assert bound <= accuracy
    assert before - bound <= share <= reached + bound
    # A share of the ties that fills what is wanted up.
    assert 0 < part <= 1
    # Every key stands for itself where nothing was halved.
    if bound == 0:
        assert before < share <= reached + 1e-9
        assert part == pytest.approx((share - before) / (reached - before), abs=1e-6)


@given(
    st.lists(st.lists(st.integers(1, 3000), max_size=12), min_size=1, max_size=6),
    st.sampled_from([16, 80, 300]),
)
def test_no_sketch_holds_more_or_errs_more_than_its_size_says(
    parts: list[list[int]], size: int
) -> None:
    source = np.random.default_rng(0)
    merged = QuantileSketch(size, "merged")
    sketches = []
    for number, counts in enumerate(parts):
        sketch = QuantileSketch(size, f"{number}")
        for count in counts:
            sketch.update(source.integers(-9, 9, count).astype(np.int32))
        sketches.append(sketch)
    merged.merge(sketches)
    merged.merge([])
    for sketch in [merged, *sketches]:
        sketch.shrink()
        assert sketch.variance <= 6 * (sketch.count / size) ** 2
        held = sum(sketch.state_dict()["levels"])
        assert held <= 3 * size + 9 * len(sketch.state_dict()["levels"])
    assert merged.count == sum(map(sum, parts))


def test_errors_are_as_likely_up_as_down_and_as_large_as_counted() -> None:
    ordered = np.arange(40_000, dtype=np.int32)
    errors = []
    for seed in range(200):
        sketch = QuantileSketch(40, f"{seed}")
        for keys in np.array_split(ordered, 100):
            sketch.update(keys)
        packed = sketch.packed()
        weights = 1 << (packed & 63)
        errors.append(int(weights[packed >> 6 < 17_321].sum()) - 17_321)
    deviation = math.sqrt(sketch.variance)
    assert abs(np.mean(errors)) < 3 * deviation / math.sqrt(200)
    assert 0.1 * deviation < np.std(errors) <= deviation
    assert np.mean(np.abs(errors) > rank_error([sketch]) * 40_000) <= 0.01
