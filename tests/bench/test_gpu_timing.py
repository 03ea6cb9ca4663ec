"""The statistics behind GPU times, which need no GPU, and what is timed on one."""

from __future__ import annotations

import signal
import time

import pytest
import torch

from gpu import timing


def test_sets_pass_the_cache_four_times() -> None:
    cache = 50_000_000
    for size in (800_000, 5_000_000, 60_000_000, 262_000_000):
        sets = timing.sets_beyond_cache(size, cache)
        assert sets * size >= 4 * cache
        assert (sets - 1) * size < 4 * cache or sets == 2


def test_tiny_inputs_have_a_limit_and_huge_ones_need_no_company() -> None:
    assert timing.sets_beyond_cache(1, 50_000_000) == timing.MOST_SETS
    assert timing.sets_beyond_cache(1_000_000_000, 50_000_000) == 1
    assert timing.sets_beyond_cache(999_999_999, 50_000_000) == 2


@pytest.mark.parametrize("seconds", [1e-7, 3e-6, 2.5e-4, 1e-3, 0.5])
def test_a_sample_lasts_a_millisecond_or_a_thousand_repeats(seconds: float) -> None:
    repeats = timing.repeats_for(seconds)
    assert repeats * seconds >= timing.LEAST_SAMPLE or repeats == 1000
    assert repeats == 1 or (repeats - 1) * seconds < timing.LEAST_SAMPLE


def test_a_speedup_is_the_median_of_the_rounds_ratios() -> None:
    # The machine was three times slower in the last round, for both alike.
    assert timing.speedup([1.0, 1.0, 3.0], [2.0, 2.0, 6.0]) == 2.0
    # One disturbed sample of either side does not count.
    assert timing.speedup([1.0, 9.0, 1.0], [2.0, 2.0, 2.0]) == 2.0


def test_samples_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        timing.speedup([1.0], [1.0, 2.0])


def test_the_clock_stands_still_but_for_what_it_is_told() -> None:
    clock = timing.ManualClock()
    assert clock() == clock() == 0.0
    clock.advance(0.25)
    clock.advance(0.5)
    assert clock() == 0.75


def test_a_peer_that_is_not_ready_in_time_is_given_up() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with (
        pytest.raises(TimeoutError, match=r"a peer: not ready after 0\.05 s"),
        timing.time_limit(0.05, "a peer"),
    ):
        time.sleep(5)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def test_an_error_becomes_one_short_line() -> None:
    assert timing.first_line(ValueError("bad\nworse")) == "ValueError: bad"
    assert timing.first_line(KeyError()) == "KeyError: "
    assert len(timing.first_line(RuntimeError("x" * 999))) == 160


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.gpu
@needs_gpu
def test_what_waits_for_the_device_is_timed_by_events_and_spoils_nothing() -> None:
    values = torch.randn(1000, device="cuda")
    timed = timing.Timed([lambda: values.sum().item()])
    assert timed.how.startswith("events: no graph of it")
    assert timed.seconds() > 0
    assert torch.randn(5, device="cuda").isfinite().all()
    assert timing.Timed([lambda: values.sum()]).how == "graph"


@pytest.mark.gpu
@needs_gpu
def test_random_numbers_can_be_drawn_behind_a_capture_that_failed() -> None:
    def fails_in_a_capture() -> None:
        torch.randn(3, device="cuda")
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("not in a graph")

    timed = timing.Timed([fails_in_a_capture])
    assert timed.how == "events: no graph of it (RuntimeError: not in a graph)"
    assert torch.randn(5, device="cuda").isfinite().all()
