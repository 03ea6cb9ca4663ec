"""Processes of one attempt meet each other, and nobody of an attempt before, on a store that outlives them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from dynams.training import meeting
from dynams.training.meeting import agreed_name

SOON, LATE = timedelta(milliseconds=1), timedelta(seconds=30)


@pytest.fixture(scope="module", autouse=True)
def no_pause():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meeting, "_LOOK", 0.001)
        yield


def meet(store: dist.Store, size: int, attempt: int) -> None:
    """All come, and find in their part what their own first process wrote."""

    def come(rank: int) -> str:
        mine = dist.PrefixStore(agreed_name(store, rank, size, LATE), store)
        assert not mine.check([f"ended/{rank}"])
        mine.set(f"ended/{rank}", "lost")
        if rank == 0:
            mine.set("first", f"{attempt}")
        mine.wait(["first"], LATE)
        return mine.get("first").decode()

    with ThreadPoolExecutor(size) as pool:
        assert list(pool.map(come, range(size))) == [f"{attempt}"] * size


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sets(st.integers(0, 3)), st.integers(0, 2)), max_size=3
    ),
    st.integers(1, 4),
)
def test_those_who_came_in_vain_before_change_nothing(before, size):
    store = dist.HashStore()
    for attempt, (earlier, lost, holes) in enumerate(before):
        if not lost:
            meet(store, earlier, attempt)
        for rank in set(range(earlier)) - lost:
            if lost & set(range(earlier)):
                with pytest.raises(RuntimeError):
                    agreed_name(store, rank, earlier, SOON)
        for _ in range(holes):
            store.add("dynams/asked", 1)  # killed between two lines
    meet(store, size, 99)


def test_the_first_says_how_many_did_not_come():
    with pytest.raises(RuntimeError, match=r"2 of 3 processes did not come in 0:00:00\.001"):
        agreed_name(dist.HashStore(), 0, 3, SOON)
