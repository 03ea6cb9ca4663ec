"""Comparing recipes: a plan of recipes x budgets x seeds, a resumable queue of cells, a report.

A *cell* is one training run of the plan. `load_plan` reads a plan, `Queue` runs its missing cells,
`write_comparison` reports what is there. The names load on first use, so that reading a plan does
not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynams._lazy import lazy_names

if TYPE_CHECKING:
    from dynams.compare.cells import CellKey as CellKey
    from dynams.compare.cells import cell_keys as cell_keys
    from dynams.compare.page import write_comparison as write_comparison
    from dynams.compare.plan import Match as Match
    from dynams.compare.plan import Plan as Plan
    from dynams.compare.plan import PlanError as PlanError
    from dynams.compare.plan import Recipe as Recipe
    from dynams.compare.plan_file import load_plan as load_plan
    from dynams.compare.results import Cell as Cell
    from dynams.compare.runner import Queue as Queue
    from dynams.compare.store import Folder as Folder
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "cells": "CellKey cell_keys",
            "page": "write_comparison",
            "plan": "Match Plan PlanError Recipe",
            "plan_file": "load_plan",
            "results": "Cell",
            "runner": "Queue",
            "store": "Folder",
        },
    )
