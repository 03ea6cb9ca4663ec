"""Tables of comparisons: their numbers by hand, what they leave out or refuse, and the marks of pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import comparison
from dynams.compare import Cell, CellKey, Folder, Plan, cell_keys
from dynams.compare.cells import Length, cell_config
from dynams.compare.options import essential
from dynams.compare.plan_file import read_plan

HERE = {"device": "cpu", "cpu": "one", "cores": 2, "threads": 1, "torch": "2.13"}
VALUES: dict[str, Any] = {
    "base": {"data": {"name": "digits", "limit": 120}, "optim.epochs": 2, "run.accelerator": "cpu"},
    "recipes": {
        "full": {"title": "all data", "selection.strategy": "full"},
        "half": {"title": "half as long", "selection.strategy": "full", "optim.epochs": 1},
        "margin": {"title": "DynaMS", "selection.strategy": "margin"},
        "random": {"selection.strategy": "random"},
    },
    "budgets": [0.5],
    "seeds": [0, 1, 2],
}
# Test accuracies of the seeds 0, 1, 2 in per cent, and seconds.
ACCURACY = {
    "full": (90, 92, 94),
    "half": (88, 90, 92),
    "margin": (91, 93, 95),
    "random": (94, 92, 93),
}
SECONDS = {"full": 20.0, "half": 10.0, "margin": 15.0, "random": 20.2}


@pytest.fixture
def plan() -> Plan:
    return read_plan(VALUES, "plan.yaml")


def a_cell(plan: Plan, key: CellKey, accuracy: float, seconds: float) -> Cell:
    config = cell_config(plan, key, lambda *_: Length())
    assert config is not None
    return Cell(
        key=key,
        options=essential(config),
        version="1",
        environments=(HERE,),
        pieces=1,
        data={"train": 120},
        failure=None,
        accuracy=accuracy,
        epochs=config.optim.epochs,
        samples=1200,
        seconds={"training": 0.8 * seconds, "scoring": 0.2 * seconds, "evaluation": 1.0},
        total_seconds=seconds + 2.0,
        samples_by_purpose={"scoring": 60},
    )


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of the plan's cells; `change` alters a cell, or drops it by None."""

    def write(
        plan: Plan,
        name: str = "compare",
        change: Callable[[Cell], Cell | None] = lambda cell: cell,
        accuracy: Mapping[str, tuple[float, ...]] = ACCURACY,
    ) -> Path:
        folder = Folder(tmp_path / name)
        for key in cell_keys(plan):
            reached = accuracy[key.recipe][key.seed] / 100
            cell = change(a_cell(plan, key, reached, SECONDS[key.recipe]))
            if cell is not None:
                folder.save(cell)
        folder.save_plan(plan)
        return folder.path

    return write


def rows(markdown: str, title: str) -> dict[str, list[str]]:
    """The table below a title in bold, by the names of its rows."""
    part = markdown.partition(f"**{title}.**")[2].partition("\n**")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in split}


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    comparison.main([str(argument) for argument in arguments])
    return capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")


def test_an_ablation_is_paired_with_its_first_recipe(plan, keep, capsys):
    # random minus full: +4, 0, -1; mean 1, deviation sqrt(14 / 2), over sqrt(3).
    text = output(capsys, "ablation", keep(plan))
    table = rows(text, "Against all data, budget 0.5")
    assert table["all data"] == ["3", "92.00 ± 2.00 %", "1,200", "60"] + [""] * 4
    assert table["DynaMS"][4:] == ["+1.00", "0.00", "3", "higher"]
    assert table["random"][1:] == [
        "93.00 ± 1.00 %", "1,200", "60", "+1.00", "1.53", "3", "not distinguishable"
    ]  # fmt: skip
    assert "Test accuracy after 2 epochs" in text
    assert "half as long" not in table
    assert "Left out, having other epochs: half as long (1 epochs)." in text


def test_the_first_recipe_named_is_the_one_compared_with(plan, keep, capsys):
    text = output(capsys, "ablation", keep(plan), "--recipes", "margin", "full")
    table = rows(text, "Against DynaMS, budget 0.5")
    assert list(table) == ["DynaMS", "all data"]
    assert table["all data"][4:] == ["\N{MINUS SIGN}1.00", "0.00", "3", "lower"]


def test_equal_recipes_are_not_distinguishable(plan, keep, capsys):
    folder = keep(plan, accuracy={**ACCURACY, "margin": ACCURACY["full"]})
    table = rows(output(capsys, "ablation", folder), "Against all data, budget 0.5")
    assert table["DynaMS"][4:] == ["0.00", "0.00", "3", "not distinguishable"]


def test_pairs_are_the_seeds_that_both_have_and_failures_are_told(plan, keep, capsys):
    def change(cell: Cell) -> Cell | None:
        if cell.key == CellKey("full", None, 0):
            return None
        if cell.key == CellKey("margin", 0.5, 1):
            return dataclasses.replace(cell, failure="the loss became nan")
        return cell

    text = output(capsys, "ablation", keep(plan, change=change))
    table = rows(text, "Against all data, budget 0.5")
    assert table["DynaMS"][0] == "2"
    assert table["DynaMS"][4:] == ["+1.00", "\N{EN DASH}", "1", "one seed"]
    assert "1 cells failed" in text


def test_each_budget_has_its_own_table(keep, capsys):
    plan = read_plan({**VALUES, "budgets": [0.6, 0.3]}, "plan.yaml")

    def change(cell: Cell) -> Cell:
        worse = 0.02 if cell.key.budget == 0.3 else 0.0
        return dataclasses.replace(cell, accuracy=cell.accuracy - worse)

    text = output(capsys, "ablation", keep(plan, change=change))
    assert rows(text, "Against all data, budget 0.6")["DynaMS"][4] == "+1.00"
    assert rows(text, "Against all data, budget 0.3")["DynaMS"][4] == "\N{MINUS SIGN}1.00"


def test_a_verdict_compares_at_equal_time(plan, keep, capsys):
    text = output(capsys, "verdict", keep(plan))
    assert rows(text, "Results")["DynaMS, 0.5"][-2:] == ["15.0 ± 0.0", "0.75"]
    assert rows(text, "Seconds by purpose")["DynaMS, 0.5"] == ["12.0", "3.00", "1.00", "1.00"]
    # In 15 s, half way between 10 s (88, 90, 92) and 20 s (90, 92, 94), all data reaches 89, 91, 93.
    time = rows(text, "At equal wall-clock time")
    assert time["DynaMS, 0.5"] == [
        "15.0 ± 0.0", "93.0 %", "91.0 %", "+2.00", "0.00", "3", "higher", "interpolated"
    ]  # fmt: skip
    assert time["random, 0.5"][-1] == "measured"  # 1 % longer is as long
    assert "Seconds on cpu, one, threads: 1, torch 2.13." in text


def test_a_verdict_may_be_only_some_of_its_tables(plan, keep, capsys):
    text = output(capsys, "verdict", keep(plan), "--tables", "time")
    assert text.count("| Recipe |") == 1
    assert "At equal wall-clock time" in text
    with pytest.raises(SystemExit):
        comparison.main(["verdict", str(keep(plan)), "--tables", "times"])
    assert "tables: wanted results, cost, time, got times" in capsys.readouterr().err


def test_folders_are_parts_of_one_plan_and_stay_as_they_are(plan, keep, capsys):
    whole = output(capsys, "ablation", keep(plan))
    even = keep(plan, "even", lambda cell: cell if cell.key.seed != 1 else None)
    odd = keep(plan, "odd", lambda cell: cell if cell.key.seed == 1 else None)
    before = {path: path.read_bytes() for path in even.rglob("*.*")}
    assert output(capsys, "ablation", even, odd) == whole
    assert {path: path.read_bytes() for path in even.rglob("*.*")} == before


def test_cells_outside_the_plan_are_told_and_another_plan_may_be_named(plan, keep, capsys):
    part = keep(plan.narrowed(seeds=[0]), "part")
    rest = keep(plan, "rest")
    comparison.main(["ablation", str(part), str(rest)])
    printed = capsys.readouterr()
    assert rows(printed.out, "Against all data, budget 0.5")["all data"][0] == "1"
    assert "8 cells are not of the plan and left out" in printed.err
    text = output(capsys, "ablation", part, rest, "--plan", rest)
    assert rows(text, "Against all data, budget 0.5")["all data"][0] == "3"


def test_cells_of_other_options_or_images_are_refused(plan, keep, capsys):
    good = keep(plan, "good", lambda cell: cell if cell.key.seed else None)
    other = read_plan({**VALUES, "base": {**VALUES["base"], "optim.lr": 0.5}}, "plan.yaml")

    def moved(cell: Cell) -> Cell:
        return dataclasses.replace(cell, data={"train": 121})

    for bad, words in (
        (keep(other, "lr"), "optim.lr: got 0.5, want 0.1"),
        (keep(plan, "images", moved), "different images"),
    ):
        with pytest.raises(SystemExit, match="2"):
            comparison.main(["ablation", str(good), str(bad)])
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipes", "margin", "nothing"], "no finished cells of nothing"),
        (["--recipes", "random"], "no finished cells of random"),
    ],
)
def test_recipes_without_cells_are_named(plan, keep, capsys, arguments, words):
    folder = keep(plan, change=lambda cell: cell if cell.key.recipe != "random" else None)
    with pytest.raises(SystemExit, match="2"):
        comparison.main(["ablation", str(folder), *arguments])
    assert words in capsys.readouterr().err


def test_only_what_is_between_a_page_s_marks_is_replaced(plan, keep, tmp_path, capsys):
    folder = keep(plan)
    table = output(capsys, "verdict", folder)
    pages = [tmp_path / "one.md", tmp_path / "two.md"]
    for page in pages:
        page.write_text("above\n<!-- mine:begin -->\nold\n<!-- mine:end -->\nbelow\n")
    for _ in range(2):  # the second time replaces the first
        comparison.main(["verdict", str(folder), "--into", *map(str, pages), "--mark", "mine"])
    for page in pages:
        text = page.read_text().replace("\N{NO-BREAK SPACE}", " ")
        assert text == f"above\n<!-- mine:begin -->\n{table}<!-- mine:end -->\nbelow\n"
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match="no verdict:begin and verdict:end marks"):
        comparison.main(["verdict", str(folder), "--into", str(pages[0])])
