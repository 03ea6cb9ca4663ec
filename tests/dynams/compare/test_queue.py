"""Running the queue: one load of the data, resuming after kills, limits, failures."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path

import pytest

import dynams.training.entry
from dynams.compare.cells import CellKey, Length, cell_config, cell_keys
from dynams.compare.clock import Deadline, expected, usable
from dynams.compare.groups import group_cells
from dynams.compare.results import Cell, machine_of
from dynams.compare.runner import Entry, Queue
from dynams.compare.store import Folder
from dynams.files import StorageError
from dynams.training.config import TrainConfig
from file_limits import files_of_at_most

from .conftest import HERE, THERE, VALUES, a_cell


class StopAfter(Deadline):
    """Asks to stop when it has been asked about so often."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self.questions = questions

    @property
    def requested(self) -> bool:
        self.questions -= 1
        if self.questions == 0:
            self.request()
        return super().requested


def without_times(cell: Cell) -> Cell:
    """The part of a cell that does not depend on the clock or on how it came about."""
    return dataclasses.replace(
        cell,
        seconds={},
        total_seconds=0.0,
        pieces=1,
        curve=tuple(dataclasses.replace(point, seconds=0.0) for point in cell.curve),
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[CellKey, Cell]:
    from dynams.compare.plan_file import read_plan

    queue = Queue(read_plan(VALUES, "p"), Folder(tmp_path_factory.mktemp("whole")))
    assert queue.run()
    return queue.cells


def test_a_run_leaves_a_cell_of_every_key_and_nothing_unfinished(tmp_path, plan, monkeypatch):
    loads = []
    find = dynams.training.resolve.find_images
    monkeypatch.setattr(
        "dynams.training.resolve.find_images", lambda *a, **k: loads.append(a) or find(*a, **k)
    )
    said: list[str] = []
    queue = Queue(plan, Folder(tmp_path), say=said.append)
    assert queue.run()
    assert len(loads) == 1
    assert queue.missing == []
    assert said[-1].endswith("6 of 6 cells done")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.jsonl", "plan.yaml"]
    assert Folder(tmp_path).cells() == queue.cells
    for key, cell in queue.cells.items():
        assert cell.key == key
        assert (cell.epochs, len(cell.curve)) == (2, 2)
        assert cell.curve[-1].accuracy == cell.accuracy
        assert cell.curve[-1].seconds == pytest.approx(cell.cost, rel=0.05)
        assert cell.samples == cell.samples_by_purpose["training"] == cell.curve[-1].samples
        assert cell.data["train"] == 120
    margin = queue.cells[CellKey("margin", 0.5, 0)]
    assert [each.selected for each in margin.refreshes] == [60]
    assert str(tmp_path) not in (tmp_path / "cells.jsonl").read_text()
    assert queue.run()  # nothing is left to do
    assert len(loads) == 1


@pytest.mark.parametrize("questions", [2, 7, 12])
def test_a_stopped_queue_goes_on_where_it_was(tmp_path, plan, uninterrupted, questions):
    queue = Queue(plan, Folder(tmp_path))
    assert not queue.run(interrupt=StopAfter(questions))
    (under_way,) = (tmp_path / "unfinished").iterdir()
    assert "under way: " in queue.status()
    again = Queue(plan, Folder(tmp_path))
    assert under_way.name == next(e.key.stem for e in again.entries() if e.begun is not None)
    assert again.run()
    assert not (tmp_path / "unfinished").exists()
    resumed = {key for key, cell in again.cells.items() if cell.pieces == 2}
    assert {key.stem for key in resumed} == {under_way.name}
    assert {key: without_times(cell) for key, cell in again.cells.items()} == {
        key: without_times(cell) for key, cell in uninterrupted.items()
    }


def test_what_a_kill_leaves_behind_does_no_harm(tmp_path, plan, uninterrupted):
    folder = Folder(tmp_path)
    queue = Queue(plan, folder)
    first, second, third, *_ = cell_keys(plan)
    # Killed between the result and the removal of the run.
    folder.save(uninterrupted[first])
    (folder.work_dir(first) / "run").mkdir(parents=True)
    # Killed before the first checkpoint, with a torn note of it.
    (folder.work_dir(second) / "run").mkdir(parents=True)
    (folder.work_dir(second) / "begun.json").write_text('{"dig')
    # A checkpoint that is damaged.
    checkpoints = folder.work_dir(third) / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.pt").write_bytes(b"")
    config = cell_config(plan, third, queue._known)
    assert config is not None
    folder.begin(third, config, HERE, None)
    said: list[str] = []
    again = Queue(plan, folder, say=said.append)
    assert again.run()
    assert any(text.startswith(f"{third}: begun anew, because ") for text in said)
    assert not (tmp_path / "unfinished").exists()
    assert {key: without_times(cell).accuracy for key, cell in again.cells.items()} == {
        key: cell.accuracy for key, cell in uninterrupted.items()
    }


def test_a_full_disk_and_a_damaged_checkpoint_lose_no_finished_epoch(tmp_path, plan, uninterrupted):
    with ExitStack() as stack:

        class Full(Deadline):
            questions = 0

            @property
            def requested(self) -> bool:
                self.questions += 1
                if self.questions == 9:  # in the second epoch of the first cell
                    stack.enter_context(files_of_at_most(2000))
                return super().requested

        with pytest.raises(StorageError, match=r"log\.jsonl: cannot be written") as told:
            Queue(plan, Folder(tmp_path)).run(interrupt=Full())
    assert str(told.value).endswith(", then the same command goes on")
    (last,) = tmp_path.glob("unfinished/full_s0/*/checkpoints/last.pt")
    last.write_bytes(last.read_bytes()[:3000])
    said: list[str] = []
    again = Queue(plan, Folder(tmp_path), say=said.append)
    again.run(interrupt=StopAfter(12))
    best = "full, seed 0: from its best checkpoint, because damaged: "
    assert [text[: len(best)] for text in said].count(best) == 1
    first = CellKey("full", None, 0)
    assert without_times(again.cells[first]) == without_times(uninterrupted[first])
    assert list(tmp_path.rglob("*.tmp")) == []


def test_an_unfinished_run_of_other_options_is_not_gone_on_with(tmp_path, plan, make_plan):
    Queue(plan, Folder(tmp_path)).run(interrupt=StopAfter(3))
    other = make_plan(base={**plan.base, "optim.lr": 0.02})
    assert all(entry.begun is None for entry in Queue(other, Folder(tmp_path)).entries())


def test_a_diverged_cell_is_a_result_and_the_queue_goes_on(tmp_path, make_plan):
    plan = make_plan(
        seeds=[0],
        recipes={
            "full": {"selection.strategy": "full"},
            "hot": {"optim.lr": 1e30, "optim.warmup": 0.0},
        },
    )
    queue = Queue(plan, Folder(tmp_path))
    assert queue.run()
    failed = queue.cells[CellKey("hot", 0.5, 0)]
    assert failed.failure is not None
    assert failed.failure.startswith("the loss became")
    assert queue.status() == "2 of 2 cells done (1 of them failed)"
    assert Queue(plan, Folder(tmp_path)).missing == []


def test_other_images_under_the_same_name_are_refused(tmp_path, plan):
    folder = Folder(tmp_path)
    folder.save(a_cell(CellKey("full", None, 0), plan=plan, data={"train": 119}))
    with pytest.raises(ValueError, match="holds other images than full, seed 0"):
        Queue(plan, folder).run()


def test_a_match_by_seconds_is_run_after_what_it_matches(tmp_path, make_plan):
    plan = make_plan(
        seeds=[0],
        recipes={
            "full": {"selection.strategy": "full"},
            "timed": {"selection.strategy": "full", "match": {"recipe": "margin", "by": "seconds"}},
            "margin": {"selection.strategy": "margin"},
        },
    )
    queue = Queue(plan, Folder(tmp_path))
    assert [entry.config is None for entry in queue.entries()] == [False, True, False]
    assert queue.run()
    cost = {key.recipe: cell.cost for key, cell in queue.cells.items()}
    wanted = max(1, round(2 * cost["margin"] / cost["full"]))
    assert queue.cells[CellKey("timed", 0.5, 0)].epochs == wanted
    assert Queue(plan, Folder(tmp_path)).missing == []


def test_pilots_are_run_first_and_count_nowhere(tmp_path, make_plan, monkeypatch):
    plan = make_plan(
        pilot=[7, 8],
        budgets=[],
        recipes={
            "full": {"selection.strategy": "full"},
            "half": {
                "selection": {"strategy": "random", "budget": 0.5},
                "match": {"recipe": "full", "by": "seconds"},
            },
        },
    )
    folder = Folder(tmp_path)
    queue = Queue(plan, folder)
    assert [str(key) for key in queue.keys[:5]] == [
        "full, seed 7", "half, seed 7", "full, seed 8", "half, seed 8", "full, seed 0",
    ]  # fmt: skip

    def waiting() -> list[int]:
        return [e.key.seed for e in Queue(plan, folder).entries() if e.config is None]

    assert waiting() == [0, 1]
    monkeypatch.setattr(Queue, "_here", lambda self, run=None: HERE)
    # An epoch on everything is 10 s, one on half of it 5 s: 20 s hold one and two of the others. What disturbed the
    # other pilot of each says nothing, once there are both.
    for name, seed, seconds in (("full", 7, 20.0), ("half", 7, 90.0), ("full", 8, 31.0)):
        folder.save(a_cell(CellKey(name, None, seed), seconds=seconds, plan=plan, data={}))
        assert waiting() == [0, 1]
    folder.save(a_cell(CellKey("half", None, 8), seconds=15.0, plan=plan, data={}))
    assert waiting() == []
    queue = Queue(plan, folder)
    assert queue.run()
    assert {cell.epochs for key, cell in queue.cells.items() if key.recipe == "half"} == {2, 3}
    groups = group_cells(plan, queue.cells)
    assert [sorted(group.cells) for group in groups] == [[0, 1], [0, 1]]


def test_a_rehearsal_comes_before_a_recipe_s_first_cell_and_leaves_nothing(
    tmp_path, make_plan, monkeypatch
):
    few = {name: VALUES["recipes"][name] for name in ("full", "margin")}
    base = {**VALUES["base"], "optim.first_layer_epochs": 2}
    plan = make_plan(rehearsal=3, seeds=[0], recipes=few, base=base)
    begun: list[TrainConfig] = []
    train = dynams.training.entry.train
    for where in ("dynams.training.entry.train", "dynams.compare.rehearsal.train"):
        monkeypatch.setattr(
            where, lambda config, *a, **k: begun.append(config) or train(config, *a, **k)
        )
    queue = Queue(plan, Folder(tmp_path))
    assert queue.run()
    names = [config.run.name for config in begun]
    assert names.count(None) == len(plan.recipes)
    assert names[0] is None
    assert names[1] == queue.keys[0].stem
    assert (begun[0].optim.epochs, begun[0].selection.warmup_epochs) == (3, 1)
    assert begun[0].optim.first_layer_epochs == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.jsonl", "plan.yaml"]
    plain = Queue(make_plan(seeds=[0], recipes=few, base=base), Folder(tmp_path / "plain"))
    assert plain.run()
    assert {key: without_times(cell) for key, cell in queue.cells.items()} == {
        key: without_times(cell) for key, cell in plain.cells.items()
    }


def test_two_queues_share_a_folder_cell_by_cell(tmp_path, plan, uninterrupted):
    folder = Folder(tmp_path)
    first, *_ = cell_keys(plan)
    one, two = Queue(plan, folder), Queue(plan, folder)
    with folder.taken(first) as mine:
        assert mine
        assert two.run()
        assert two.missing == [first]
    assert one.run()
    assert one.missing == []
    assert {key: without_times(cell) for key, cell in one.cells.items()} == {
        key: without_times(cell) for key, cell in uninterrupted.items()
    }


def test_a_cell_that_waits_for_another_process_s_is_waited_for(tmp_path, make_plan, monkeypatch):
    plan = make_plan(
        seeds=[0],
        recipes={
            "full": {"selection.strategy": "full"},
            "timed": {"selection.strategy": "full", "match": {"recipe": "margin", "by": "seconds"}},
            "margin": {"selection.strategy": "margin"},
        },
    )
    folder = Folder(tmp_path)
    queue = Queue(plan, folder)
    margin = CellKey("margin", 0.5, 0)
    with ExitStack() as other:
        assert other.enter_context(folder.taken(margin))

        def finished(seconds: float) -> None:
            full = queue.cells[CellKey("full", None, 0)]
            folder.save(
                a_cell(
                    margin, plan=plan, seconds=full.cost, environments=full.environments, data={}
                )
            )
            other.close()

        monkeypatch.setattr("dynams.compare.runner.time.sleep", finished)
        assert queue.run()
    assert queue.missing == []
    assert queue.cells[CellKey("timed", 0.5, 0)].epochs == 2


def config_of(plan, key: CellKey) -> TrainConfig:
    config = cell_config(plan, key, lambda *_: Length())
    assert config is not None
    return config


def test_estimates_take_the_nearest_kin_of_the_same_machine(make_plan):
    plan = make_plan(base={"optim.epochs": 10, "selection.warmup_epochs": 0}, budgets=[0.5, 0.2])
    here = machine_of(HERE)
    key = CellKey("margin", 0.5, 1)
    config = config_of(plan, key)

    def predicted(*cells: Cell) -> tuple[float, str] | None:
        found = expected(key, config, cells, here)
        return None if found is None else (round(found.seconds, 6), found.basis)

    def cell(name: str, budget: float | None, seconds: float, **more) -> Cell:
        return a_cell(CellKey(name, budget, 0), plan=plan, total_seconds=seconds, **more)

    same, less = cell("margin", 0.5, 20.0), cell("margin", 0.2, 10.0)
    full = cell("full", None, 30.0)
    assert predicted() is None
    assert predicted(dataclasses.replace(same, environments=(THERE,))) is None
    assert predicted(full) == (16.5, "other recipes")
    assert predicted(full, less) == (27.5, "other budgets")
    assert predicted(full, less, same) == (22.0, "other seeds")


def next_of(queue: Queue, left: float, whole: float | None) -> Entry | None:
    return next(queue._ready(left, whole), None)


def test_a_cell_that_cannot_finish_is_not_begun_unless_it_never_could(tmp_path, plan, monkeypatch):
    monkeypatch.setattr(Queue, "_here", lambda self, run=None: HERE)
    folder = Folder(tmp_path)
    queue = Queue(plan, folder)
    first, second, third, *_ = queue.keys
    assert next_of(queue, 1.0, 60.0).key == first  # nothing is known
    slow = a_cell(first, plan=plan, total_seconds=100.0)
    queue.cells[first] = slow
    assert next_of(queue, 200.0, 200.0).key == second
    # The other seed of the slow one does not fit, a shorter recipe does.
    queue.cells[second] = a_cell(second, plan=plan, total_seconds=10.0)
    entry = next_of(queue, 50.0, 200.0)
    assert entry is not None
    assert entry.key.recipe == second.recipe
    assert next_of(queue, 5.0, 200.0) is None
    # A cell that needs longer than a whole limit is done in pieces.
    assert next_of(queue, 5.0, 8.0).key == third
    # Nothing holds back without a limit.
    assert next_of(queue, float("inf"), None).key == third


def test_the_time_limit_stops_within_a_cell_and_saves_it(tmp_path, plan):
    queue = Queue(plan, Folder(tmp_path))
    # Time is up as soon as the first cell has taken a step.
    assert queue.run(interrupt=ShortDeadline())
    assert queue.cells == {}
    assert "under way: full, seed 0" in queue.status()
    assert (
        json.loads((tmp_path / "unfinished" / "full_s0" / "begun.json").read_text())["pieces"] == 1
    )
    assert queue.run()
    assert queue.missing == []


class ShortDeadline(Deadline):
    """Its time is up at the third question."""

    asked_for = 0

    @property
    def seconds_left(self) -> float:
        self.asked_for += 1
        return 1.0 if self.asked_for < 4 else 0.0


def test_some_of_a_limit_is_kept_back_to_save():
    assert usable(540.0) == 525.0
    assert usable(60.0) == 54.0
    assert usable(10.0) == 8.0


def test_missing_data_are_told_before_anything_is_written(tmp_path, make_plan):
    out = tmp_path / "out"
    for base, said in (
        ({"data.name": "cifar10"}, "got None, want the directory that holds cifar10"),
        ({"data.name": "cifar10", "data.path": str(tmp_path / "no")}, "no directory"),
    ):
        with pytest.raises(ValueError, match=f"data.path: .*{said}"):
            Queue(make_plan(base=base), Folder(out)).run()
    assert not out.exists()
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match="is not a directory"):
        Folder(Path(file))
