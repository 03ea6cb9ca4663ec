"""What the cells of a comparison came to, as a GPU report tells it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dynams.compare import Cell, CellKey, Folder
from dynams.compare.cells import Length, cell_config, cell_keys
from dynams.compare.options import essential
from dynams.compare.plan_file import load_plan
from gpu import ledger, record

# Test accuracies in per cent and seconds, by seed.
RUNS = {
    "full": {0: (95.9, 20.0), 1: (96.1, 22.0), 2: (96.0, 21.0)},
    "margin": {0: (96.2, 15.0), 1: (96.3, 16.0)},
}


def test_means_have_errors_and_differences_are_paired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_plan("digits")
    folder = Folder(tmp_path / "cells")
    folder.save_plan(plan)
    for recipe, runs in RUNS.items():
        for seed, (accuracy, seconds) in runs.items():
            if seed not in plan.seeds:
                continue
            key = CellKey(recipe, 0.6 if recipe == "margin" else None, seed)
            config = cell_config(plan, key, lambda *_: Length())
            assert config is not None
            folder.save(
                Cell(
                    key=key,
                    options=essential(config),
                    version="1",
                    environments=({"device": "gpu"},),
                    pieces=1,
                    data={},
                    failure=None,
                    accuracy=accuracy / 100,
                    epochs=config.optim.epochs,
                    seconds={"training": seconds, "evaluation": 1.5},
                )
            )
    told = tmp_path / "ledger.jsonl"
    monkeypatch.setenv(ledger.FILE, str(told))
    monkeypatch.setenv(ledger.SUITE, "record")
    assert record.main([str(folder.path)]) == 0
    suite = ledger.read(told).suite("record")
    assert suite.collected == len(plan.recipes)
    full, margin = suite.found.values()
    assert full["seconds"] == pytest.approx(21.0)
    values = [(name, pytest.approx(value), unit) for name, value, unit in full["found"]]
    assert values == [
        ("seeds", 2.0, ""),
        ("accuracy", 0.96, "share"),
        ("its standard error", 0.1 / 100, "share"),
        ("seconds without evaluation", 21.0, "s"),
        ("its standard error", 1.0, "s"),
        ("evaluation", 1.5, "s"),
    ]
    difference = [0.3, 0.2]
    mean = sum(difference) / 2
    error = math.sqrt(sum((value - mean) ** 2 for value in difference) / 1 / 2)
    assert margin["found"][-2:] == [
        ["accuracy against full", pytest.approx(mean / 100), "share"],
        ["its standard error", pytest.approx(error / 100), "share"],
    ]


def test_what_is_compiled_already_comes_before_what_has_networks_of_its_own_to_compile() -> None:
    # Where compiling is slow, the time of a lent GPU may end with the filter's: ours beside all data is known by then.
    plan = load_plan("sprint-96")
    first = [(key.recipe, key.seed) for key in cell_keys(plan)[:3]]
    assert first == [("full", 0), ("dynams", 0), ("filter", 0)]
