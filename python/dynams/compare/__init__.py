"""Comparing recipes: a plan of recipes x budgets x seeds, a resumable queue of cells, a report.

A *cell* is one training run of the plan. `load_plan` reads a plan, `Queue` runs its missing cells,
`write_comparison` reports what is there. The names load on first use, so that reading a plan does
not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynams.compare.cells import CellKey, cell_keys
    from dynams.compare.page import write_comparison
    from dynams.compare.plan import Match, Plan, PlanError, Recipe
    from dynams.compare.plan_file import load_plan
    from dynams.compare.results import Cell
    from dynams.compare.runner import Queue
    from dynams.compare.store import Folder

__all__ = [
    "Cell",
    "CellKey",
    "Folder",
    "Match",
    "Plan",
    "PlanError",
    "Queue",
    "Recipe",
    "cell_keys",
    "load_plan",
    "write_comparison",
]

_MODULES = {
    "cells": ("CellKey", "cell_keys"),
    "page": ("write_comparison",),
    "plan": ("Match", "Plan", "PlanError", "Recipe"),
    "plan_file": ("load_plan",),
    "results": ("Cell",),
    "runner": ("Queue",),
    "store": ("Folder",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
