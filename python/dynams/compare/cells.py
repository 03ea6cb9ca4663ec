"""The cells of a plan: their names, their order, and what each of them trains.

Order of information: recipes of a smaller priority first; among them by diagonals, so that the
first seed of the first budget comes first, then its second seed and the first seed of the second
budget, and so on; within a diagonal the reference first, then as the plan lists the recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

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
        seconds: what finished cells took on this machine, their mean, or the least of all pilots; None if there are none,
            or a pilot is missing.
    """

    epochs: int | None = None
    seconds: float | None = None


Known = Callable[[str, "float | None"], Length]


def cell_keys(plan: Plan) -> list[CellKey]:
    """List the plan's cells in the order in which they are run: the pilots first."""
    places = []
    for place, recipe in enumerate(plan.recipes.values()):
        behind = recipe.name != plan.reference
        for b, budget in enumerate(plan.budgets_of(recipe)):
            for s, seed in enumerate(plan.seeds):
                order = (recipe.priority, s + b, behind, b, place)
                places.append((order, CellKey(recipe.name, budget, seed)))
    keys = [key for _, key in sorted(places, key=lambda item: item[0])]
    timed = set(plan.timed)
    pilots = dict.fromkeys(
        CellKey(key.recipe, key.budget, pilot)
        for pilot in plan.pilots
        for key in keys
        if key.recipe in timed
    )
    return [*pilots, *keys]


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
    if recipe.match is None or key.seed in plan.pilots:
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
    if match.by == "samples":
        other = plan.config(plan.recipes[match.recipe], budget, plan.seeds[0])
        return _epochs(own, planned_share(other), planned_share)
    begun = known(recipe.name, budget).epochs
    if begun is not None:
        return begun
    wanted, whole = known(match.recipe, budget).seconds, known(plan.reference, None).seconds
    if wanted is None or not whole:
        return None
    epoch = whole / plan.config(plan.recipes[plan.reference], None, 0).optim.epochs
    timed = whole if plan.shortens_reference(recipe) else known(recipe.name, budget).seconds
    return None if timed is None else _epochs(own, wanted, seconds_of(own, timed, epoch))


def seconds_of(config: TrainConfig, timed: float, epoch: float) -> Callable[[TrainConfig], float]:
    """Tell the seconds of a run with other epochs by those of a timed one.

    Epochs on all samples take ``epoch`` each, as the reference's do; what is left of ``timed`` are those that
    select, in proportion to their budgets. Where that leaves nothing, seconds go by the epochs.

    Args:
        config: of the timed run.
        timed: its seconds.
        epoch: seconds of an epoch of the reference.
    """

    def parts(run: TrainConfig) -> tuple[int, float]:
        times = timetable_of(run, budgeted=has_budget(run))
        selects = [e for e in range(run.optim.epochs) if times.phase(e) == "selected"]
        return run.optim.epochs - len(selects), math.fsum(map(times.planned_budget, selects))

    all_samples, selected = parts(config)
    rate = (timed - all_samples * epoch) / selected if selected else 0.0

    def seconds(run: TrainConfig) -> float:
        if rate <= 0:
            return timed * run.optim.epochs / config.optim.epochs
        whole, chosen = parts(run)
        return whole * epoch + chosen * rate

    return seconds


def _epochs(config: TrainConfig, wanted: float, cost: Callable[[TrainConfig], float]) -> int:
    """Find the number of epochs, at least 1, with which a run costs what is nearest to ``wanted``; cost grows with them."""

    def of(epochs: int) -> float:
        return cost(replace(config, optim=replace(config.optim, epochs=epochs)))

    epochs = 1
    while of(epochs) < wanted:
        epochs += 1
    return epochs if epochs == 1 or of(epochs) - wanted <= wanted - of(epochs - 1) else epochs - 1
