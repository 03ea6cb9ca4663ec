"""A plan: base options, recipes, budgets and seeds.

A recipe is an opaque set of train options with a name. Importing this does not import torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dynams.checks import one_of
from dynams.training.config import TrainConfig
from dynams.training.options import Options, build

# In a recipe's options this stands for the budget.
BUDGET = "$budget"


class PlanError(ValueError):
    """A plan cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Match:
    """Another length: as many epochs as use what another recipe uses at the same budget.

    Attributes:
        recipe: the other recipe.
        by: samples (as the budget schedules plan them) or seconds (as finished cells took; the cells
            wait for them).
    """

    recipe: str
    by: Literal["samples", "seconds"]


@dataclass(frozen=True)
class Recipe:
    """A named set of train options.

    Attributes:
        name: letters, digits and hyphens.
        title: what the report calls it.
        options: on top of the plan's base.
        uses_budget: whether it is run at every budget; otherwise once a seed.
        match: where its number of epochs comes from, if not from its options.
        priority: recipes of a smaller number are run first.
    """

    name: str
    title: str
    options: Options
    uses_budget: bool
    match: Match | None = None
    priority: int = 1


@dataclass(frozen=True)
class Plan:
    """What to compare.

    Attributes:
        name: of the plan.
        base: train options of all cells.
        recipes: by name, the most informative first.
        budgets: fractions of the data, the most informative first.
        seeds: seeds of the runs.
        reference: the recipe that the others are compared with.
        pilots: seeds of the cells that are timed first, for recipes that match another's seconds; their
            accuracy counts nowhere.
        rehearsal: epochs of a run that each process makes, and throws away, before its first cell of a recipe, so that
            no cell's seconds hold what compiling and the first steps take; 0: none.
        out: folder of the cells and the report, if the plan says so.
        limit_seconds: when to stop taking cells, if the plan says so.
    """

    name: str
    base: Options
    recipes: dict[str, Recipe]
    budgets: tuple[float, ...]
    seeds: tuple[int, ...]
    reference: str
    pilots: tuple[int, ...] = ()
    rehearsal: int = 0
    out: str | None = None
    limit_seconds: float | None = None

    def options(self, recipe: Recipe, budget: float | None, seed: int) -> Options:
        """Options of a cell; of a recipe with a match, before its epochs are known."""
        options = {**self.base, **recipe.options, "run.seed": seed}
        if budget is not None and recipe.match is None:
            options = {key: _filled(value, budget) for key, value in options.items()}
            options["selection.budget"] = budget
        return options

    def config(self, recipe: Recipe, budget: float | None, seed: int) -> TrainConfig:
        """Make the configuration of a cell; of a recipe with a match, before its epochs are known."""
        return build(self.options(recipe, budget, seed))

    @property
    def timed(self) -> list[str]:
        """Recipes that have pilot cells: those matched by seconds, those whose seconds they match, the reference."""
        names = set()
        for recipe in self.recipes.values():
            if not self.pilots or recipe.match is None or recipe.match.by != "seconds":
                continue
            names |= {self.reference, recipe.match.recipe}
            if not self.shortens_reference(recipe):
                names.add(recipe.name)
        return [name for name in self.recipes if name in names]

    def shortens_reference(self, recipe: Recipe) -> bool:
        """Tell whether a recipe with a match is the reference but for its length."""
        reference = self.recipes[self.reference]
        return self.config(recipe, None, 0) == self.config(reference, None, 0)

    def budgets_of(self, recipe: Recipe) -> tuple[float | None, ...]:
        """Budgets that the recipe is run at; (None,) if it depends on none."""
        return self.budgets if recipe.uses_budget else (None,)

    def narrowed(
        self,
        *,
        recipes: Sequence[str] | None = None,
        budgets: Sequence[float] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Plan:
        """Return the plan with only some of its recipes, budgets or seeds; the reference stays.

        Raises:
            PlanError: one of them is not in the plan.
        """
        kept = dict(self.recipes)
        if recipes is not None:
            _check_in("recipes", recipes, self.recipes)
            wanted = {*recipes, self.reference}
            kept = {name: recipe for name, recipe in kept.items() if name in wanted}
            for recipe in list(kept.values()):
                if recipe.match is not None and recipe.match.recipe not in kept:
                    raise PlanError(
                        f"recipes: {recipe.name} needs {recipe.match.recipe}, whose "
                        f"{recipe.match.by} it matches"
                    )
        if budgets is not None:
            _check_in("budgets", budgets, self.budgets)
        if seeds is not None:
            _check_in("seeds", seeds, self.seeds)
        return dataclasses.replace(
            self,
            recipes=kept,
            budgets=self.budgets if budgets is None else tuple(dict.fromkeys(budgets)),
            seeds=self.seeds if seeds is None else tuple(dict.fromkeys(seeds)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as its YAML file would hold it, without what belongs to one machine."""
        recipes = {}
        for name, recipe in self.recipes.items():
            values: dict[str, Any] = {"title": recipe.title, "uses_budget": recipe.uses_budget}
            if recipe.match is not None:
                values["match"] = dataclasses.asdict(recipe.match)
                del values["uses_budget"]
            if recipe.priority != 1:
                values["priority"] = recipe.priority
            recipes[name] = {**values, **recipe.options}
        local = {"data.path", "data.cache", "run.progress"}
        return {
            "name": self.name,
            "base": {key: value for key, value in self.base.items() if key not in local},
            "recipes": recipes,
            "budgets": list(self.budgets),
            "seeds": list(self.seeds),
            "reference": self.reference,
            **({"pilot": list(self.pilots)} if self.pilots else {}),
            **({"rehearsal": self.rehearsal} if self.rehearsal else {}),
        }


def has_budget(config: TrainConfig) -> bool:
    """Tell whether the strategy keeps as many samples as selection.budget says."""
    from dynams.selection.methods.registry import STRATEGIES

    return bool(getattr(STRATEGIES[config.selection.strategy], "budgeted", False))


def names_budget(value: Any) -> bool:
    """Tell whether an option's value stands for the budget, or holds one that does."""
    if isinstance(value, Mapping):
        return any(names_budget(item) for item in value.values())
    return bool(value == BUDGET)


def _filled(value: Any, budget: float) -> Any:
    """Put the budget in its place."""
    if isinstance(value, Mapping):
        return {key: _filled(item, budget) for key, item in value.items()}
    return budget if value == BUDGET else value


def _check_in(name: str, wanted: Iterable[Any], known: Iterable[Any]) -> None:
    known = tuple(known)
    try:
        for item in wanted:
            one_of(name, item, known)
    except ValueError as error:
        raise PlanError(str(error)) from None
