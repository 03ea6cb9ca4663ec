"""Processes hear of each other where each is; one that does not come on is named."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch.distributed as dist

from dynams.training import heartbeat
from dynams.training.heartbeat import BEFORE, Heartbeat, RunPlace, place
from dynams.training.launched import Launched
from faults import wait_for

LONG = 1000.0


def launched(rank: int, port: int, by: str = "torchrun") -> Launched:
    return Launched(by, rank, 2, rank, 2, "127.0.0.1", port)


@pytest.fixture
def pair(monkeypatch) -> Iterator[tuple[Heartbeat, Heartbeat]]:
    """Those of two processes, which have heard each other."""
    monkeypatch.setattr(heartbeat, "_INTERVAL", 0.02)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(Heartbeat(launched(rank, store.port), "run", LONG))
            for rank in (0, 1)
        )
        wait_for(lambda: first.number_of(1) and second.number_of(0))
        yield first, second


def heard_at(place: RunPlace, rank: int, *beats: Heartbeat) -> None:
    """Wait until all of them have heard where a process is."""
    wait_for(lambda: all(each._seen[rank].place == place for each in beats))


def pass_long(*beats: Heartbeat) -> None:
    """Let it seem long since anything was heard."""
    for each in beats:
        each.excuse(-2 * LONG)


def test_who_is_behind_and_stays_there_hangs(pair):
    first, second = pair
    first.place = second.place = place(2, "training", 4)
    for rank in (0, 1):
        heard_at(place(2, "training", 4), rank, first, second)
    pass_long(first)
    wait_for(lambda: first.hung() == {})  # both are heard, and at one place: they compute
    first.place = place(2, "training", 6)
    pass_long(second)
    wait_for(lambda: second.hung() == {1: "epoch 3, step 2"})
    second.place = place(2, "evaluation", 0)
    wait_for(lambda: 1 not in second.hung())


def test_who_is_heard_no_more_hangs(pair):
    first, second = pair
    second.__exit__(None, None, None)
    heard = int(first._seen[0].beats)
    # Until then the other's last may be under way.
    wait_for(lambda: int(first._seen[0].beats) > heard + 1)
    pass_long(first)
    wait_for(lambda: first.hung() == {1: "before the first epoch"})
    first.excuse(2 * LONG)  # it was this process that was stopped
    assert first.hung() == {}


def test_who_loads_data_keeps_nobody_from_waiting(pair):
    first, second = pair
    first.place = place(0, "scoring")
    heard_at(first.place, 0, first)
    assert second.place == BEFORE
    pass_long(first)
    wait_for(lambda: first.hung() == {})


@pytest.mark.parametrize(("by", "named"), [("dynams", [0]), ("srun", [0]), ("torchrun", [])])
def test_where_nobody_answers_the_keeper_of_the_store_hangs(by, named):
    silent = Heartbeat(launched(1, 1, by), "run", LONG)
    pass_long(silent)
    assert silent.hung() == {}  # it never heard anything: it has not come so far
    assert not silent.unanswered()
    silent._heard = time.monotonic()
    pass_long(silent)
    assert list(silent.hung()) == named
    assert silent.unanswered()  # so that a machine that is cut off does not wait for ever


def test_places_come_in_the_order_of_a_run():
    run = [
        BEFORE,
        place(0, "holdout model", 7),
        place(0, "scoring"),
        place(0, "training", 3),
        place(0, "evaluation"),
        place(1, "scoring", 2),
        place(1, "training", 0),
    ]
    assert run == sorted(run)
    assert str(run[3]) == "epoch 1, step 2"
    assert str(run[5]) == "epoch 2, batch 3 of the scoring"


def test_who_ends_waits_for_the_request_that_is_under_way(monkeypatch):
    done = threading.Event()

    def beat(self: Heartbeat) -> None:
        self._over.wait()
        time.sleep(0.1)
        done.set()

    monkeypatch.setattr(Heartbeat, "_beat", beat)
    with Heartbeat(launched(0, 1), "run", LONG):
        assert not done.is_set()
    assert done.is_set()
