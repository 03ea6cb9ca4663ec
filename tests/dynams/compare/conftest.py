from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dynams.compare.cells import CellKey, cell_config, cell_keys
from dynams.compare.options import essential
from dynams.compare.plan import Plan
from dynams.compare.plan_file import read_plan
from dynams.compare.results import Cell, Point, Refreshed

HERE = {"device": "cpu", "cpu": "one", "cores": 2, "threads": 1, "torch": "2.13"}
THERE = {**HERE, "device": "cuda: other"}

VALUES: dict[str, Any] = {
    "base": {
        "data": {"name": "digits", "limit": 120},
        "model.base_channels": 4,
        "selection": {"warmup_epochs": 1, "refresh_every": 1},
        "optim": {"epochs": 2, "batch_size": 32},
        "run": {"accelerator": "cpu", "tensorboard": False, "report": False, "progress": False},
    },
    "recipes": {
        "full": {"title": "all data", "selection.strategy": "full"},
        "margin": {"title": "DynaMS", "selection": {"strategy": "margin"}},
        "short": {"selection.strategy": "full", "match": {"recipe": "margin", "by": "samples"}},
    },
    "budgets": [0.5],
    "seeds": [0, 1],
}


def changed(**changes: Any) -> dict[str, Any]:
    """The plan's values with some replaced; None drops one."""
    values = {**VALUES, **changes}
    return {key: value for key, value in values.items() if value is not None}


@pytest.fixture
def plan() -> Plan:
    return read_plan(VALUES, "plan.yaml")


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    return lambda **changes: read_plan(changed(**changes), "plan.yaml")


def a_cell(
    key: CellKey,
    accuracy: float = 0.9,
    seconds: float = 10.0,
    *,
    plan: Plan,
    environments: tuple[dict[str, Any], ...] = (HERE,),
    **changes: Any,
) -> Cell:
    """A finished cell without a run, of the options that the plan gives it."""
    from dynams.compare.cells import Length

    config = cell_config(plan, key, lambda *_: Length(2))
    assert config is not None
    values: dict[str, Any] = {
        "options": essential(config),
        "version": "1",
        "environments": environments,
        "pieces": 1,
        "data": {"train": 120},
        "failure": None,
        "accuracy": accuracy,
        "epochs": config.optim.epochs,
        "samples": 240,
        "steps": 8,
        "seconds": {"training": 0.75 * seconds, "scoring": 0.25 * seconds, "evaluation": 1.0},
        "total_seconds": seconds + 2.0,
        "samples_by_purpose": {"training": 240, "scoring": 120},
        "curve": (Point(1, 120, seconds / 2, accuracy - 0.1), Point(2, 240, seconds, accuracy)),
        "refreshes": (Refreshed(1, 60, None), Refreshed(2, 60, 0.75)),
    }
    return Cell(key=key, **{**values, **changes})


@pytest.fixture
def all_cells() -> Callable[..., dict[CellKey, Cell]]:
    """One cell for each key of a plan; `accuracy` and `seconds` may depend on the key."""

    def make(
        plan: Plan,
        accuracy: Callable[[CellKey], float] = lambda key: 0.9 + 0.01 * key.seed,
        seconds: Callable[[CellKey], float] = lambda key: 10.0,
        **changes: Any,
    ) -> dict[CellKey, Cell]:
        return {
            key: a_cell(key, accuracy(key), seconds(key), plan=plan, **changes)
            for key in cell_keys(plan)
        }

    return make
