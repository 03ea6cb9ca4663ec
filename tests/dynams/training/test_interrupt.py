"""Signals: the first asks, a second SIGINT stops at once, handlers come back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch
from training_runs import made_up_data, small_config

from dynams.training.entry import train
from dynams.training.interrupt import SIGNALS, Interrupt


@pytest.fixture(autouse=True)
def python_handlers() -> Iterator[None]:
    """Of every signal, whatever those who run the tests ignore."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_asks(number):
    with Interrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(number)
        assert interrupt.requested
        assert interrupt.signal is number


def test_a_second_sigint_stops_at_once():
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupt.signal is signal.SIGTERM


@pytest.mark.parametrize("number", SIGNALS)
def test_as_long_as_there_is_nothing_to_save_the_first_signal_stops_at_once(number):
    with Interrupt(nothing_to_save=True) as interrupt:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert interrupt.signal is number
    with Interrupt(nothing_to_save=True) as interrupt:
        interrupt.nothing_to_save = False
        signal.raise_signal(number)
        assert interrupt.requested


def go_on_after_a_signal(error: Exception, *, nothing_to_save: bool) -> None:
    """Swallow a signal, as torch's import of numpy does, and fail of it."""
    with Interrupt(nothing_to_save=True) as interrupt:
        interrupt.nothing_to_save = nothing_to_save
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise error


def test_what_comes_of_a_signal_that_was_swallowed_is_told_as_the_signal():
    error = RecursionError("half of numpy")
    with pytest.raises(KeyboardInterrupt) as told:
        go_on_after_a_signal(error, nothing_to_save=True)
    assert told.value.__cause__ is error
    with pytest.raises(RecursionError):
        go_on_after_a_signal(error, nothing_to_save=False)


def test_no_run_begins_after_a_signal_that_was_swallowed(tmp_path):
    with Interrupt(nothing_to_save=True) as interrupt:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            train(small_config(tmp_path), made_up_data(), interrupt=interrupt)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ignored", SIGNALS)
def test_what_is_ignored_stays_ignored(ignored):
    signal.signal(ignored, signal.SIG_IGN)
    with Interrupt() as interrupt:
        signal.raise_signal(ignored)
        assert not interrupt.requested
        other = next(number for number in SIGNALS if number != ignored)
        signal.raise_signal(other)
        assert interrupt.signal is other
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_the_previous_handlers_come_back():
    mine = {number: lambda *_: None for number in SIGNALS}
    for number, handler in mine.items():
        signal.signal(number, handler)
    with Interrupt():
        assert all(signal.getsignal(number) is not mine[number] for number in SIGNALS)
    assert {number: signal.getsignal(number) for number in SIGNALS} == mine


def test_outside_the_main_thread_it_can_still_be_asked():
    seen = []

    def work() -> None:
        with Interrupt() as interrupt:
            interrupt.request()
            seen.append(interrupt.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_first_step_that_has_to_be_compiled_is_not_waited_for(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    config = small_config(
        tmp_path,
        run={"compile": compiled},
        selection={"warmup_epochs": 0},
        optim={"epochs": 2},
    )
    found = []
    with Interrupt(nothing_to_save=True) as interrupt:
        train(
            config,
            made_up_data(),
            interrupt=interrupt,
            on_refresh=lambda *_: found.append(interrupt.nothing_to_save),
        )
    assert found == [compiled, False]
