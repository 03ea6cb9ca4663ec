"""The cells of a plan: their names, their order, and what each of them trains.

Order of information: recipes of a smaller priority first; among them by diagonals, so that the
first seed of the first budget comes first, then its second seed and the first seed of the second
budget, and so on; within a diagonal the reference first, then as the plan lists the recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dynams.compare.plan import Plan, Recipe, has_budget
from dynams.training.config import TrainConfig
from dynams.training.options import build
from dynams.training.timetable import timetable_of


@dataclass(frozen=True)
class CellKey:
    """Names a cell: one recipe at one budget (None: it depends on none) with one seed."""

    recipe: str
    budget: float | None
    seed: int

    @property
    def stem(self) -> str:
        """Its name among files; recipe names hold no underscore."""
        budget = "" if self.budget is None else f"_b{self.budget!r}"
        return f"{self.recipe}{budget}_s{self.seed}"

    def __str__(self) -> str:
        budget = "" if self.budget is None else f", budget {self.budget:g}"
        return f"{self.recipe}{budget}, seed {self.seed}"


@dataclass(frozen=True)
class Length:
    """What is known of how long the cells of a recipe at a budget are, seeds apart.

    Attributes:
        epochs: epochs of a cell that was begun, None if none was.
        seconds: mean seconds that finished cells took on this machine, None if there are none.
    """

    epochs: int | None = None
    seconds: float | None = None


Known = Callable[[str, "float | None"], Length]


def cell_keys(plan: Plan) -> list[CellKey]:
    """List the plan's cells in the order in which they are run."""
    places = []
    for place, recipe in enumerate(plan.recipes.values()):
        behind = recipe.name != plan.reference
        for b, budget in enumerate(plan.budgets_of(recipe)):
            for s, seed in enumerate(plan.seeds):
                order = (recipe.priority, s + b, behind, b, place)
                places.append((order, CellKey(recipe.name, budget, seed)))
    return [key for _, key in sorted(places, key=lambda item: item[0])]


def cell_config(plan: Plan, key: CellKey, known: Known) -> TrainConfig | None:
    """Make the configuration of a cell.

    Args:
        plan: the plan.
        key: one of its cells.
        known: what is known of the length of other cells, for recipes that match another.

    Returns:
        None as long as its number of epochs is not known: the cells that it waits for are not
        finished.
    """
    recipe = plan.recipes[key.recipe]
    if recipe.match is None:
        return plan.config(recipe, key.budget, key.seed)
    epochs = _matched_epochs(plan, recipe, key.budget, known)
    if epochs is None:
        return None
    options = plan.options(recipe, key.budget, key.seed)
    return build({**options, "optim.epochs": epochs})


def planned_share(config: TrainConfig) -> float:
    """Epochs' worth of samples that a run's budget schedule plans: 30 for 50 epochs at 0.6.

    Strategies that choose inside a batch, or decide themselves how many samples they keep, plan all.
    """
    times = timetable_of(config, budgeted=has_budget(config))
    return math.fsum(times.planned_budget(epoch) for epoch in range(config.optim.epochs))


def _matched_epochs(plan: Plan, recipe: Recipe, budget: float | None, known: Known) -> int | None:
    match = recipe.match
    assert match is not None
    own = plan.config(recipe, None, plan.seeds[0])
    other = plan.recipes[match.recipe]
    if match.by == "samples":
        theirs = planned_share(plan.config(other, budget, plan.seeds[0]))
        return _whole(own.optim.epochs * theirs / planned_share(own))
    begun = known(recipe.name, budget).epochs
    if begun is not None:
        return begun
    theirs_seconds = known(other.name, budget).seconds
    whole = known(plan.reference, None).seconds
    if theirs_seconds is None or not whole:
        return None
    return _whole(own.optim.epochs * theirs_seconds / whole)


def _whole(epochs: float) -> int:
    return max(1, round(epochs))
