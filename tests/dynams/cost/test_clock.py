"""Cost: seconds and samples by purpose, from a clock and from events."""

from __future__ import annotations

import pytest
import torch

from dynams.cost import PURPOSES, Clock
from dynams.cost import clock as clock_module


class FakeClock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class FakeDevice:
    """A device that runs behind the host: events are reached when `finish` is called."""

    def __init__(self) -> None:
        self.now = 0.0  # milliseconds
        self.reached = 0
        self.events: list[FakeEvent] = []
        self.waits = 0

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def finish(self) -> None:
        self.reached = len(self.events)


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device

    def record(self) -> None:
        self.time = self.device.now
        self.device.events.append(self)

    def query(self) -> bool:
        return self.device.events.index(self) < self.device.reached

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.finish()

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.query(), "read before the device passed it"
        assert end.query(), "read before the device passed it"
        return end.time - self.time


@pytest.fixture
def clock(monkeypatch):
    fake = FakeClock()
    monkeypatch.setattr(clock_module, "time", fake)
    return fake


def seconds_of(cost: Clock) -> dict[str, float]:
    return {name: value for name, value in cost.seconds().items() if value}


def test_an_inner_purpose_pauses_the_outer_one(clock):
    cost = Clock()
    with cost.measure("selection"):
        clock.now += 1.0
        with cost.measure("scoring"):
            clock.now += 2.0
        clock.now += 4.0
    clock.now += 8.0
    assert seconds_of(cost) == {"selection": 5.0, "scoring": 2.0}


def test_a_switch_moves_the_boundary_inside_a_block(clock):
    cost = Clock()
    with cost.measure("training", 10):
        clock.now += 1.0
        cost.count("proxy loss", 10)
        cost.switch("proxy loss")
        clock.now += 2.0
        cost.switch("training")
        clock.now += 4.0
    assert seconds_of(cost) == {"training": 5.0, "proxy loss": 2.0}
    assert cost.samples["training"] == cost.samples["proxy loss"] == 10


def test_an_estimated_share_goes_to_the_other_purpose(clock):
    cost = Clock()
    with cost.measure("training", of_which={"proxy loss": 0.25}):
        clock.now += 4.0
    assert seconds_of(cost) == {"training": 3.0, "proxy loss": 1.0}


def test_time_counts_even_when_the_block_raises(clock):
    cost = Clock()

    def fail() -> None:
        with cost.measure("data", 3):
            clock.now += 1.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now += 1.0
    assert seconds_of(cost) == {"data": 1.0}
    assert cost.samples["data"] == 3


def test_laps_add_up_to_the_whole(clock):
    cost = Clock()
    laps = []
    for passed in (1.0, 2.0, 4.0):
        with cost.measure("training"):
            clock.now += passed
        laps.append(cost.lap()["training"])
    assert laps == [1.0, 2.0, 4.0]
    assert cost.seconds()["training"] == 7.0
    assert tuple(cost.seconds()) == PURPOSES


def test_a_restored_cost_goes_on_counting(clock):
    first = Clock()
    with first.measure("training", 5):
        clock.now += 1.0
    first.lap()
    with first.measure("training", 5):
        clock.now += 2.0
    second = Clock()
    second.load_state_dict(first.state_dict())
    with second.measure("training", 5):
        clock.now += 4.0
    assert second.samples["training"] == 15
    assert second.lap()["training"] == 6.0
    assert second.seconds()["training"] == 7.0


def test_unknown_purposes_are_refused():
    cost = Clock()
    with (
        pytest.raises(ValueError, match="purpose: got 'tea', want one of training"),
        cost.measure("tea"),
    ):
        pass
    shares = {"tea": 0.5}
    with pytest.raises(ValueError, match="purpose"), cost.measure("data", of_which=shares):
        pass
    with pytest.raises(RuntimeError, match="nothing is being measured"):
        cost.switch("training")


def test_events_are_read_without_waiting_until_a_lap():
    device = FakeDevice()
    cost = Clock(new_event=device.event)
    for _ in range(200):
        with cost.measure("data"):
            device.now += 1.0
        with cost.measure("training"):
            device.now += 3.0
        device.now += 0.5
    assert device.waits == 0
    lap = cost.lap()
    assert device.waits == 1
    assert lap["data"] == pytest.approx(0.2)
    assert lap["training"] == pytest.approx(0.6)


def test_events_already_passed_do_not_pile_up():
    device = FakeDevice()
    cost = Clock(new_event=device.event)
    longest = 0
    for _ in range(300):
        with cost.measure("training"):
            device.now += 2.0
        device.finish()
        longest = max(longest, len(cost._timeline._marks))
    assert longest <= 70
    assert cost.seconds()["training"] == pytest.approx(0.6)


def test_marks_nest_with_events_as_with_the_clock():
    device = FakeDevice()
    cost = Clock(new_event=device.event)
    with cost.measure("selection"):
        device.now += 1000.0
        with cost.measure("scoring"):
            device.now += 2000.0
        device.now += 4000.0
        cost.switch("training")
        device.now += 8000.0
    assert seconds_of(cost) == {"selection": 5.0, "scoring": 2.0, "training": 8.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_time_is_the_device_time():
    cost = Clock("cuda")
    matrix = torch.randn(2048, 2048, device="cuda")
    with cost.measure("training"):
        for _ in range(20):
            matrix = matrix @ matrix * 1e-3
    assert cost.lap()["training"] > 0.0
