from __future__ import annotations

import errno
import io
import math
import re

import pytest

from dynams.report import TrainingProgress

rich_console = pytest.importorskip("rich.console")


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plain():
    return rich_console.Console(file=io.StringIO(), force_terminal=False, width=60)


@pytest.fixture
def terminal():
    return rich_console.Console(
        file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False, _environ={}
    )


def written(console) -> str:
    return console.file.getvalue()


def test_without_a_terminal_each_epoch_is_a_plain_line_and_the_rest_below_it(
    plain, clock, epoch_record
):
    with TrainingProgress(3, plain, clock_source=clock) as progress:
        for epoch in range(3):
            progress.epoch(epoch, 1000, "scoring")
            progress.advance(1000)
            progress.epoch(epoch, 600)
            for _ in range(6):
                clock.now += 1.0
                progress.advance(100, loss=1.5)
            progress.finish_epoch(epoch_record(epoch))
    lines = written(plain).splitlines()
    assert lines == [
        "epoch 1/3  loss 2.000  accuracy 50.00 %  9.88 s  0:12 left",
        "  proxy loss 2.500  proxy 45.00 %  600 samples",
        "epoch 2/3  loss 1.000  accuracy 51.00 %  9.88 s  0:06 left",
        "  proxy loss 1.250  proxy 46.00 %  600 samples",
        "epoch 3/3  loss 0.6667  accuracy 52.00 %  9.88 s  0:00 left",
        "  proxy loss 0.8333  proxy 47.00 %  600 samples",
    ]


@pytest.mark.parametrize(("columns", "width"), [(None, 60), ("40", 40), ("200", 200)])
def test_without_a_terminal_lines_fit_60_columns_or_as_many_as_COLUMNS_says(
    monkeypatch, clock, epoch_record, columns, width
):
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    console = rich_console.Console(file=io.StringIO(), force_terminal=False)
    with TrainingProgress(1000, console, clock_source=clock) as progress:
        text = "runs/digits: data: digits, 1,437 training and 360 test images; 1 x cpu"
        progress.note(text, wrap=True)
        progress.epoch(99, 1_281_167)
        clock.now += 50_000.0
        progress.advance(1_281_167)
        progress.finish_epoch(
            epoch_record(99, samples=1_281_167, loss=123.4, accuracy=0.5, proxy_accuracy=0.45)
        )
    lines = written(console).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[:2] for line in lines if line.startswith("epoch")] == [
        ["epoch", "100/1000"]
    ]
    words = " ".join(written(console).split())
    assert "1,437 training and 360 test images; 1 x cpu epoch" in words
    for each in ("loss 123.4", "accuracy 50.00 %", "proxy 45.00 %", "1,281,167 samples", "left"):
        assert each in words
    if width == 200:
        assert len(lines) == 2


PHASES = ("holdout model", "scoring", "training", "evaluation")


@pytest.mark.parametrize("width", [10, 20, 40, 60, 80])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_bar_fits_narrow_terminals_of_any_encoding(clock, epoch_record, width, encoding):
    raw = io.BytesIO()
    console = rich_console.Console(
        file=io.TextIOWrapper(raw, encoding, write_through=True),
        force_terminal=True,
        width=width,
        legacy_windows=False,
        _environ={},
    )
    with TrainingProgress(1000, console, clock_source=clock) as progress:
        for epoch in (0, 999):
            for phase in PHASES:
                progress.epoch(epoch, 1_281_167, phase)
                for _ in range(3):
                    clock.now += 100.0
                    progress.advance(400_000, loss=math.nan if width == 40 else 0.123456)
        progress.finish_epoch(epoch_record(999, loss=math.nan))
        progress.note("\N{MINUS SIGN}1 \N{PLUS-MINUS SIGN} 2 \N{GREEK SMALL LETTER ALPHA} \udce9")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.getvalue().decode(encoding))
    frames = [line for line in re.split(r"[\r\n]+", shown) if line.startswith("epoch")]
    assert max(map(len, frames)) <= max(width, len("epoch 1000/1000"))
    if width >= 60:
        for epoch in (1, 1000):
            for phase in PHASES:
                assert any(f.startswith(f"epoch {epoch}/1000 {phase} ") for f in frames), phase
        assert any(f.startswith("epoch 1000/1000 training") and "left" in f for f in frames)
    if encoding == "ascii":
        assert "\\u03b1" in shown
        assert "+-" in shown


def test_wide_characters_count_twice(plain):
    with TrainingProgress(1, plain) as progress:
        progress.note(" ".join(["\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 10] * 4), wrap=True)
    assert [len(line.strip()) for line in written(plain).splitlines()] == [21, 21]


def test_an_epoch_without_a_record_still_gets_its_line(plain, clock):
    with TrainingProgress(2, plain, clock_source=clock) as progress:
        for epoch in range(2):
            progress.epoch(epoch, 10)
            clock.now += 2.0
            progress.advance(10, loss=0.5)
    assert written(plain).splitlines() == [
        "epoch 1/2  loss 0.5000  2.00 s",
        "epoch 2/2  loss 0.5000  2.00 s",
    ]


@pytest.mark.parametrize("lost", ["terminal", "disk"])
def test_a_terminal_that_is_gone_stops_no_run(lost, terminal, clock, monkeypatch):
    with TrainingProgress(2, terminal, clock_source=clock) as progress:
        progress.epoch(0, 10)

        def fail(text: str) -> int:
            raise OSError(errno.EIO if lost == "terminal" else errno.ENOSPC, "gone")

        monkeypatch.setattr(terminal.file, "write", fail)
        clock.now += 1.0
        if lost == "terminal":
            progress.advance(5)
            progress.note("more")
        else:
            with pytest.raises(OSError, match="gone"):
                progress.note("more")
            monkeypatch.undo()


def test_an_epoch_that_failed_gets_no_line(plain, clock):
    def fail() -> None:
        with TrainingProgress(2, plain, clock_source=clock) as progress:
            progress.epoch(0, 10)
            progress.advance(5)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert written(plain) == ""


@pytest.mark.parametrize("console", ["plain", "terminal"])
def test_quiet_shows_nothing(console, request, epoch_record):
    console = request.getfixturevalue(console)
    with TrainingProgress(1, console, enabled=False) as progress:
        progress.epoch(0, 10)
        progress.advance(10, loss=1.0)
        progress.note("hello")
        progress.finish_epoch(epoch_record(0))
    assert written(console) == ""


def test_a_terminal_is_redrawn_at_most_ten_times_a_second(terminal, clock):
    with TrainingProgress(1, terminal, clock_source=clock) as progress:
        progress.epoch(0, 20_000)
        before = written(terminal).count("epoch 1/1")
        for _ in range(10_000):
            clock.now += 0.001
            progress.advance(1)
        redraws = written(terminal).count("epoch 1/1") - before
    assert 50 <= redraws <= 100


def test_a_terminal_shows_epoch_phase_rate_loss_and_time_left(terminal, clock):
    with TrainingProgress(4, terminal, clock_source=clock) as progress:
        progress.epoch(0, 1000)
        clock.now += 10.0
        progress.advance(500, loss=1.25)
        shown = written(terminal)
    assert "epoch 1/4 training" in shown
    assert "500/1,000" in shown
    assert "50 samples/s" in shown
    assert "loss 1.250" in shown
    assert "1:10 left" in shown


def test_a_terminal_keeps_a_line_of_each_finished_epoch(terminal, clock, epoch_record):
    with TrainingProgress(2, terminal, clock_source=clock) as progress:
        for epoch in range(2):
            progress.epoch(epoch, 10)
            progress.advance(10)
            progress.finish_epoch(epoch_record(epoch))
    assert "epoch 1/2  loss 2.000" in written(terminal)
    assert "epoch 2/2  loss 1.000" in written(terminal)


def test_notes_are_text_and_not_markup_and_break_between_words_where_they_may(plain):
    with TrainingProgress(1, plain) as progress:
        progress.note("[red]kept[/red] " + "x" * 100)
        progress.note("[red]kept[/red] " + "x" * 100, wrap=True)
    long = "x" * 100
    assert written(plain) == f"[red]kept[/red] {long}\n[red]kept[/red]\n  {long}\n"


def test_time_left_follows_the_planned_samples_of_each_epoch(plain, clock):
    plan = [1000, 600, 400]
    with TrainingProgress(3, plain, epoch_samples=plan, clock_source=clock) as progress:
        assert progress.seconds_left() is None
        progress.epoch(0, 1000)
        clock.now += 5.0
        progress.advance(500)
        assert progress.seconds_left() == pytest.approx(15.0)
        clock.now += 5.0
        progress.advance(500)
        progress.epoch(1, 2000, "scoring")
        assert progress.seconds_left() == pytest.approx(10.0)
        progress.advance(2000)
        progress.epoch(1, 600)
        clock.now += 6.0
        progress.advance(600)
        progress.epoch(1, 100, "evaluation")
        assert progress.seconds_left() == pytest.approx(4.0)


def test_time_left_of_a_resumed_run_counts_only_its_own_epochs(plain, clock):
    with TrainingProgress(10, plain, first_epoch=8, clock_source=clock) as progress:
        progress.epoch(8, 100)
        clock.now += 3.0
        progress.advance(100)
        assert progress.seconds_left() == pytest.approx(3.0)


def test_a_plan_of_the_wrong_length_is_refused(plain):
    with pytest.raises(ValueError, match="epoch_samples: got 2 entries, want one for each of 3"):
        TrainingProgress(3, plain, epoch_samples=[1, 2])
