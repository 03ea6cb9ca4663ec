"""What is reported of the times; how long anything takes is not tested."""

from __future__ import annotations

import pytest
import torch

from dynams.bench import BenchConfig, measure
from dynams.bench.timing import _in_turn, _speedup


def test_a_speed_up_is_the_median_of_the_rounds_ratios():
    # The ratio of the medians would be 3.
    assert _speedup([1.0, 2.0, 4.0], [6.0, 4.0, 8.0]) == 2.0


def test_calls_take_turns_round_by_round():
    called: list[str] = []

    def slow(name: str):
        def call() -> None:
            called.append(name)
            torch.randn(400, 400).mm(torch.randn(400, 400))

        return call

    seconds = _in_turn([slow("a"), slow("b")], 4)
    assert [len(times) for times in seconds] == [4, 4]
    assert all(passed > 0 for times in seconds for passed in times)
    turns = [name for i, name in enumerate(called) if i == 0 or called[i - 1] != name]
    assert turns == ["a", "b"] * 5


def test_threads_are_the_asked_ones_and_then_those_before():
    before = torch.get_num_threads()
    seen = []
    config = BenchConfig(kernel="margin", rows=4, classes=3, rounds=1, device="cpu", threads=1)
    found = measure(config, lambda text: seen.append(torch.get_num_threads()))
    assert found.environment["threads"] == 1
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_what_is_about_to_be_timed_is_said():
    said: list[str] = []
    config = BenchConfig(kernel="smallest_k", samples=10, rounds=1, device="cpu")
    found = measure(config, said.append)
    assert said == ["a copy", "smallest_k, 6 of 10"]
    assert found.results[0].seconds > 0
    assert found.copy_bytes_per_second > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"device: got cuda, want a device that is there"):
        measure(BenchConfig(device="cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_kernel_is_timed_on_a_gpu():
    small = BenchConfig(rows=64, classes=9, features=32, samples=1000, rounds=2, device="cuda")
    found = measure(small)
    assert str(found.environment["device"]).startswith("cuda")
    assert len(found.results) == 8
    assert all(result.seconds > 0 for result in found.results)
