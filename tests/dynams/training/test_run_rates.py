"""Rates of a logged run, by hand and as the inverse of a prediction."""

from __future__ import annotations

import pytest

from dynams.cost.forecast import Outline, estimate
from dynams.cost.rates import Work, measured
from dynams.report.records import EpochRecord, RefreshRecord, Run, Summary
from dynams.selection import constant
from dynams.selection.timetable import Timetable
from dynams.training.run_cost import rates_of


def _run(*, completed: bool = True, share: float = 1.0, tail: float = 0.0) -> Run:
    """Four epochs, selected in 1 and 3; in the last one the proxy rests."""

    def epoch(number: int, samples: int, scoring: float) -> EpochRecord:
        proxied = 0 if number == 3 else samples
        seconds = {"training": samples * 2e-3, "proxy loss": proxied * 5e-4, "scoring": scoring}
        seconds |= {"data": samples * 1e-3, "selection": 0.25 if scoring else 0.0}
        seconds |= {"evaluation": 0.5 if number % 2 else 0.0}
        accuracy = 0.9 if number % 2 else None
        return EpochRecord(
            epoch=number,
            loss=1.0,
            proxy_loss=1.0 if proxied else None,
            lr=0.1,
            budget=samples / 1000,
            samples=samples,
            steps=10,
            accuracy=accuracy,
            proxy_accuracy=None,
            seconds=seconds,
        )

    refreshes = [RefreshRecord(at, 600, 0.5, None, [], [], [], []) for at in (1, 3)]
    epochs = [epoch(0, 1000, 0.0), epoch(1, 600, 0.2), epoch(2, 600, 0.0), epoch(3, 600, 0.2)]
    explained = sum(sum(record.seconds.values()) for record in epochs)
    summary = Summary(0.9, None, 0.5, 4, 2800, 40, {}, explained + 3.0, completed, "run")
    config = {
        "proxy": {"every": 4, "share": share},
        "selection": {"tail": tail},
        "optim": {"epochs": 4},
    }
    return Run(config, {}, epochs, refreshes, summary)


def test_rates_of_a_logged_run_by_hand() -> None:
    rates = rates_of(_run(), num_samples=1000)
    assert rates.training == pytest.approx(2e-3)
    assert rates.data == pytest.approx(1e-3)
    assert rates.proxy_loss == pytest.approx(4 * 5e-4)  # every fourth sample trained it
    assert rates.scoring == pytest.approx(2e-4)
    assert rates.selection == pytest.approx(0.25)
    assert rates.evaluation == pytest.approx(0.5)
    assert rates.run == pytest.approx(3.0)
    assert rates_of(_run(completed=False), num_samples=1000).run == 0.0


def test_a_proxy_that_trains_on_part_of_each_batch_costs_as_much_more_a_sample() -> None:
    rates = rates_of(_run(share=0.5), num_samples=1000)
    assert rates.proxy_loss == pytest.approx(8 * 5e-4)


def test_going_back_to_all_samples_is_no_selection() -> None:
    # 0.5 s in all for the refresh of epoch 1 alone: that of epoch 3 begins the tail.
    assert rates_of(_run(tail=0.25), num_samples=1000).selection == pytest.approx(0.5)


def test_rates_of_a_logged_run_predict_that_run() -> None:
    run = _run()
    times = Timetable(constant(0.6), epochs=4, refresh_every=2, warmup_epochs=1)
    outline = Outline(1000, times, proxy_share=0.25, evaluate_every=2)
    assert run.summary is not None
    predicted = estimate(outline, rates_of(run, num_samples=1000))
    assert predicted.total == pytest.approx(run.summary.total_seconds)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"work\.trained: got 0, want at least one"):
        rates_of(Run(), num_samples=10)
    with pytest.raises(ValueError, match=r"^scoring: got 1 s, want none where there was no work"):
        measured({"training": 1.0, "scoring": 1.0}, Work(1, 0, 0, 0, 0, 1))
