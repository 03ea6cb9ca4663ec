"""Selection from a stream: the share that is kept, windows, merging, resuming, two ranks."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection import StreamSelector
from dynams.selection.quantiles import (
    QuantileSketch,
    level_size,
    ordered_keys,
)
from margin_streams import (
    VALUES,
    Floats,
    ascending,
    in_batches,
    normal,
    shares,
    stream_of,
    streams,
)
from pages import python_blocks
from two_ranks import told_by_two


@given(streams, st.floats(0.05, 1.0), st.sampled_from([0.01, 0.1, 0.3]))
def test_the_share_that_is_kept_stays_within_the_tolerance_in_any_order(
    drawn: dict[str, Any], budget: float, tolerance: float
) -> None:
    _, batches = stream_of(drawn)
    selector = StreamSelector(budget, accuracy=0.1, tolerance=tolerance, seed=drawn["seed"])
    judged = kept = 0
    for batch in batches:
        warm = selector.known < selector.warmup
        mask = selector.keep(batch)
        assert mask.dtype == torch.bool
        assert mask.shape == batch.shape
        if warm:
            assert bool(mask.all())
            continue
        judged += len(batch)
        kept += int(mask.sum())
        assert abs(kept - budget * judged) <= tolerance * (judged + selector.warmup) + 1e-6
        assert selector.kept_share == kept / judged


@pytest.mark.parametrize("values", VALUES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("budget", [0.1, 0.6])
def test_a_stream_in_no_order_keeps_the_budget(
    values: Callable[[np.random.Generator, int], Floats], budget: float
) -> None:
    margins = values(np.random.default_rng(1), 60_000)
    selector = StreamSelector(budget, tolerance=1.0)
    masks = [selector.keep(batch) for batch in in_batches(margins, 256)]
    assert selector.kept_share == pytest.approx(budget, abs=selector.accuracy)
    # What is clearly smaller than the threshold is kept, what is clearly larger is not.
    warm = -(-selector.warmup // 256)
    kept = torch.cat(masks[warm:]).numpy()
    late = torch.from_numpy(margins[256 * warm :])
    order, _ = torch.sort(late)  # NaN last, as in selection
    low, high = (ordered_keys(order[[int((budget + by) * len(late))]]) for by in (-0.05, 0.05))
    keys = ordered_keys(late)
    assert np.all(kept[keys < low])
    assert not np.any(kept[keys > high])


def test_a_whole_budget_keeps_what_is_larger_than_all_that_came() -> None:
    selector = StreamSelector(1.0, warmup=10)
    selector.update(torch.zeros(100))
    assert bool(selector.keep(torch.tensor([1.0, math.inf, math.nan])).all())
    assert selector.kept_share == 1.0


def test_a_window_forgets_what_is_older() -> None:
    source = np.random.default_rng(0)
    forgetful = StreamSelector(0.5, window=8000, tolerance=1.0)
    for level in (0.0, 10.0, -5.0):
        for _ in range(60):
            forgetful.keep(torch.from_numpy(normal(source, 200) + np.float32(level)))
            assert forgetful.known <= 9000
        assert forgetful.known >= 8000
        assert forgetful.threshold == pytest.approx(level, abs=0.15)


@given(
    window=st.integers(1, 60),
    batches=st.lists(st.integers(0, 300), min_size=1, max_size=6),
    budget=st.floats(0.05, 1.0),
)
def test_a_window_is_of_the_last_margins_however_large_batches_are(
    window: int, batches: list[int], budget: float
) -> None:
    selector = StreamSelector(budget, accuracy=0.005, window=window)
    margins = normal(np.random.default_rng(0), sum(batches))
    end = 0
    for size in batches:
        selector.update(torch.from_numpy(margins[end : end + size]))
        end += size
        assert min(end, window) <= selector.known <= window + math.ceil(window / 8)
        if selector.known:
            # Nothing was halved, so that the quantile is exact: the least margin with so many at or below it.
            known = ascending(margins[end - selector.known : end])
            place = math.ceil(budget * len(known))
            assert selector.threshold == known[place - 1]


def test_the_sketch_of_a_window_is_exact_where_nothing_was_halved() -> None:
    margins = normal(np.random.default_rng(0), 5000)
    selector = StreamSelector(0.3, accuracy=0.001, window=800)
    for batch in in_batches(margins, 100):
        selector.update(batch)
    known = margins[-selector.known :]
    assert 800 <= selector.known <= 900
    assert selector.threshold == np.sort(known)[math.ceil(0.3 * len(known)) - 1]
    assert selector.rank_error == 0


@given(streams, st.integers(0, 40), st.sampled_from([None, 700]))
def test_a_resumed_stream_goes_on_as_if_there_had_been_no_break(
    drawn: dict[str, Any], at: int, window: int | None
) -> None:
    _, batches = stream_of({**drawn, "count": min(drawn["count"], 6000)})

    def made() -> StreamSelector:
        return StreamSelector(0.4, accuracy=0.2, window=window, seed=drawn["seed"])

    whole, first, second = made(), made(), made()
    expected = [whole.keep(batch) for batch in batches]
    for batch in batches[:at]:
        first.keep(batch)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    for batch, mask in zip(batches[at:], expected[at:], strict=True):
        assert torch.equal(second.keep(batch), mask)
    assert second.known == whole.known
    assert (second.threshold == whole.threshold) or math.isnan(whole.threshold or 0)


def test_a_state_goes_through_a_file_and_a_damaged_one_changes_nothing(tmp_path: Path) -> None:
    selector = StreamSelector(0.5, accuracy=0.05, window=4000)
    selector.keep(torch.randn(30_000, generator=torch.Generator().manual_seed(0)))
    torch.save(selector.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    StreamSelector(0.5, accuracy=0.05, window=4000).load_state_dict(state)
    fresh = StreamSelector(0.5, accuracy=0.05, window=4000)

    def damaged(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        bad = copy.deepcopy(state)
        change(bad)
        return bad

    for change, message in [
        (lambda s: s.pop("past"), "state: got no past, want all entries"),
        (lambda s: s.update(budget=0.4), "state: got budget=0.4, want 0.5"),
        (lambda s: s["counts"].pop("kept"), "state: got no kept, want all counts"),
        (lambda s: s["new"].pop("levels"), "sketch: got no levels, want all entries"),
        (lambda s: s["past"][0].update(count=7), "values in its levels, want 7"),
    ]:
        with pytest.raises(ValueError, match=message):
            fresh.load_state_dict(damaged(change))
        assert fresh.known == 0
        assert fresh.kept_share is None


@given(streams, st.integers(1, 7), st.sampled_from([None, 5000]))
def test_merged_selectors_know_what_each_knew(
    drawn: dict[str, Any], parts: int, window: int | None
) -> None:
    values, _ = stream_of(drawn)
    selectors = []
    for number, part in enumerate(np.array_split(values, parts)):
        selectors.append(StreamSelector(0.5, accuracy=0.1, window=window, seed=number))
        for batch in in_batches(part, 500):
            selectors[-1].keep(batch)
    first, *others = selectors
    for other in others:
        known = other.known
        first.merge(other)
        assert other.known == known
    if window is None:
        assert first.known == len(values)
        assert first.threshold is not None
        before, reached = shares(values, first.threshold)
        assert before - first.rank_error <= 0.5 <= reached + first.rank_error
        assert first.rank_error <= 0.1
    else:
        assert first.known >= min(window, len(values))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"budget": 0}, "budget: got 0, want a number in"),
        ({"accuracy": 0.6}, "accuracy: got 0.6, want a number in"),
        ({"tolerance": 0.0}, "tolerance: got 0.0, want a number in"),
        ({"warmup": -1}, "warmup: got -1, want at least 0"),
        ({"window": 0}, "window: got 0, want at least 1"),
        ({"together": 1}, "together: got 1, want True or False"),
    ],
)
def test_arguments_out_of_range_are_refused(given_: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        StreamSelector(**given_)


def test_margins_that_are_none_are_refused_and_change_nothing() -> None:
    selector = StreamSelector()
    for margins, message in [
        ([1.0], "margins: got list, want a floating point tensor"),
        (torch.arange(3), "margins: got torch.int64, want a floating point tensor"),
        (torch.zeros(2, 2), r"margins: got shape \(2, 2\), want \(B,\)"),
    ]:
        for call in (selector.keep, selector.update):
            with pytest.raises((TypeError, ValueError), match=message):
                call(margins)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="together=False, want together=True"):
        selector.agree()
    with pytest.raises(ValueError, match=r"accuracy: got 0.1 of the other selector, want 0.01"):
        selector.merge(StreamSelector(accuracy=0.1))
    assert selector.threshold is None
    assert selector.known == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_margins_of_other_types_and_with_gradients_are_taken(dtype: torch.dtype) -> None:
    selector = StreamSelector(0.5, warmup=1)
    selector.update(torch.arange(100, dtype=dtype))
    mask = selector.keep(torch.tensor([3.0, 90.0], dtype=dtype, requires_grad=True))
    assert mask.tolist() == [True, False]
    assert selector.keep(torch.zeros(0, dtype=dtype)).shape == (0,)


def _on_a_rank(rank: int, folder: Path) -> dict[str, Any]:
    """All that two ranks are asked, in one start of theirs."""
    source = np.random.default_rng(rank)
    told: dict[str, Any] = {"thresholds": [], "early": []}
    selector = StreamSelector(0.5, accuracy=0.05, window=20_000, together=True)
    seen = []
    for step in range(40):
        # Another distribution on each rank, an uneven share, and once none at all.
        count = 0 if (step, rank) == (6, 1) else 300 + 200 * rank
        batch = torch.from_numpy(normal(source, count) + np.float32(3 * rank))
        seen.append(batch)
        selector.keep(batch)
        told["early"].append(selector.known)
        if step % 5 == 4:
            selector.agree()
            told["thresholds"].append(selector.threshold)
    told |= {"seen": torch.cat(seen), "known": selector.known, "bound": selector.rank_error}
    told["sent"] = len(pickle.dumps(selector._told()))

    refused = []
    for arguments in ({"budget": 0.4 + rank / 10}, {"seed": rank}):
        other = StreamSelector(**{"budget": 0.5, "together": True, **arguments})
        refused.append(_refusal(other.agree))
    apart = StreamSelector(0.5, together=True)
    if rank:
        apart.load_state_dict(_with_a_past(apart))
    refused.append(_refusal(apart.agree))
    broken = StreamSelector(0.5, together=True)
    if rank:
        broken._new.size = "none"  # type: ignore[assignment]
    refused.append(_refusal(broken.agree))
    return {**told, "refused": refused}


def _with_a_past(selector: StreamSelector) -> dict[str, Any]:
    other = StreamSelector(0.5, together=True)
    sketch = QuantileSketch(level_size(other.accuracy), "past")
    sketch.update(np.arange(5, dtype=np.int32))
    other._past = [sketch]
    return other.state_dict()


def _refusal(call: Callable[[], None]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return told_by_two(_on_a_rank, tmp_path_factory.mktemp("two"))


def test_ranks_select_by_one_threshold_of_what_all_saw(two: list[dict[str, Any]]) -> None:
    assert two[0]["thresholds"] == two[1]["thresholds"]
    assert two[0]["early"][:4] == two[1]["early"][:4] == [0, 0, 0, 0]  # nothing before they agreed
    assert two[0]["known"] == two[1]["known"] >= 20_000
    seen = np.concatenate([each["seen"].numpy() for each in two])
    before, reached = shares(seen, two[0]["thresholds"][-1])
    # The window is of nearly all that came, in the same mixture.
    assert before - two[0]["bound"] - 0.02 <= 0.5 <= reached + two[0]["bound"] + 0.02


def test_ranks_send_a_few_kib(two: list[dict[str, Any]]) -> None:
    assert two[0]["sent"] < 8 * 1024


def test_ranks_that_differ_are_told_so_on_all(two: list[dict[str, Any]]) -> None:
    for told in two:
        budget, seed, past, _ = told["refused"]
        assert "budget: got 0.5 on rank 1 and 0.4 on rank 0" in budget
        assert "seed: got 1 on rank 1 and 0 on rank 0" in seed
        assert "past: got another past" in past
    assert "RuntimeError: rank 1 could not agree on a threshold" in two[0]["refused"][3]
    assert "TypeError" in two[1]["refused"][3]


def test_without_a_process_group_agreeing_takes_up_what_this_process_saw() -> None:
    selector = StreamSelector(0.5, warmup=0, together=True)
    selector.update(torch.arange(1000.0))
    assert selector.threshold is None
    assert bool(selector.keep(torch.full((5,), 5000.0)).all())
    selector.agree()
    assert selector.known == 1005
    assert selector.threshold == pytest.approx(502, abs=1)


def test_the_guide_runs_as_it_stands() -> None:
    names: dict[str, Any] = {}
    for block in python_blocks("docs/guides/streams.md"):
        exec(block, names)
        if "state" not in names:
            # Margins grow meanwhile: as far from the budget as the tolerance lets it be.
            assert 0.5 < names["selector"].kept_share < 0.7
    assert names["resumed"].known == names["selector"].known == 6400
