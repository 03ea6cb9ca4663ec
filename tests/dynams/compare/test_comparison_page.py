"""The report: what it says of synthetic cells, and that it is whole, self-contained and has no NaN."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest

from dynams.compare.cells import CellKey
from dynams.compare.page import as_html, as_markdown, write_comparison
from dynams.compare.results import Refreshed
from html_pages import Page
from html_pages import check as check_page

from .conftest import HERE, THERE, VALUES

pytest.importorskip("matplotlib")

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def check(plan, cells) -> tuple[Page, str]:
    source, markdown = as_html(plan, cells), as_markdown(plan, cells)
    assert as_html(plan, cells) == source  # the same cells give the same bytes
    page = check_page(source)
    assert not page.all("img")
    for text in (page.text, markdown):
        assert not re.search(r"\b(nan|inf|None)\b", text, re.IGNORECASE)
    widths = {}
    for line in markdown.splitlines():
        if line.startswith("|"):
            columns = len(re.findall(r"(?<!\\)\|", line))
            assert widths.setdefault("in", columns) == columns, line
        else:
            widths.clear()
    return page, markdown.replace("\N{NO-BREAK SPACE}", " ")


def rows(markdown: str, title: str) -> dict[str, list[str]]:
    """A table of the Markdown by its rows' names."""
    part = markdown.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in split}


def graded(key: CellKey) -> float:
    """all data 90, 92 %; DynaMS 91, 93 %; shortened 88, 90 %."""
    return {"full": 0.90, "margin": 0.91, "short": 0.88}[key.recipe] + 0.02 * key.seed


def timed(key: CellKey) -> float:
    return {"full": 20.0, "margin": 15.0, "short": 10.0}[key.recipe]


def test_the_tables_hold_what_follows_from_the_cells_by_hand(plan, all_cells):
    page, markdown = check(plan, all_cells(plan, graded, timed))
    results = rows(markdown, "Results")
    assert results["all data"] == [
        "2",
        "2",
        "91.00 ± 1.41 %",
        "91.0 %",
        "240",
        "20.0 ± 0.0",
        "1.00",
    ]
    assert results["DynaMS, 0.5"][-2:] == ["15.0 ± 0.0", "0.75"]
    # Always one point above, whatever the seed: the standard error is 0.
    assert rows(markdown, "At equal epochs") == {"DynaMS, 0.5": ["+1.00", "0.00", "2", "higher"]}
    # In 15 s, half way between 10 s (88, 90) and 20 s (90, 92), the reference reaches 89 and 91.
    (time,) = rows(markdown, "At equal wall-clock time").values()
    assert time == [
        "15.0 ± 0.0", "92.0 %", "90.0 %", "+2.00", "0.00", "2", "higher", "interpolated"
    ]  # fmt: skip
    assert "DynaMS, 0.5: higher than all data in the same time (+2.00 points" in markdown
    assert "interpolated, 2 epochs in 10.0 s and 2 epochs in 20.0 s" in markdown
    assert rows(markdown, "Every pair at budget 0.5")["all data"] == [
        NONE,
        f"{MINUS}1.00*",
        "+2.00*",
    ]
    assert rows(markdown, "Seconds by purpose")["DynaMS, 0.5"] == [
        "11.2", "3.75", "1.00", "1.00"
    ]  # fmt: skip
    assert rows(markdown, "Overlap of selections")["DynaMS, 0.5"] == ["75.0 %"] * 3 + ["1"]
    assert rows(markdown, "Environments")["cells"] == ["6"]
    assert len(page.all("svg")) == 3
    for words in ("6 of 6 cells", "not corrected for the number of comparisons", "2 seeds"):
        assert words in page.text


def test_differences_within_the_seeds_spread_are_called_so(plan, all_cells):
    noisy = {("margin", 0): 0.95, ("margin", 1): 0.89}
    cells = all_cells(plan, lambda k: noisy.get((k.recipe, k.seed), graded(k)), timed)
    _, markdown = check(plan, cells)
    assert rows(markdown, "At equal epochs")["DynaMS, 0.5"][-1] == "not distinguishable"
    assert "DynaMS, 0.5: not distinguishable from all data in the same time" in markdown


def test_of_one_seed_no_spread_is_shown_and_nothing_is_claimed(plan, all_cells):
    one = plan.narrowed(seeds=[0])
    page, markdown = check(one, all_cells(one, graded, timed))
    assert rows(markdown, "Results")["all data"][2] == "90.00 %"
    assert rows(markdown, "At equal epochs")["DynaMS, 0.5"] == ["+1.00", NONE, "1", "one seed"]
    assert "one seed cannot be told apart from all data" in markdown
    assert "*" not in "".join(rows(markdown, "Every pair at budget 0.5")["all data"])
    assert "1 seed" in page.text


def test_a_comparison_under_way_says_how_far_it_is(plan, all_cells):
    cells = all_cells(plan, graded, timed)
    check(plan, {})
    first = {key: cell for key, cell in cells.items() if key.recipe == "margin" and key.seed == 0}
    page, markdown = check(plan, first)
    assert "1 of 6 cells" in page.text
    assert rows(markdown, "Results")["DynaMS, 0.5"][0] == "1 of 2"
    assert rows(markdown, "At equal wall-clock time")["DynaMS, 0.5"][-1] == "every run takes longer"


def test_seconds_of_two_environments_are_never_compared(plan, all_cells):
    cells = all_cells(plan, graded, timed)
    there = all_cells(plan, graded, lambda key: timed(key) / 10, environments=(THERE,))
    mixed = {key: (there if key.seed else cells)[key] for key in cells}
    page, markdown = check(plan, mixed)
    first = rows(markdown, "At equal wall-clock time, environment 1")["DynaMS, 0.5"]
    second = rows(markdown, "At equal wall-clock time, environment 2")["DynaMS, 0.5"]
    assert (first[0], second[0]) == ("15.0", "1.50")
    assert first[5] == second[5] == "1"
    assert rows(markdown, "Results")["DynaMS, 0.5"][:1] == ["2"]
    assert "Cells ran in different environments" in page.text
    key = CellKey("margin", 0.5, 0)
    moved = {**cells, key: dataclasses.replace(cells[key], environments=(HERE, THERE), pieces=2)}
    page, markdown = check(plan, moved)
    assert "1 cell moved to another environment while unfinished" in page.text
    assert rows(markdown, "At equal wall-clock time")["DynaMS, 0.5"][5] == "1"


def test_failed_cells_are_told_and_not_counted(plan, all_cells):
    cells = all_cells(plan, graded, timed)
    for key in [key for key in cells if key.recipe == "margin"]:
        cells[key] = dataclasses.replace(
            cells[key], failure="the loss became nan", accuracy=math.nan, seconds={},
            total_seconds=math.nan, curve=(),
        )  # fmt: skip
    page, markdown = check(plan, cells)
    assert "2 cells failed: their loss diverged" in page.text
    assert rows(markdown, "Results")["DynaMS, 0.5"] == ["0 of 2"] + [NONE] * 6


def test_names_cannot_break_the_page_or_the_tables(make_plan, all_cells):
    title = 'a <b>|</b> "x" & y'
    recipes = {"full": {"title": title, "selection.strategy": "full"}}
    plan = make_plan(recipes=recipes, budgets=None)
    page, markdown = check(plan, all_cells(plan, lambda key: 0.5))
    assert title in page.text
    assert "a &lt;b>\\|&lt;/b>" in markdown


def test_titles_that_are_equal_or_hold_undecoded_bytes_lose_nothing(tmp_path, make_plan, all_cells):
    recipes = {
        "full": {"title": "base", "selection.strategy": "full"},
        "one": {"title": "caf\udce9", "selection.strategy": "random"},
        "two": {"title": "caf\udce9", "selection.strategy": "loss"},
    }
    plan = make_plan(recipes=recipes)
    html, markdown = write_comparison(tmp_path, plan, all_cells(plan, lambda key: 0.5))
    page = check_page(html.read_text("utf-8"))
    shown = "caf\N{REPLACEMENT CHARACTER}"
    for words in (f"{shown} (one)", f"{shown} (two)", "base (full)"):
        assert words in page.text
    assert "selection.strategy loss" in page.text
    assert markdown.read_text("utf-8").count(f"**{shown}**") == 2


def test_how_the_last_figure_is_read_depends_on_what_it_shows(plan, make_plan, all_cells):
    line = "Above the reference\N{RIGHT SINGLE QUOTATION MARK}s line is better at equal time."
    budgets = "Points of one recipe are its budgets."
    page, _ = check(plan, all_cells(plan, graded, timed))
    assert line in page.text
    assert budgets not in page.text
    alone = {k: v for k, v in VALUES["recipes"].items() if k != "short"}
    two = make_plan(recipes=alone, budgets=[0.3, 0.5])
    page, _ = check(two, all_cells(two, graded, timed))
    assert line not in page.text
    assert f"Higher is better, and so is further to the left. {budgets}" in page.text


def test_the_tail_is_no_selection_whose_overlap_counts(make_plan, all_cells):
    recipes = {
        "full": {"selection.strategy": "full"},
        "margin": {"selection": {"strategy": "margin", "tail": 0.5}},
    }
    plan = make_plan(recipes=recipes)
    refreshes = (Refreshed(0, 60, None), Refreshed(1, 120, 0.5))
    _, markdown = check(plan, all_cells(plan, lambda key: 0.5, refreshes=refreshes))
    assert list(rows(markdown, "Overlap of selections")) == ["full"]


def test_both_files_are_written_beside_each_other(tmp_path, plan, all_cells):
    html, markdown = write_comparison(tmp_path / "new", plan, all_cells(plan, graded, timed))
    assert html.read_text().startswith("<!DOCTYPE html>")
    assert markdown.read_text().startswith("# plan\n")
    assert sorted(path.name for path in html.parent.iterdir()) == ["compare.html", "compare.md"]
