"""Choosing inside a step: the extreme of a batch against NumPy's stable sort, and what a filter remembers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import BatchSelection, build_strategy
from dynams.selection.methods import (
    BatchLoss,
    BatchMargin,
    BatchRhoLoss,
    Filter,
    hardest_mask,
    smallest_margins_mask,
)
from strategy_inputs import generator, signals

FLOATS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, -math.inf, math.nan, 1e-30])


def kept_by_numpy(values: list[float], size: int, sign: float) -> np.ndarray:
    """The `size` smallest of sign * value, NaN last, ties by index."""
    keys = sign * np.array(values, dtype=np.float64) + 0.0
    mask = np.zeros(len(values), dtype=bool)
    mask[np.lexsort((np.arange(len(values)), keys, np.isnan(keys)))[:size]] = True
    return mask


@given(values=st.lists(FLOATS, max_size=20), data=st.data())
def test_a_mask_has_the_extreme_values(values: list[float], data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(values)))
    tensor = torch.tensor(values, dtype=torch.float32)
    for function, sign in ((smallest_margins_mask, 1.0), (hardest_mask, -1.0)):
        mask = function(tensor, size)
        assert mask.dtype == torch.bool
        assert np.array_equal(mask.numpy(), kept_by_numpy(values, size, sign))


@pytest.mark.parametrize("function", [smallest_margins_mask, hardest_mask])
def test_more_than_the_batch_is_refused(function) -> None:
    with pytest.raises(ValueError, match="size: got 4, want at most 3"):
        function(torch.zeros(3), 4)


@given(count=st.integers(1, 40), ratio=st.floats(0.01, 1.0), seed=st.integers(0, 99))
def test_a_strategy_keeps_the_nearest_number_of_its_score(count: int, ratio: float, seed: int):
    known = signals(count, seed=seed)
    size = max(1, min(count, math.floor(ratio * count + 0.5)))
    for strategy, score, sign in (
        (BatchLoss(ratio), known.score("loss"), -1.0),
        (BatchMargin(ratio, "label"), known.score("label"), 1.0),
        (BatchMargin(ratio, "distance"), known.score("distance"), 1.0),
        (Filter(ratio), known.score("loss"), -1.0),
        (BatchRhoLoss(ratio), known.score("loss") - known.score("irreducible_loss"), -1.0),
    ):
        kept = strategy.keep(known, progress=0.0, generator=generator())
        assert kept.count == size
        assert kept.weights is None
        assert np.array_equal(kept.mask.numpy(), kept_by_numpy(score.tolist(), size, sign))


def test_a_filter_replays_what_it_was_given_and_saves_it() -> None:
    made = build_strategy("filter", ratio=0.25, channels=[8, 16], depth=3)
    assert isinstance(made, Filter)
    assert (made.channels, made.depth, made.rows) == ((8, 16), 3, None)
    with pytest.raises(RuntimeError, match="choices: got None, want the small network trained"):
        made.replay(0, 0, 4)
    made.choices = torch.tensor([[1, 0, 0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1, 0, 0]]).bool()
    saved = made.state_dict()
    again = Filter(ratio=0.25)
    again.load_state_dict(saved)
    made.choices[:] = False  # copies
    kept = again.replay(1, 4, 8)
    assert isinstance(kept, BatchSelection)
    assert kept.mask.tolist() == [False, True, False, False]
    assert kept.count == 1
    assert kept.indices.tolist() == [1]
    again.load_state_dict(Filter().state_dict())
    assert again.rows is None
    with pytest.raises(ValueError, match="state: got no choices"):
        again.load_state_dict({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "ratio: got 0.0, want a number in"),
        ({"every": 0}, "every: got 0, want at least 1"),
        ({"depth": 0}, "depth: got 0, want at least 1"),
        ({"channels": [8, 0]}, "channels: got 0, want at least 1"),
    ],
)
def test_a_filter_refuses_what_is_out_of_range(options, message) -> None:
    with pytest.raises(ValueError, match=rf"^filter\.{message}"):
        build_strategy("filter", **options)
    with pytest.raises(TypeError, match=r"^filter\.channels: got 8, want a list"):
        build_strategy("filter", channels=8)
