"""Reading plans: presets, YAML files, folders of earlier comparisons.

What a plan holds is checked when it is read: every recipe at every budget must make a valid
`TrainConfig`. Every message names the file and the place in it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from dynams.checks import at_least, fraction, of_type, one_of, positive, whole
from dynams.compare.plan import Match, Plan, PlanError, Recipe, has_budget, names_budget
from dynams.paths import told_path
from dynams.suggestions import did_you_mean, unknown
from dynams.training.changed_settings import MAY_CHANGE_ON_RESUME
from dynams.training.config import TrainConfig
from dynams.training.options import Options, build, read_options, text_names, train_options
from dynams.yaml_file import YamlError, read_yaml

PLAN_NAME = "plan.yaml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_KEYS = (
    "name", "base", "recipes", "budgets", "seeds", "reference", "pilot", "rehearsal", "extends", "out",
    "limit_seconds",
)  # fmt: skip
_RECIPE_KEYS = ("title", "uses_budget", "match", "priority")
_MATCH_KEYS = ("recipe", "by")
_TEXTS = ("name", "title", "reference", "extends", "out", "match.recipe", "match.by")
# What says how many training images there are.
_IMAGES = ("name", "path", "classes", "limit", "holdout")
_DECIDED = {
    "run.seed": "seeds says which",
    "run.name": "each cell has its own",
    "run.dir": "--out says where",
    "selection.budget": "budgets says which",
}


def presets() -> dict[str, Path]:
    """List the plans that come with the package: name and file."""
    folder = Path(str(resources.files("dynams.compare"))) / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def load_plan(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Read a plan.

    Args:
        name: a preset, a YAML file, or the folder of an earlier comparison.
        overrides: base options by dotted name, which count before the plan's own.

    Raises:
        PlanError: there is no such plan, or it cannot be used.
    """
    known = presets()
    path = known.get(str(name), told_path(name))
    if path.is_dir():
        path = path / PLAN_NAME
    if not os.path.lexists(path):
        raise PlanError(
            f"plan: no file {path}, and presets are {', '.join(known)}{did_you_mean(str(name), known)}"
        )
    where = str(name) if str(name) in known else str(path)
    return read_plan(_values(path, where), where, path.stem, overrides)


def _values(path: Path, where: str) -> Any:
    """What a plan's file holds; on top of the preset's that it extends, if it does.

    Raises:
        PlanError: it is no YAML, or there is no such preset.
    """
    texts = [*text_names(train_options()), *_TEXTS]
    try:
        values = read_yaml(path, where, texts)
    except YamlError as error:
        raise PlanError(str(error)) from error
    if not isinstance(values, Mapping) or "extends" not in values:
        return values
    known = presets()
    own = dict(values)
    begun = own.pop("extends")
    try:
        one_of(f"{where}: extends", begun, known)
        below = _values(known[begun], begun)
        for key in ("base", "recipes"):
            of_type(f"{where}: {key}", {} if own.get(key) is None else own[key], dict)
        base = read_options(below.get("base"), f"{begun}: base")
        base |= read_options(own.get("base"), f"{where}: base")
    except (TypeError, ValueError) as error:
        raise PlanError(str(error)) from error
    recipes = {**below.get("recipes", {}), **(own.get("recipes") or {})}
    below.pop("name", None)
    return {**below, **own, "base": base, "recipes": recipes}


def read_plan(
    values: Any, where: str, name: str = "plan", overrides: Mapping[str, Any] | None = None
) -> Plan:
    """Make a plan of the values that its YAML file holds.

    Args:
        values: what the file holds.
        where: what the message of an error begins with.
        name: the plan's name, where it has none of its own.
        overrides: as in `load_plan`.

    Raises:
        PlanError: the plan cannot be used.
    """
    given = read_options(overrides or {}, "options")
    try:
        of_type(where, values, dict)
        return _PlanReader(where, values, given).plan(name)
    except PlanError:
        raise
    except (TypeError, ValueError) as error:
        raise PlanError(str(error)) from error


@dataclass(frozen=True)
class _PlanReader:
    """Reads one plan; `where` begins its errors."""

    where: str
    values: Mapping[str, Any]
    overrides: Options = field(default_factory=dict)

    def plan(self, name: str) -> Plan:
        _check_keys(self.where, self.values, _KEYS)
        values = {key: value for key, value in self.values.items() if value is not None}
        base = _rooted(read_options(values.get("base"), f"{self.where}: base"))
        base.update(_rooted(self.overrides))
        self._refuse_decided("base", base)
        given = values.get("recipes", {})
        of_type(f"{self.where}: recipes", given, dict)
        if not given:
            raise PlanError(f"{self.where}: recipes: got none, want at least one")
        recipes = {str(key): self._recipe(str(key), value, base) for key, value in given.items()}
        recipes = {key: self._matched(recipe, recipes) for key, recipe in recipes.items()}
        reference = values.get("reference", "full")
        one_of(f"{self.where}: reference", reference, recipes)
        seeds = self._seeds(values.get("seeds", [0]))
        pilots = self._pilots(values.get("pilot", []), seeds)
        rehearsal = whole(f"{self.where}: rehearsal", values.get("rehearsal", 0), 0)
        out, limit = values.get("out"), values.get("limit_seconds")
        if out is not None:
            of_type(f"{self.where}: out", out, str)
        if limit is not None:
            positive(f"{self.where}: limit_seconds", limit)
        plan = Plan(
            name=self._name("name", values.get("name", name)),
            base=base,
            recipes=recipes,
            budgets=self._budgets(values.get("budgets", [])),
            seeds=seeds,
            reference=reference,
            pilots=pilots,
            rehearsal=rehearsal,
            out=out,
            limit_seconds=None if limit is None else float(limit),
        )
        self._check(plan)
        return plan

    def _recipe(self, name: str, values: Any, base: Options) -> Recipe:
        where = f"{self.where}: recipes.{name}"
        self._name(f"recipes.{name}", name)
        of_type(where, {} if values is None else values, dict)
        values = dict(values or {})
        own = {key: values.pop(key) for key in _RECIPE_KEYS if key in values}
        own = {key: value for key, value in own.items() if value is not None}
        options = _rooted(read_options(values, where, beside=_RECIPE_KEYS))
        self._refuse_decided(
            f"recipes.{name}", {k: v for k, v in options.items() if k != "selection.budget"}
        )
        title, priority = own.get("title", name), own.get("priority", 1)
        of_type(f"{where}: title", title, str)
        if not title.strip():
            raise PlanError(f"{where}: title: got {title!r}, want some words")
        of_type(f"{where}: priority", priority, int)
        config = self._build(where, {**base, **options})
        uses = own.get(
            "uses_budget",
            (has_budget(config) and "selection.budget" not in options)
            or any(names_budget(value) for value in options.values()),
        )
        of_type(f"{where}: uses_budget", uses, bool)
        if uses and "selection.budget" in options:
            raise PlanError(
                f"{where}: selection.budget: budgets says which; with a budget of its own a "
                "recipe needs uses_budget: false"
            )
        match = None
        if "match" in own:
            if "uses_budget" in own or "optim.epochs" in options:
                raise PlanError(f"{where}: match decides; leave out uses_budget and optim.epochs")
            match = self._match(where, own["match"])
        return Recipe(name, title, options, uses, match, priority)

    def _match(self, where: str, values: Any) -> Match:
        of_type(f"{where}: match", values, dict)
        _check_keys(f"{where}: match", values, _MATCH_KEYS)
        by = values.get("by", "samples")
        one_of(f"{where}: match.by", by, ("samples", "seconds"))
        return Match(str(values.get("recipe")), by)

    def _matched(self, recipe: Recipe, recipes: Mapping[str, Recipe]) -> Recipe:
        """Check the recipe's match, and use the budgets that the matched recipe uses."""
        if recipe.match is None:
            return recipe
        where = f"{self.where}: recipes.{recipe.name}: match.recipe"
        one_of(where, recipe.match.recipe, recipes)
        other = recipes[recipe.match.recipe]
        if other.match is not None:
            raise PlanError(f"{where}: {other.name} matches another itself")
        return dataclasses.replace(recipe, uses_budget=other.uses_budget)

    def _budgets(self, values: Any) -> tuple[float, ...]:
        of_type(f"{self.where}: budgets", values, list)
        for value in values:
            fraction(f"{self.where}: budgets", value)
        return self._distinct("budgets", [float(value) for value in values])

    def _seeds(self, values: Any) -> tuple[int, ...]:
        if isinstance(values, int) and not isinstance(values, bool) and values > 0:
            return tuple(range(values))
        if not isinstance(values, list) or not values:
            raise PlanError(
                f"{self.where}: seeds: got {values!r}, want a list of whole numbers or how many"
            )
        for value in values:
            of_type(f"{self.where}: seeds", value, int)
            at_least(f"{self.where}: seeds", value, 0)
        return self._distinct("seeds", values)

    def _pilots(self, values: Any, seeds: tuple[int, ...]) -> tuple[int, ...]:
        values = values if isinstance(values, list) else [values]
        pilots = [whole(f"{self.where}: pilot", value, 0) for value in values]
        for pilot in pilots:
            if pilot in seeds:
                raise PlanError(
                    f"{self.where}: pilot: got {pilot}, want a seed that is not among seeds"
                )
        return self._distinct("pilot", pilots)

    def _distinct(self, name: str, values: list[Any]) -> tuple[Any, ...]:
        for value in values:
            if values.count(value) > 1:
                raise PlanError(f"{self.where}: {name}: {value} is given twice")
        return tuple(values)

    def _check(self, plan: Plan) -> None:
        """Check every recipe at every budget."""
        reference = plan.recipes[plan.reference]
        if reference.uses_budget or reference.match is not None:
            raise PlanError(
                f"{self.where}: reference: got {reference.name}, which depends on the budget, "
                "want a recipe that does not"
            )
        for recipe in plan.recipes.values():
            where = f"{self.where}: recipes.{recipe.name}"
            if recipe.uses_budget and not plan.budgets:
                raise PlanError(
                    f"{self.where}: budgets: got none, want at least one for {recipe.name}"
                )
            for budget in plan.budgets_of(recipe):
                config = self._build(where, plan.options(recipe, budget, plan.seeds[0]))
            if config.run.devices != 1:
                raise PlanError(
                    f"{where}: run.devices: got {config.run.devices}, want 1: a cell runs on one"
                )
            if recipe.match is not None and recipe.match.by == "samples":
                other = plan.recipes[recipe.match.recipe]
                options = plan.options(other, plan.budgets_of(other)[0], plan.seeds[0])
                of_other = self._build(f"{self.where}: recipes.{other.name}", options)
                self._check_images(where, config, of_other, other.name)
            if (
                recipe.match is not None
                and recipe.match.by == "seconds"
                and not plan.pilots
                and not plan.shortens_reference(recipe)
            ):
                raise PlanError(
                    f"{where}: match.by: seconds of a recipe that is not {reference.name}, shortened, "
                    "needs pilot, a seed with which its epochs are timed"
                )

    def _check_images(
        self, where: str, own: TrainConfig, of_other: TrainConfig, other: str
    ) -> None:
        """Refuse to match samples by epochs where an epoch of the two has not as many."""
        for name in _IMAGES:
            got, want = getattr(own.data, name), getattr(of_other.data, name)
            if got != want:
                raise PlanError(
                    f"{where}: data.{name}: got {got!r}, want {want!r} as {other} has, whose samples it matches "
                    "in epochs; or optim.epochs in place of match"
                )

    def _build(self, where: str, options: Options) -> TrainConfig:
        try:
            return build(options)
        except (TypeError, ValueError) as error:
            raise PlanError(f"{where}: {error}") from error

    def _refuse_decided(self, name: str, options: Options) -> None:
        for key, reason in _DECIDED.items():
            if key in options:
                raise PlanError(f"{self.where}: {name}: {key}: {reason}; leave it out")

    def _name(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise PlanError(
                f"{self.where}: {name}: got {value!r}, want a name of letters, digits and hyphens"
            )
        return value


def _rooted(options: Options) -> Options:
    """Options with the paths that a result depends on meaning the same from everywhere."""
    paths = {name for name, each in train_options().items() if each.path} - MAY_CHANGE_ON_RESUME
    return {
        name: os.path.abspath(told_path(value)) if name in paths and value else value
        for name, value in options.items()
    }


def _check_keys(where: str, values: Mapping[Any, Any], known: Iterable[str]) -> None:
    known = tuple(known)
    for key in values:
        if key not in known:
            raise PlanError(f"{where}: {unknown('key', key, known)}; known: {', '.join(known)}")
