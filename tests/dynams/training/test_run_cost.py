"""From a configuration to its outline: checked against what the trainer does; and what has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_runs import made_up_data, small_config

from dynams.report.runlog import read_run
from dynams.selection import linear
from dynams.training.checkpoint import load_checkpoint
from dynams.training.entry import train
from dynams.training.run_cost import outline_of
from dynams.training.rundir import checkpoint_path

SIX = {"optim": {"epochs": 6}}


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"selection": {"refresh_every": 2, "warmup_epochs": 2, "tail": 0.3}},
        {"selection": {"schedule": "linear", "budget": 0.3, "warmup_epochs": 0}},
        {"selection": {"strategy": "static-margin", "tail": 0.3}},
        {"selection": {"strategy": "static-margin", "schedule": "cosine", "budget": 0.3}},
        {"selection": {"strategy": "random", "refresh_every": 2}},
        {"selection": {"strategy": "static-random"}},
        {"selection": {"strategy": "craig", "dynamic": False}},
        {"proxy": {"recipe": "none"}, "run": {"evaluate_every": 4}},
        {"proxy": {"recipe": "distill", "share": 0.5}},
        {"proxy": {"every": 2}},
        {"optim": {"epochs": 6, "drop_last": True}},
        {"data": {"holdout": 0.2}, "selection": {"strategy": "rho-loss", "holdout_epochs": 1}},
    ],
    ids=str,
)
def test_the_work_planned_is_what_the_trainer_does(
    tmp_path: Path, sections: dict[str, dict[str, Any]]
) -> None:
    config = small_config(tmp_path, **{**SIX, **sections})
    summary = train(config, made_up_data(test=30))
    done = load_checkpoint(checkpoint_path(summary.run_dir))
    samples, run = done.cost["samples"], read_run(summary.run_dir)
    outline = outline_of(config, done.data["train"])
    work = outline.work
    assert work.trained == samples["training"] == summary.samples
    assert outline.sizes == [epoch.samples for epoch in run.epochs]
    # Steps and parts of batches are whole numbers, the outline's shares are not.
    assert work.proxy_trained == pytest.approx(samples["proxy loss"], rel=0.1)
    assert work.scored == samples["scoring"]
    assert work.evaluations * 30 == samples["evaluation"]
    tail = config.optim.epochs - round(config.selection.tail * config.optim.epochs)
    assert work.selections >= len([each for each in run.refreshes if each.epoch < tail])
    if config.selection.schedule == "constant":
        assert work.selections == len([each for each in run.refreshes if each.epoch < tail])
    assert (work.holdouts > 0) == (samples["holdout model"] > 0)


def test_the_outline_has_the_schedule_and_its_numbers(tmp_path: Path) -> None:
    config = small_config(
        tmp_path,
        selection={"schedule": "linear", "start": 0.9, "budget": 0.4, "tail": 0.25},
        proxy={"every": 4, "share": 0.5},
        run={"evaluate_every": 3},
    )
    outline = outline_of(config, 1000)
    assert outline.schedule == linear(0.9, 0.4)
    assert (
        outline.num_samples,
        outline.epochs,
        outline.timetable.tail,
        outline.evaluate_every,
    ) == (1000, 4, 0.25, 3)
    assert outline.proxy_share == 0.125


@pytest.mark.parametrize("recipe", ["batch_norm", "none"])
def test_recipes_without_a_loss_train_no_proxy(tmp_path: Path, recipe: str) -> None:
    outline = outline_of(small_config(tmp_path, proxy={"recipe": recipe}), 100)
    assert outline.proxy_share == 0.0
    assert outline.scoring == "every refresh"


@pytest.mark.parametrize("max_age", [3, 1000])
def test_scores_of_training_steps_that_never_age_cost_no_pass(tmp_path: Path, max_age: int) -> None:
    selection = {"free": True, "max_age": max_age, "warmup_epochs": 1}
    outline = outline_of(
        small_config(tmp_path, selection=selection, proxy={"recipe": "none"}), num_samples=100
    )
    assert (outline.scoring, outline.proxy_share) == ("never", 0.0)


def test_given_scores_are_not_scored(tmp_path: Path) -> None:
    selection = {"strategy": "memorisation", "scores": "some.npy"}
    outline = outline_of(small_config(tmp_path, selection=selection), 100)
    assert (outline.scoring, outline.proxy_share) == ("never", 0.0)


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"strategy": "full"}, "selection.strategy: got 'full', want one that keeps a budget"),
        (
            {"strategy": "infobatch"},
            "selection.strategy: got 'infobatch', want one that keeps a budget",
        ),
        (
            {"strategy": "selective-backprop"},
            "got 'selective-backprop', want one that keeps a budget",
        ),
        (
            {"free": True},
            "selection.free: got True, want False, or refreshes that are known to score",
        ),
        ({"free": True, "max_age": 99, "warmup_epochs": 0}, "warmup_epochs of at least 1"),
        ({"free": True, "max_age": 2}, "max_age of at least the 3 epochs after it"),
        (
            {"strategy": "forgetting", "free": False},
            "got 'forgetting', want one that does not score inside training",
        ),
        (
            {"strategy": "forgetting"},
            "got 'forgetting', want one that does not score inside training",
        ),
        (
            {"strategy": "craig", "dynamic": False, "schedule": "linear"},
            "selection.schedule: got 'linear', want constant with craig chosen once",
        ),
    ],
)
def test_what_no_outline_expresses_is_refused(
    tmp_path: Path, selection: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        outline_of(small_config(tmp_path, selection=selection), 100)
