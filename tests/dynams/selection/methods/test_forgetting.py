"""Forgetting events are the changes from right to wrong between visits of one sample."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.selection.methods import ForgettingEvents

# One visit: which samples were in the batch, and which of them were right.
visits = st.lists(
    st.dictionaries(st.integers(0, 4), st.booleans(), min_size=1, max_size=5), max_size=20
)


def feed(events: ForgettingEvents, history: list[dict[int, bool]]) -> None:
    for visit in history:
        events.update(torch.tensor(list(visit)), torch.tensor(list(visit.values())))


def test_by_hand() -> None:
    events = ForgettingEvents(5)
    for correct in ([1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0]):
        events.update(torch.arange(4), torch.tensor(correct, dtype=torch.bool))
    assert events.events.tolist() == [2, 0, 0, 1, 0]
    # Forgotten twice; never right; never forgotten; once; never seen.
    assert events.scores().tolist() == [2.0, torch.inf, 0.0, 1.0, torch.inf]
    assert events.correct.tolist() == [False, False, True, False, False]


@given(visits)
def test_events_of_each_sample_follow_from_its_own_visits(history: list[dict[int, bool]]) -> None:
    events = ForgettingEvents(5)
    feed(events, history)
    for sample, score in enumerate(events.scores().tolist()):
        own = [visit[sample] for visit in history if sample in visit]
        falls = sum(now and not then for now, then in itertools.pairwise(own))
        assert score == (falls if any(own) else np.inf)


@given(visits, st.integers(0, 20))
def test_a_resumed_count_goes_on(history: list[dict[int, bool]], cut: int) -> None:
    whole, before, after = (ForgettingEvents(5) for _ in range(3))
    feed(whole, history)
    feed(before, history[:cut])
    buffer = io.BytesIO()
    torch.save(before.state_dict(), buffer)
    buffer.seek(0)
    after.load_state_dict(torch.load(buffer, weights_only=True))
    feed(after, history[cut:])
    assert torch.equal(after.scores(), whole.scores())


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    events = ForgettingEvents(3)
    with pytest.raises(TypeError, match=r"correct: got torch\.int64, want torch\.bool"):
        events.update(torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(
        ValueError, match=r"indices and correct: got shapes \(2,\) and \(1,\), want"
    ):
        events.update(torch.tensor([0, 1]), torch.tensor([True]))
    with pytest.raises(ValueError, match="state: got no correct, want"):
        events.load_state_dict({"events": torch.ones(3, dtype=torch.int32)})
    with pytest.raises(
        ValueError, match=r"state: got events of torch\.int32 \(4,\), want torch\.int32 \(3,\)"
    ):
        events.load_state_dict(ForgettingEvents(4).state_dict())
    assert events.events.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="num_samples: got -1, want at least 0"):
        ForgettingEvents(-1)
