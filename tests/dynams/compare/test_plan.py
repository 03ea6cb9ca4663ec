"""Plans: what they hold, what is refused, and the order of their cells."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynams.compare.cells import CellKey, Length, cell_config, cell_keys, planned_share
from dynams.compare.options import digest, essential
from dynams.compare.plan import PlanError
from dynams.compare.plan_file import load_plan, presets, read_plan
from dynams.training.config import TrainConfig
from dynams.training.options import build, read_options

RECIPES: dict[str, Any] = {
    "full": {"selection.strategy": "full"},
    "margin": {"selection.strategy": "margin"},
}


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_preset_s_cells_all_have_a_configuration_once_lengths_are_known(name):
    plan = load_plan(name)
    assert name in presets()
    keys = cell_keys(plan)
    assert len({key.stem for key in keys}) == len(keys)
    first = [*plan.pilots, *plan.seeds][0]
    assert keys[0] == CellKey(plan.reference, None, first)
    for key in keys:
        config = cell_config(plan, key, lambda *_: Length(epochs=7))
        assert config is not None
        assert config.run.seed == key.seed
        if plan.recipes[key.recipe].match is None and key.budget is not None:
            assert config.selection.budget == key.budget


def test_a_plan_may_extend_a_preset(tmp_path):
    below = load_plan("digits")
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: digits\nseeds: [5]\nbase: {optim.lr: 0.2, data: {limit: 500}}\n"
        "recipes: {static: {selection.strategy: random}, more: {selection.strategy: full}}\n"
    )
    plan = load_plan(file)
    assert plan.base == {**below.base, "optim.lr": 0.2, "data.limit": 500}
    assert list(plan.recipes) == [*below.recipes, "more"]
    assert plan.recipes["margin"] == below.recipes["margin"]
    assert plan.recipes["static"].options == {"selection.strategy": "random"}
    assert (plan.name, plan.seeds, plan.budgets) == ("mine", (5,), below.budgets)
    file.write_text("extends: digit\n")
    with pytest.raises(
        PlanError, match=r"extends: got 'digit', want one of .* \(did you mean digits"
    ):
        load_plan(file)
    file.write_text("extends: digits\nrecipes: [1]\n")
    with pytest.raises(PlanError, match=r"recipes: got \[1\], want keys with values"):
        load_plan(file)


@pytest.mark.parametrize("name", ["linear", "cosine", "power"])
def test_the_ablations_schedules_train_on_as_many_samples_as_the_constant_one(name):
    plan = load_plan("ablations-cpu")
    shares = [planned_share(plan.config(plan.recipes[key], None, 0)) for key in ("margin", name)]
    assert shares == pytest.approx([8.0, 8.0], abs=1e-4)  # 2 whole epochs and 10 of 0.6


def test_options_may_be_sections_or_dotted_and_overrides_count_first(make_plan):
    nested = read_plan({"recipes": RECIPES, "budgets": [0.6], "base": {"optim": {"lr": 1}}}, "p")
    dotted = read_plan(
        {"recipes": RECIPES, "budgets": [0.6], "base": {"optim.lr": 0.2}}, "p", "p", {"optim.lr": 1}
    )
    assert nested.base == dotted.base == {"optim.lr": 1.0}
    assert isinstance(nested.base["optim.lr"], float)
    assert read_options({"optim": {"weight_decay": "5e-4"}}, "p") == {"optim.weight_decay": 5e-4}


def test_recipes_that_depend_on_no_budget_run_once_a_seed(make_plan):
    plan = make_plan(budgets=[0.5, 0.7], recipes={**RECIPES, "own": {
        "selection.strategy": "random", "selection.budget": 0.2, "uses_budget": False}})  # fmt: skip
    budgets = {name: plan.budgets_of(recipe) for name, recipe in plan.recipes.items()}
    assert budgets == {"full": (None,), "margin": (0.5, 0.7), "own": (None,)}
    config = cell_config(plan, CellKey("own", None, 1), lambda *_: Length())
    assert config is not None
    assert config.selection.budget == 0.2


def test_strategies_without_a_budget_run_once_unless_an_option_of_theirs_is_the_budget(make_plan):
    own = {
        "selection.strategy": "infobatch",
        "selection.options": {"infobatch": {"ratio": "$budget"}},
    }
    recipes = {**RECIPES, "info": {"selection.strategy": "infobatch"}, "ratio": own}
    plan = make_plan(budgets=[0.5, 0.7], recipes=recipes)
    assert plan.budgets_of(plan.recipes["info"]) == (None,)
    assert plan.budgets_of(plan.recipes["ratio"]) == (0.5, 0.7)
    config = plan.config(plan.recipes["ratio"], 0.7, 0)
    assert config.selection.options == {"infobatch": {"ratio": 0.7}}


def test_the_queue_goes_by_priority_then_by_diagonals_of_seeds_and_budgets(make_plan):
    plan = make_plan(
        budgets=[0.6, 0.3],
        seeds=[5, 6],
        recipes={
            "late": {"selection.strategy": "static-margin", "priority": 2},
            "margin": RECIPES["margin"],
            "full": RECIPES["full"],
        },
    )
    order = [(key.recipe, key.budget, key.seed) for key in cell_keys(plan)]
    assert order == [
        ("full", None, 5), ("margin", 0.6, 5),
        ("full", None, 6), ("margin", 0.6, 6), ("margin", 0.3, 5),
        ("margin", 0.3, 6),
        ("late", 0.6, 5), ("late", 0.6, 6), ("late", 0.3, 5), ("late", 0.3, 6),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"selection.strategy": "full"}, 10.0),
        ({"selection.budget": 0.5, "selection.warmup_epochs": 2}, 6.0),
        ({"selection.budget": 0.5, "selection.warmup_epochs": 0}, 5.0),
        # Linear from 1 to 0.1 over epochs 0 to 9, renewed every 5 epochs: 5 at 1.0, 5 at 0.5.
        ({"selection.budget": 0.1, "selection.warmup_epochs": 0, "selection.schedule": "linear",
          "selection.refresh_every": 5}, 7.5),
        ({"selection.budget": 0.5, "selection.warmup_epochs": 2, "selection.tail": 0.2}, 7.0),
        ({"selection.budget": 0.5, "selection.warmup_epochs": 20}, 10.0),
        ({"selection.strategy": "infobatch", "selection.budget": 0.5}, 10.0),
    ],
)  # fmt: skip
def test_the_planned_samples_are_the_schedule_s(options, share):
    config = build({**options, "optim.epochs": 10})
    assert planned_share(config) == pytest.approx(share, abs=1e-9)


def test_a_match_by_samples_has_the_epochs_of_as_many_samples(make_plan):
    plan = make_plan(base={"optim.epochs": 40, "selection.warmup_epochs": 10})
    config = cell_config(plan, CellKey("short", 0.5, 0), lambda *_: Length())
    assert config is not None
    assert config.optim.epochs == 25  # 10 whole epochs and 30 halves


def test_a_match_by_seconds_waits_then_takes_the_share_then_keeps_what_was_begun(make_plan):
    plan = make_plan(
        base={"optim.epochs": 40},
        recipes={
            **RECIPES,
            "short": {"selection.strategy": "full", "match": {"recipe": "margin", "by": "seconds"}},
        },
    )
    key = CellKey("short", 0.5, 1)

    def epochs(**known: Length) -> int | None:
        config = cell_config(plan, key, lambda recipe, _: known.get(recipe, Length()))
        return None if config is None else config.optim.epochs

    assert epochs() is None
    assert epochs(margin=Length(seconds=30.0)) is None
    assert epochs(margin=Length(seconds=30.0), full=Length(seconds=50.0)) == 24
    assert epochs(short=Length(epochs=23), margin=Length(seconds=30.0)) == 23


@pytest.mark.parametrize(
    ("options", "timed", "epochs"),
    [
        # An epoch of the reference is 5 s, all of them 100 s. 4 on everything, 20 s, leave 16 halves of 2.5 s, of
        # which 80 s hold 32.
        ({"selection.warmup_epochs": 4}, 60.0, 36),
        # Scores that take a second an epoch: halves of 3.5 s.
        ({"selection.warmup_epochs": 4}, 76.0, 27),
        # The tail is a tenth of whatever length: 32 epochs are 4 + 3 whole and 25 halves, 97.5 s; 33 are 100 s.
        ({"selection.warmup_epochs": 4, "selection.tail": 0.1}, 65.0, 33),
        # What decides for itself, or in the step, has epochs of its own seconds: 4 s from the fifth on.
        ({"selection.strategy": "infobatch", "selection.warmup_epochs": 4}, 84.0, 24),
        # Nothing is left for the epochs that select: in proportion.
        ({"selection.warmup_epochs": 4}, 10.0, 200),
    ],
)
def test_a_pilot_s_seconds_tell_the_epochs_that_fill_the_reference_s(
    make_plan, options, timed, epochs
):
    plan = make_plan(
        pilot=9,
        base={"optim.epochs": 20, "selection.warmup_epochs": 0},
        budgets=[],
        recipes={
            "full": RECIPES["full"],
            "timed": {
                "selection.strategy": "random",
                "selection.budget": 0.5,
                "match": {"recipe": "full", "by": "seconds"},
                **options,
            },
        },
    )
    keys = cell_keys(plan)
    pilots = [CellKey("full", None, 9), CellKey("timed", None, 9)]
    assert keys[:2] == pilots
    assert all(key.seed != 9 for key in keys[2:])
    known = {"full": Length(seconds=100.0), "timed": Length(seconds=timed)}

    def epochs_of(seed: int, known: dict[str, Length]) -> int | None:
        key = CellKey("timed", None, seed)
        config = cell_config(plan, key, lambda recipe, _: known.get(recipe, Length()))
        return None if config is None else config.optim.epochs

    assert plan.narrowed(recipes=[]).timed == []
    assert epochs_of(9, {}) == 20
    assert epochs_of(0, {"full": known["full"]}) is None
    assert epochs_of(0, known) == epochs
    assert read_plan(plan.to_dict(), "again") == plan


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"receipes": {}}, "unknown key receipes (did you mean recipes?)"),
        ({"recipes": {}}, "recipes: got none, want at least one"),
        ({"recipes": {"full": {"selection.strateg": "full"}}}, "did you mean selection.strategy?"),
        ({"recipes": {"full": {"titel": "x"}}}, "recipes.full: unknown key titel"),
        ({"recipes": {"full": {"titel": "x"}}}, "(did you mean title?)"),
        ({"recipes": {"a_b": {}}}, "got 'a_b', want a name of letters, digits and hyphens"),
        ({"recipes": {"full": 3}}, "recipes.full: got 3, want keys with values"),
        ({"reference": "ful"}, "reference: got 'ful', want one of full, margin, short (did you"),
        ({"reference": "margin"}, "reference: got margin, which depends on the budget"),
        ({"budgets": [1.5]}, "budgets: got 1.5, want a number in (0, 1]"),
        ({"budgets": 0.5}, "budgets: got 0.5, want a list"),
        ({"budgets": [0.5, 0.5]}, "budgets: 0.5 is given twice"),
        ({"budgets": []}, "budgets: got none, want at least one for margin"),
        ({"seeds": [-1]}, "seeds: got -1, want at least 0"),
        ({"seeds": []}, "seeds: got [], want a list"),
        ({"limit_seconds": 0}, "limit_seconds: got 0, want a number in (0, inf)"),
        ({"out": 3}, "out: got 3, want text"),
        ({"name": "a b"}, "name: got 'a b', want a name"),
        ({"base": {"run.seed": 1}}, "base: run.seed: seeds says which"),
        ({"base": {"optim": {"lr": -1}}}, "optim.lr: got -1.0, want a number in (0, inf)"),
        ({"base": {"optim": {"lr": "fast"}}}, "base: optim.lr: got 'fast', want a number"),
        ({"base": {"optim": {"epochs": 2.5}}}, "optim.epochs: got 2.5, want a whole number"),
        ({"base": {"data.augment": "yes"}}, "data.augment: got 'yes', want true or false"),
        ({"base": {"data.name": "mnist"}}, "data.name: got 'mnist', want one of digits"),
        ({"base": {"optim": 3}}, "base: optim: got 3, want keys with values"),
        ({"base": {"optim": {"lr": 1.0}, "optim.lr": 2.0}}, "optim.lr is given twice"),
        ({"base": {"run.devices": 2}}, "run.devices: got 2, want 1"),
        ({"pilot": 1, "seeds": [0, 1]}, "pilot: got 1, want a seed that is not among seeds"),
        ({"pilot": [9, 0], "seeds": [0, 1]}, "pilot: got 0, want a seed that is not among seeds"),
        ({"pilot": [9, 9]}, "pilot: 9 is given twice"),
        ({"pilot": [-1]}, "pilot: got -1, want at least 0"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_used_is_refused_with_the_place(make_plan, changes, said):
    with pytest.raises(PlanError) as refused:
        make_plan(**changes)
    assert str(refused.value).startswith("plan.yaml: ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            {"match": {"recipe": "margn"}},
            "match.recipe: got 'margn', want one of full, margin, x (did you mean margin?)",
        ),
        (
            {"match": {"recipe": "margin", "by": "steps"}},
            "match.by: got 'steps', want one of samples, seconds",
        ),
        ({"match": {"recip": "margin"}}, "unknown key recip (did you mean recipe?)"),
        ({"match": 3}, "match: got 3, want keys with values"),
        ({"match": {"recipe": "x"}}, "x matches another itself"),
        ({"match": {"recipe": "margin"}, "optim.epochs": 3}, "leave out uses_budget and optim"),
        (
            {"match": {"recipe": "full"}, "data.limit": 60},
            "data.limit: got 60, want 120 as full has, whose samples it matches in epochs",
        ),
        ({"match": {"recipe": "margin"}, "data.holdout": 0.2}, "data.holdout: got 0.2, want 0.0"),
        (
            {"match": {"recipe": "margin", "by": "seconds"}},
            "that is not full, shortened, needs pilot",
        ),
        ({"selection.budget": 0.3}, ""),
        ({"selection.budget": 0.3, "uses_budget": True}, "budgets says which"),
        ({"uses_budget": 1}, "uses_budget: got 1, want true or false"),
        ({"priority": "high"}, "priority: got 'high', want a whole number"),
        ({"title": ""}, "title: got '', want some words"),
        ({"run.name": "x"}, "run.name: each cell has its own"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused_with_its_name(make_plan, recipe, said):
    recipes = {**RECIPES, "x": {"selection.strategy": "random", **recipe}}
    if not said:
        assert not make_plan(recipes=recipes).recipes["x"].uses_budget
        return
    with pytest.raises(PlanError) as refused:
        make_plan(recipes=recipes)
    assert str(refused.value).startswith("plan.yaml: recipes.x")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[", "is not YAML"),
        (b"\xff\x00", "is not a text file"),
        (b"words", "got 'words', want keys with values"),
        (
            b"base:\n  optim: {lr: 1}\n  optim.lr: 2\n",
            "base.optim.lr is given twice, in line 2 and line 3",
        ),
        (b"recipes: {a: {}}\nrecipes: {b: {}}\n", "recipes is given twice, in line 1 and line 2"),
        (b"recipes: {full: {optim: 3}}\n", r"recipes.full: optim: got 3, want keys with values"),
    ],
)
def test_a_file_that_holds_no_plan_is_refused(tmp_path, content, said):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(PlanError, match=said):
        load_plan(file)
    with pytest.raises(PlanError, match=r"no file .*did you mean digits"):
        load_plan("digit")


def test_an_empty_section_of_a_plan_is_none_and_text_is_as_it_is_written(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: 2024\nbase:\n  optim:\nreference: no\nseeds:\nrecipes:\n"
        "  no: {title: 1e3, selection.strategy: full, proxy: , optim.lr: 1e-3}\n"
    )
    plan = load_plan(file)
    assert (plan.name, plan.base, plan.seeds, plan.reference) == ("2024", {}, (0,), "no")
    assert plan.recipes["no"].title == "1e3"
    assert plan.recipes["no"].options == {"selection.strategy": "full", "optim.lr": 0.001}


def test_scores_told_from_elsewhere_are_the_same_scores(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("recipes: {full: {selection: {strategy: full, scores: ~/s.npy}}}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    plans = []
    for folder, scores in ((tmp_path, "s.npy"), (tmp_path / "elsewhere", "../s.npy")):
        monkeypatch.chdir(folder)
        plans += [load_plan("~/mine.yaml"), load_plan(file, {"selection.scores": scores})]
    for plan in plans:
        named = {**plan.base, **plan.recipes["full"].options}
        assert named["selection.scores"] == str(tmp_path / "s.npy")
        assert digest(essential(plan.config(plan.recipes["full"], None, 0))) == digest(
            essential(plans[0].config(plans[0].recipes["full"], None, 0))
        )


def test_the_plan_beside_the_cells_is_the_same_plan_without_paths(tmp_path, plan):
    plan = dataclasses.replace(plan, base={**plan.base, "data.path": "/secret"})
    text = yaml.safe_dump(plan.to_dict())
    assert "secret" not in text
    (tmp_path / "plan.yaml").write_text(text)
    again = load_plan(tmp_path)
    assert [cell_config(again, key, lambda *_: Length()) for key in cell_keys(again)] == [
        cell_config(plan.__class__(**{**vars(plan), "base": again.base}), key, lambda *_: Length())
        for key in cell_keys(plan)
    ]
    assert again.recipes == plan.recipes


def test_a_narrowed_plan_keeps_the_reference_and_refuses_strangers(plan):
    small = plan.narrowed(recipes=["margin"], seeds=[1])
    assert list(small.recipes) == ["full", "margin"]
    assert {key.seed for key in cell_keys(small)} == {1}
    with pytest.raises(PlanError, match=r"recipes: got 'margn', want one of .*did you mean margin"):
        plan.narrowed(recipes=["margn"])
    with pytest.raises(PlanError, match=r"short needs margin"):
        plan.narrowed(recipes=["short"])
    with pytest.raises(PlanError, match=r"budgets: got 0.9, want one of"):
        plan.narrowed(budgets=[0.9])


def test_the_digest_is_of_what_a_result_depends_on():
    first = TrainConfig.from_dict({"run": {"dir": "a", "name": "x"}, "data": {"path": "/p"}})
    second = TrainConfig.from_dict({"run": {"dir": "b"}})
    other = TrainConfig.from_dict({"run": {"seed": 1}})
    assert digest(essential(first)) == digest(essential(second)) != digest(essential(other))
    assert not any(Path("/p") == value for value in essential(first).values())
