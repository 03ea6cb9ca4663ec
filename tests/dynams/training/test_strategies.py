"""Every strategy trains: what it trains on, what it costs, how it resumes, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_runs import StopAt, equal, log_lines, made_up_data, small_config

from dynams.report.runlog import read_run
from dynams.selection import STRATEGIES
from dynams.training.checkpoint import Checkpoint, load_checkpoint
from dynams.training.entry import train
from dynams.training.rundir import checkpoint_path

DATA = made_up_data(train=60, test=12)
HELD = {"data": {"holdout": 0.2}, "selection": {"holdout_epochs": 1}}
# What some need beside their name.
EXTRA: dict[str, dict[str, dict[str, Any]]] = {
    "craig": {"selection": {"options": {"craig": {"part_size": 16}}}},
    "gradmatch": {"selection": {"options": {"gradmatch": {"part_size": 16}}}},
    "gradmatch-batches": {"selection": {"options": {"gradmatch-batches": {"batch_size": 4}}}},
    "glister": {"data": {"holdout": 0.2}, "selection": {"options": {"glister": {"rounds": 3}}}},
    "alignprune": {"data": {"holdout": 0.2}},
    "rho-loss": HELD,
    "batch-rho-loss": HELD,
    "batch-loss": {"proxy": {"recipe": "none"}},
    "batch-margin": {"proxy": {"recipe": "none"}},
    "filter": {"selection": {"options": {"filter": {"model": "resnet8", "every": 2}}}},
}
OF_BATCHES = (
    "batch-loss", "batch-margin","batch-importance", "batch-rho-loss", "selective-backprop", "filter",
)  # fmt: skip
# Strategies with a scoring pass, and at how many of the refreshes of epochs 1, 2 and 3.
PASSES = {
    "margin": 3, "static-margin": 1, "loss": 3, "importance": 3, "el2n": 1, "grand": 1, "confidence": 1,
    "entropy": 1, "craig": 3, "gradmatch": 3, "gradmatch-batches": 3, "glister": 3, "rho-loss": 3,
}  # fmt: skip


def config_of(folder: Path, name: str, **changes: dict[str, Any]) -> Any:
    sections: dict[str, dict[str, Any]] = {"selection": {"strategy": name}}
    for more in (EXTRA.get(name, {}), changes):
        for section, values in more.items():
            sections.setdefault(section, {}).update(values)
    if name == "memorisation":
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "scores.npy", np.arange(60)[::-1] / 60.0)
        sections["selection"]["scores"] = str(folder / "scores.npy")
    return small_config(folder, **sections)


def final(run_dir: str | Path) -> Checkpoint:
    return load_checkpoint(checkpoint_path(run_dir))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_trains_on_what_it_selects_and_counts_its_cost(name, tmp_path):
    summary = train(config_of(tmp_path, name), DATA)
    assert summary.completed
    run, state = read_run(summary.run_dir), final(summary.run_dir)
    candidates = 48 if "holdout" in str(EXTRA.get(name)) else 60
    sizes = [record.samples for record in run.epochs]
    counts = state.cost["samples"]
    assert sizes[0] == candidates  # the warm-up
    assert sum(sizes) == summary.samples == counts["training"]
    chosen = round(0.6 * candidates)
    if name == "full":
        assert sizes == [60] * 4
    elif name in OF_BATCHES:
        assert all(0 < size < candidates for size in sizes[1:])
        # The first looks at the batches; of a filter's warm-up, those of two updates.
        assert counts["scoring"] == 3 * candidates + (30 if name == "filter" else 0)
    elif name in ("infobatch", "alignprune"):
        assert all(candidates // 2 < size < candidates for size in sizes[1:3])
    elif name in ("repb", "seta"):
        assert all(0 < size < candidates for size in sizes[1:3])
    else:
        assert sizes[1:] == [chosen] * 3
    passes = PASSES.get(name, 0)
    if name == "alignprune":
        assert counts["scoring"] == 3 * 12  # of the held-out samples, at every refresh
    if passes:
        held_out = 12 if name == "glister" else 0
        assert counts["scoring"] == passes * (candidates + held_out)
        assert summary.seconds["scoring"] > 0
        # The proxy trains as long as a scoring pass is to come.
        assert counts["proxy loss"] == sum(sizes[: 1 if passes == 1 else 3])
    else:
        assert counts["proxy loss"] == 0
        assert summary.proxy_width is None
    trained_before = 12 + 48 if name in ("rho-loss", "batch-rho-loss") else 0
    assert counts["holdout model"] == trained_before
    assert (summary.seconds["holdout model"] > 0) == bool(trained_before)


WEIGHTED = {"selection": {"options": {"importance": {"replacement": True}}}}
FREE = {"selection": {"free": True, "max_age": 1}, "proxy": {"recipe": "none"}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "weighted": ("importance", WEIGHTED),
    "clusters": ("craig", {}),
    "batch": ("selective-backprop", {"selection": {"tail": 0.25}}),
    "looks by a proxy": ("batch-margin", {"proxy": {"recipe": "distill", "every": 2}}),
    "looks by estimates": ("batch-loss", {"proxy": {"recipe": "batch_norm", "batches": 2}}),
    "holdout model": ("batch-rho-loss", {"selection": {"warmup_epochs": 0}}),
    "free": ("margin", FREE),
    "aged": (
        "margin",
        {"selection": {"free": True, "max_age": 99, "age_weight": 0.25, "softness": 1.0}},
    ),
    "visits": ("infobatch", {}),
    "windows and frequencies": ("repb", {}),
    "courses of losses": ("alignprune", {"optim": {"epochs": 7}}),
    "events": ("forgetting", {"selection": {"dynamic": True}}),
    "validation": ("glister", {}),
    "given": ("memorisation", {}),
    "switches": (
        "margin",
        {"selection": {"class_balance": "equal", "exploration": 0.3, "noise_guard": 0.1}},
    ),
    "unbiased": ("margin", {"selection": {"exploration": 0.5, "unbiased": True, "free": True}}),
    "labels alone": ("random", {"selection": {"class_balance": "proportional"}}),
    "guarded visits": ("infobatch", {"selection": {"noise_guard": 0.1}}),
    "estimated norms": ("margin", {"proxy": {"recipe": "batch_norm", "batches": 2}}),
    "distilled part": ("margin", {"proxy": {"recipe": "distill", "share": 0.5, "every": 2}}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_again_and_again_is_the_one_never_stopped(case, tmp_path):
    name, changes = CASES[case]
    config = config_of(tmp_path, name, **changes)
    reference = train(config, DATA, interrupt=StopAt())
    part = train(config, DATA, interrupt=StopAt(5))
    for _ in range(40):
        if part.completed:
            break
        part = train(config, DATA, resume=part.run_dir, interrupt=StopAt(5))
    assert part.completed
    ours, wanted = final(part.run_dir), final(reference.run_dir)
    for entry in (
        "model", "optimizer", "sampler", "sums", "visits", "given", "batch_strategy", "accuracy",
    ):  # fmt: skip
        assert equal(getattr(ours, entry), getattr(wanted, entry)), entry
    assert ours.samples == wanted.samples
    assert log_lines(part.run_dir) == log_lines(reference.run_dir)
