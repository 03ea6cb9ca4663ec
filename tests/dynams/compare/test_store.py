"""Finished cells on disk: round trip, damage, cells of other plans, merging."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from dynams.compare.acceptance import DifferingCellsError
from dynams.compare.cells import CellKey, cell_keys
from dynams.compare.environment import here
from dynams.compare.results import cell_text, machine_of, read_cell
from dynams.compare.runner import Queue
from dynams.compare.store import Folder, merge
from dynams.files import aside

from .conftest import HERE, VALUES, a_cell

FULL = CellKey("full", None, 0)


def test_a_cell_reads_back_as_it_was_written(tmp_path, plan):
    cell = a_cell(FULL, plan=plan)
    Folder(tmp_path).save(cell)
    assert read_cell((tmp_path / "cells.jsonl").read_text(), "here") == cell
    assert Folder(tmp_path).cells() == {FULL: cell}
    assert cell.cost == 10.0
    assert cell.best == 0.9


def test_what_is_not_finite_is_null_on_disk_and_nan_again(tmp_path, plan):
    cell = a_cell(FULL, plan=plan, accuracy=math.nan, failure="the loss became nan", curve=())
    text = cell_text(cell)
    assert "NaN" not in text
    again = read_cell(text, "here")
    assert math.isnan(again.accuracy)
    assert again.failure == "the loss became nan"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda v: v.pop("curve"), "curve is missing"),
        (lambda v: v["options"].update({"optim.lr": 9}), "do not have the digest that it names"),
        (lambda v: v.update(format=99), "format: got 99, want 1"),
        (lambda v: v.update(seconds=3), "is not a finished cell"),
    ],
)
def test_a_damaged_cell_is_refused_by_name(tmp_path, plan, damage, said):
    folder = Folder(tmp_path)
    folder.save(a_cell(FULL, plan=plan))
    path = tmp_path / "cells.jsonl"
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"cells\.jsonl, line 1: .*") as refused:
        folder.cells()
    assert said in str(refused.value)


def test_a_torn_line_and_a_cell_twice_are_refused_and_a_left_over_file_goes(tmp_path, plan):
    folder = Folder(tmp_path)
    folder.save(a_cell(FULL, plan=plan))
    left = aside(tmp_path / "cells.jsonl")
    left.write_text('{"form')
    assert list(folder.cells()) == [FULL]
    folder.save_plan(plan)
    assert not left.exists()
    line = (tmp_path / "cells.jsonl").read_text()
    for more, said in (('{"form', "line 2: is not JSON"), (line, "line 2: got full, seed 0 twice")):
        (tmp_path / "cells.jsonl").write_text(line + more)
        with pytest.raises(ValueError, match=said):
            folder.cells()


def test_a_cell_saved_again_takes_its_own_place(tmp_path, plan):
    folder = Folder(tmp_path)
    one, two = a_cell(FULL, plan=plan), a_cell(CellKey("full", None, 1), plan=plan)
    folder.save(one, two)
    again = dataclasses.replace(one, accuracy=0.5)
    folder.save(again)
    assert list(folder.cells().values()) == [again, two]


def test_cells_of_other_options_are_refused_or_recomputed_never_mixed(
    tmp_path, plan, make_plan, all_cells
):
    folder = Folder(tmp_path)
    for cell in all_cells(plan).values():
        folder.save(cell)
    assert Queue(plan, folder).missing == []
    # The schedule of the recipe changes: only its cells differ.
    recipes = {"full": plan.recipes["full"].options, "margin": {"optim.lr": 0.05}}
    changed = make_plan(recipes=recipes)
    with pytest.raises(
        DifferingCellsError, match=r"margin, budget 0\.5, seed 0: computed with"
    ) as e:
        Queue(changed, folder)
    assert "optim.lr: got 0.1, want 0.05" in str(e.value)
    said: list[str] = []
    queue = Queue(changed, folder, recompute=True, say=said.append)
    assert {key.recipe for key in queue.missing} == {"margin"}
    assert queue.strangers == 2  # the cells of "short"
    assert len(said) == 2
    assert "recomputed, because optim.lr: got 0.1, want 0.05" in said[0]


def test_compiled_cells_and_others_are_not_mixed(tmp_path, plan, make_plan):
    run = {**VALUES["base"]["run"], "compile": True}
    compiled = make_plan(base={**VALUES["base"], "run": run})
    folder = Folder(tmp_path)
    eager = {**HERE, "compile": False}
    folder.save(a_cell(FULL, plan=plan, environments=(eager,)))
    with pytest.raises(DifferingCellsError, match=r"run\.compile: got False, want True"):
        Queue(compiled, folder)
    assert Queue(plan, folder).cells[FULL].machine == machine_of(HERE)
    # One that went on otherwise than it began is a result, without seconds.
    folder.save(a_cell(FULL, plan=plan, environments=(eager, {**HERE, "compile": True})))
    for each in (plan, compiled):
        assert Queue(each, folder).cells[FULL].machine is None
    # One of before this was noted counts for either.
    folder.save(a_cell(FULL, plan=plan))
    for each in (plan, compiled):
        assert Queue(each, folder).cells[FULL].machine == machine_of(HERE)


def test_a_cell_under_way_notes_where_it_is_compiled(tmp_path, plan):
    config = plan.config(plan.recipes["full"], None, 0)
    folder = Folder(tmp_path)
    begun = None
    for compiled in (False, True, True):
        config = dataclasses.replace(
            config, run=dataclasses.replace(config.run, compile=compiled, threads=1)
        )
        begun = folder.begin(FULL, config, here(config.run), begun)
    assert [where["compile"] for where in begun.environments] == [False, True]


def test_options_that_say_where_or_what_is_shown_may_differ(tmp_path, plan, make_plan, all_cells):
    folder = Folder(tmp_path)
    for cell in all_cells(plan).values():
        folder.save(cell)
    base = {**plan.base, "run.save_every": 5, "data.cache": "elsewhere", "run.threads": 3}
    assert Queue(make_plan(base=base), folder).missing == []


def test_an_option_that_an_older_cell_does_not_know_has_its_default(tmp_path, plan):
    cell = a_cell(FULL, plan=plan)
    options = {key: value for key, value in cell.options.items() if key != "optim.final_lr"}
    folder = Folder(tmp_path)
    folder.save(dataclasses.replace(cell, options=options))
    assert FULL in Queue(plan, folder).cells
    options["optim.from_the_future"] = 1
    folder.save(dataclasses.replace(cell, options=options))
    with pytest.raises(DifferingCellsError, match="another version"):
        Queue(plan, folder)


def test_cells_of_different_images_are_refused(tmp_path, plan):
    folder = Folder(tmp_path)
    folder.save(a_cell(FULL, plan=plan))
    folder.save(a_cell(CellKey("full", None, 1), plan=plan, data={"train": 121}))
    with pytest.raises(DifferingCellsError, match="trained on different images"):
        Queue(plan, folder)


def test_folders_merge_and_the_first_of_two_counts(tmp_path, plan, all_cells):
    cells = all_cells(plan)
    keys = cell_keys(plan)
    into, one, two = (Folder(tmp_path / name) for name in ("into", "one", "two"))
    into.save(cells[keys[0]])
    for key in keys[:3]:
        one.save(dataclasses.replace(cells[key], accuracy=0.5))
    for key in keys[2:]:
        two.save(cells[key])
    queue = Queue(plan, into)
    new = merge(into, [one.path, two.path])
    assert queue.add(new) == len(keys) - 1
    assert queue.missing == []
    kept = Folder(into.path).cells()
    assert kept == queue.cells
    assert [kept[key].accuracy for key in keys[:3]] == [cells[keys[0]].accuracy, 0.5, 0.5]
    assert kept[keys[3]] == cells[keys[3]]


def test_merging_refuses_other_options_and_empty_folders(tmp_path, plan, make_plan, all_cells):
    other = make_plan(base={**plan.base, "optim.lr": 0.3})
    source = Folder(tmp_path / "source")
    source.save(all_cells(other)[FULL])
    into = Folder(tmp_path / "into")
    with pytest.raises(DifferingCellsError, match="merge cells of one plan only"):
        Queue(plan, into).add(merge(into, [source.path]))
    assert not into.path.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="merge: no finished cells in"):
        merge(into, [tmp_path / "empty"])
    with pytest.raises(ValueError, match="merge: no directory"):
        merge(into, [tmp_path / "missing"])


def test_a_cell_is_one_process_s_at_a_time(tmp_path):
    folder = Folder(tmp_path / "out")
    other = CellKey("full", None, 1)
    with folder.taken(FULL) as mine, folder.taken(FULL) as again, folder.taken(other) as free:
        assert (mine, again, free) == (True, False, True)
        folder.forget(FULL)
        with folder.taken(FULL) as still:
            assert not still
    with folder.taken(FULL) as mine:
        assert mine
    assert list(folder.path.iterdir()) == []
