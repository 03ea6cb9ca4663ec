"""Finished cells by recipe and budget, and what the reference reaches in a recipe's time.

Only whole runs count as what the reference reaches: its own, and those of recipes that differ from
it in nothing but their epochs. A point on the way of a longer run had a learning rate still high,
and would make the reference look worse than it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dynams.compare.cells import CellKey
from dynams.compare.plan import Plan, Recipe
from dynams.compare.results import Cell
from dynams.compare.statistics import Spread, spread

# Two runs whose times differ by less took the same time, as far as one can tell.
SAME_TIME = 0.02


@dataclass(frozen=True)
class Group:
    """The cells of one recipe at one budget.

    Attributes:
        recipe: which recipe.
        budget: which budget; None if the recipe depends on none.
        cells: by seed, those that have a result.
        failed: cells that failed.
        planned: cells that the plan has.
        is_reference: whether it is the reference, or the reference with other epochs.
    """

    recipe: Recipe
    budget: float | None
    cells: dict[int, Cell]
    failed: int
    planned: int
    is_reference: bool

    @property
    def title(self) -> str:
        """What tables call it."""
        budget = "" if self.budget is None else f", {self.budget:g}"
        return f"{self.recipe.title}{budget}"

    @property
    def accuracy(self) -> dict[int, float]:
        """Test accuracy at the end, by seed."""
        return {seed: cell.accuracy for seed, cell in self.cells.items()}

    @property
    def epochs(self) -> int | None:
        """Epochs of its cells; None without any."""
        return next((cell.epochs for cell in self.cells.values()), None)

    def on(self, machine: str) -> Group:
        """Return the group with only the cells of one environment."""
        kept = {seed: cell for seed, cell in self.cells.items() if cell.machine == machine}
        return Group(self.recipe, self.budget, kept, self.failed, self.planned, self.is_reference)

    def seconds(self) -> Spread:
        """Mean and spread of the seconds; meant for the cells of one environment."""
        return spread(cell.cost for cell in self.cells.values())


@dataclass(frozen=True)
class ReferenceResult:
    """What the reference reaches in some time.

    Attributes:
        accuracy: by seed.
        kind: whether it is measured, interpolated, or that of its longest run, which takes less.
        runs: from which runs, in words.
    """

    accuracy: dict[int, float]
    kind: str
    runs: str


def group_cells(plan: Plan, cells: Mapping[CellKey, Cell]) -> list[Group]:
    """Group the plan's cells, the reference first, budgets ascending."""
    reference = plan.config(plan.recipes[plan.reference], None, 0).to_dict()
    groups = []
    for recipe in plan.recipes.values():
        own = plan.config(recipe, None, 0).to_dict()
        own["optim"] = {**own["optim"], "epochs": reference["optim"]["epochs"]}
        for budget in sorted(plan.budgets_of(recipe), key=lambda value: value or 0.0):
            keys = [CellKey(recipe.name, budget, seed) for seed in plan.seeds]
            found = [cells[key] for key in keys if key in cells]
            done = {cell.key.seed: cell for cell in found if cell.failure is None}
            failed = len(found) - len(done)
            is_reference = own == reference and (budget is None or recipe.match is not None)
            groups.append(Group(recipe, budget, done, failed, len(keys), is_reference))
    groups.sort(key=lambda group: group.recipe.name != plan.reference)
    return groups


def machines(groups: Iterable[Group]) -> dict[str, int]:
    """Count cells by environment, the one with most cells first."""
    counts: dict[str, int] = {}
    for group in groups:
        for cell in group.cells.values():
            if cell.machine is not None:
                counts[cell.machine] = counts.get(cell.machine, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def reached_in(seconds: float, references: Sequence[Group]) -> ReferenceResult | None:
    """What the reference reaches in ``seconds``.

    Args:
        seconds: the time, all purposes but evaluation.
        references: the reference and its shortened runs, of one environment.

    Returns:
        None if every run of the reference takes longer.
    """
    rungs = sorted(
        ((group.seconds().mean, group) for group in references if group.cells),
        key=lambda rung: rung[0],
    )
    if not rungs:
        return None
    near = min(rungs, key=lambda rung: abs(rung[0] - seconds))
    if abs(near[0] - seconds) <= SAME_TIME * near[0]:
        return ReferenceResult(near[1].accuracy, "measured", _run(near))
    below = [rung for rung in rungs if rung[0] < seconds]
    above = [rung for rung in rungs if rung[0] >= seconds]
    if not below:
        return None
    if not above:
        return ReferenceResult(below[-1][1].accuracy, "longest run", _run(below[-1]))
    (t0, shorter), (t1, longer) = below[-1], above[0]
    share = (seconds - t0) / (t1 - t0)
    first, second = shorter.accuracy, longer.accuracy
    between = {
        seed: first[seed] + share * (second[seed] - first[seed])
        for seed in sorted(set(first) & set(second))
    }
    return ReferenceResult(between, "interpolated", f"{_run(below[-1])} and {_run(above[0])}")


def _run(rung: tuple[float, Group]) -> str:
    seconds, group = rung
    unit = "epoch" if group.epochs == 1 else "epochs"
    return f"{group.epochs} {unit} in {seconds:.{2 if seconds < 9.995 else 1}f} s"
