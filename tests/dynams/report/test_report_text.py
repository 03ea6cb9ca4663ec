from __future__ import annotations

import builtins
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynams.packages import needs
from dynams.report import summary_table
from dynams.report.text import clock, costs, count, duration, number, percent, short_count

SPACE = "\N{NO-BREAK SPACE}"
DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("show", "value", "shown"),
    [
        (percent, 0.92345, "92.3 %"),
        (percent, 1.0, "100.0 %"),
        (percent, None, DASH),
        (percent, math.nan, DASH),
        (count, 1830000, "1,830,000"),
        (count, math.inf, DASH),
        (short_count, 0, "0"),
        (short_count, 9999, "9,999"),
        (short_count, 10_000, "10.0 k"),
        (short_count, 999_499, "999 k"),
        (short_count, 999_500, "1.00 M"),
        (short_count, 1_834_000, "1.83 M"),
        (short_count, 256_000_000_000_000, "256,000 G"),
        (number, 0.0, "0.000"),
        (number, 1.0, "1.000"),
        (number, -12.3456, "-12.35"),
        (number, 0.0012345, "0.0012"),
        (number, 1.5e-7, "1.50e-07"),
        (number, 123456.0, "123456"),
        (number, math.nan, DASH),
        (duration, 0.0, "0.00 s"),
        (duration, 9.99, "9.99 s"),
        (duration, 9.996, "10.0 s"),
        (duration, 59.94, "59.9 s"),
        (duration, 59.96, "1 min 00 s"),
        (duration, 751.4, "12 min 31 s"),
        (duration, 3599.6, "1 h 00 min"),
        (duration, 11_100, "3 h 05 min"),
        (duration, 48 * 3600, "2 d 0 h"),
        (duration, None, DASH),
        (clock, 7.4, "0:07"),
        (clock, 751, "12:31"),
        (clock, 3723, "1:02:03"),
        (clock, -1.0, "0:00"),
        (clock, None, "-:--"),
    ],
)
def test_numbers_are_shown_as_people_read_them(show, value, shown):
    assert show(value).replace(SPACE, " ") == shown


seconds = st.floats(min_value=-1.0, max_value=1e9) | st.sampled_from([math.nan, math.inf])


@given(parts=st.dictionaries(st.text(min_size=1), seconds), total=seconds)
def test_shares_of_cost_are_a_partition(parts, total):
    rows = costs(parts, total)
    assert all(row.seconds >= 0 and 0 <= row.share <= 1 for row in rows)
    assert [row.purpose for row in rows].count("other") == 1
    if sum(row.seconds for row in rows) > 0:
        assert sum(row.share for row in rows) == pytest.approx(1.0)


def test_cost_that_no_purpose_explains_is_other():
    spent = {"selection": 1.0, "tea": 2.0, "training": 4.0, "scoring": 0.0, "data": math.nan}
    rows = costs(spent, 10.0)
    assert [(row.purpose, row.seconds, row.share) for row in rows] == [
        ("training", 4.0, 0.4),
        ("selection", 1.0, 0.1),
        ("tea", 2.0, 0.2),
        ("other", 3.0, 0.3),
    ]


def printed(summary, width: int = 100, encoding: str = "utf-8") -> list[str]:
    """The table on a console whose encoding is strict."""
    raw = io.BytesIO()
    console = pytest.importorskip("rich.console").Console(
        file=io.TextIOWrapper(raw, encoding, write_through=True), width=width
    )
    console.print(summary_table(summary, encoding), soft_wrap=True)
    return raw.getvalue().decode(encoding).splitlines()


def rendered(summary) -> list[str]:
    return [" ".join(line.split()) for line in printed(summary)]


def test_the_summary_table_shows_accuracies_work_and_cost_with_shares(summary_record):
    lines = rendered(summary_record(8, total_seconds=100.0))
    for expected in (
        "Run finished after 8 epochs",
        "Test accuracy, full width 91.31 %",
        "Test accuracy, width 0.5 88.52 %",
        "Samples trained on 4,800",
        "Optimiser steps 80",
        "Wall time 1 min 40 s",
        "training 1 min 04 s 64.0 %",
        "proxy loss 8.00 s 8.0 %",
        "scoring 4.00 s 4.0 %",
        "selection 1.00 s 1.0 %",
        "data 2.00 s 2.0 %",
        "other 21.0 s 21.0 %",
        "runs/one",
    ):
        assert expected in lines


def test_the_summary_table_of_an_interrupted_run_without_proxy_says_so(summary_record):
    summary = summary_record(
        1, completed=False, proxy_accuracy=None, proxy_width=None, accuracy=math.nan
    )
    lines = rendered(summary)
    assert "Run interrupted after 1 epoch" in lines
    assert "Test accuracy \N{EN DASH}" in lines
    assert not any("width 0.5" in line for line in lines)


def test_a_run_directory_that_looks_like_markup_is_shown_as_it_is(summary_record):
    lines = rendered(summary_record(1, run_dir="runs/[bold]x[/nope]"))
    assert "runs/[bold]x[/nope]" in lines


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_the_summary_table_fits_60_columns_of_any_encoding(summary_record, encoding):
    run_dir = "/runs/\udce9t\N{LATIN SMALL LETTER E WITH ACUTE} " + "long" * 20
    summary = summary_record(
        1000,
        samples=1_281_167_000,
        steps=2_500_000,
        accuracy=math.nan,
        seconds={"training": 1e7, "holdout model": 3.0},
        total_seconds=1.5e7,
        run_dir=run_dir,
    )
    *lines, last = printed(summary, 60, encoding)
    assert max(map(len, lines)) <= 60
    assert last.startswith("/runs/\\udce9t")
    assert last.endswith("long" * 20)  # in one piece, to be copied
    none = "-" if encoding == "ascii" else DASH
    assert any(line.split()[-1] == none for line in lines if "full width" in line)
    assert any("1,281,167,000" in line for line in lines)


def test_the_table_of_a_run_that_failed_says_why(summary_record):
    failure = "the loss became nan in epoch 3: try a smaller optim.lr or a longer optim.warmup"
    summary = summary_record(2, completed=False)
    object.__setattr__(summary, "failure", failure)
    lines = printed(summary, 60)
    assert lines[0] == "Run failed after 2 epochs"
    assert " ".join(" ".join(lines[1:3]).split()) == failure


def test_a_missing_package_is_named_with_its_remedy(summary_record, monkeypatch):
    real = builtins.__import__

    def without_rich(name: str, *rest: object, **named: object):
        if name.partition(".")[0] == "rich":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    with pytest.raises(ImportError, match=r"^rich is not installed: pip install rich"):
        summary_table(summary_record(1))


def test_other_missing_modules_are_reported_as_they_are():
    def look() -> None:
        with needs("rich"):
            raise ModuleNotFoundError("No module named 'pygments'", name="pygments")

    with pytest.raises(ModuleNotFoundError, match="No module named 'pygments'"):
        look()
