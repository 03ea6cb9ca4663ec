"""What a report says of a run's selections is what the trainer does: asked of its own resolver and sampler."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch

from dynams.report import RefreshRecord, Run, render_report
from dynams.report.selecting import KINDS, WHAT, Selecting, selecting, training_set_size
from dynams.selection import STRATEGIES, Signals, SubsetSampler
from dynams.selection.methods.margin import MARGINS
from dynams.selection.methods.uniform import Full
from dynams.training.config import DataConfig, OptimConfig
from dynams.training.config import TrainConfig as Config
from dynams.training.resolve import build_selector
from dynams.training.selection_config import ProxyConfig, SelectionConfig

pytest.importorskip("matplotlib")

GIVEN = "scores.npy"
CASES: dict[str, dict[str, Any]] = {
    **{name: {"strategy": name} for name in STRATEGIES},
    "memorisation": {"strategy": "memorisation", "scores": GIVEN},
    "given margins": {"strategy": "margin", "scores": GIVEN},
    "given irreducible losses": {"strategy": "rho-loss", "scores": GIVEN},
    "given events": {"strategy": "forgetting", "scores": GIVEN},
    "given last losses": {"strategy": "infobatch", "scores": GIVEN},
    "free margins": {"strategy": "margin", "free": True},
    "free static losses": {"strategy": "loss", "free": True, "dynamic": False},
    "el2n again": {"strategy": "el2n", "dynamic": True},
    "craig once": {"strategy": "craig", "dynamic": False},
    "static margins of a schedule": {"strategy": "static-margin", "schedule": "linear"},
    "static craig of a schedule": {"strategy": "craig", "dynamic": False, "schedule": "linear"},
    "balanced and once": {
        "strategy": "loss", "dynamic": False, "schedule": "linear", "class_balance": "equal",
    },
    "balanced": {"strategy": "margin", "class_balance": "proportional"},
    "exploring": {"strategy": "margin", "exploration": 0.2, "unbiased": True},
    "aged": {"strategy": "margin", "free": True, "age_weight": 0.25},
    "aged and soft": {"strategy": "loss", "age_weight": 0.5, "softness": 1.0},
    "guarded": {"strategy": "margin", "noise_guard": 0.1},
    "guarded losses": {"strategy": "loss", "noise_guard": 0.1, "noise_score": "label"},
    "guarded random": {"strategy": "random", "noise_guard": 0.1},
    "guarded full": {"strategy": "full", "noise_guard": 0.1},
    "importance of margins": {
        "strategy": "importance", "options": {"importance": {"score": "gap"}},
    },
    "own margins": {"strategy": "margin", "options": {"margin": {"kind": "label"}}},
    "tail": {"strategy": "margin", "tail": 0.25},
}  # fmt: skip


def config_of(case: str, **sections: Any) -> Config:
    return Config(
        data=DataConfig(holdout=0.1),
        selection=SelectionConfig(**CASES[case]),
        optim=OptimConfig(epochs=8),
        **sections,
    )


def told(case: str) -> tuple[Config, Selecting]:
    config = config_of(case)
    return config, selecting(config.to_dict())


def sampler_of(config: Config) -> SubsetSampler:
    from dynams.training.timetable import timetable_of

    strategy = build_selector(config).strategy
    times = timetable_of(config, budgeted=strategy.budgeted)
    return SubsetSampler(
        60,
        strategy,
        budget=times.schedule,
        epochs=8,
        refresh_every=times.refresh_every,
        warmup_epochs=times.warmup_epochs,
        tail=times.tail,
        dynamic=config.selection.dynamic,
    )


def signals(names: frozenset[str]) -> Signals:
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: torch.rand(60, generator=generator)
        for name in sorted(names)
        if name not in ("labels", "features", "residuals") and "." not in name
    }

    def some(prefix: str) -> dict[str, torch.Tensor]:
        made = {
            "labels": torch.arange(60) % 3,
            "features": torch.rand(60, 4, generator=generator),
            "residuals": torch.rand(60, 3, generator=generator) - 0.5,
        }
        return {name: each for name, each in made.items() if prefix + name in names}

    held = some("validation.")
    return Signals(60, scores, **some(""), validation=Signals(60, **held) if held else None)


def test_there_are_words_for_every_strategy_and_every_margin():
    assert set(WHAT) == set(STRATEGIES)
    assert set(KINDS) == set(MARGINS)


@pytest.mark.parametrize("case", CASES)
def test_what_is_told_is_what_the_trainer_resolves(case):
    config, how = told(case)
    selector = build_selector(config)
    assert how.known
    assert how.passes == bool(selector.scored)
    assert how.selects == (selector.batch is None and not isinstance(selector.strategy, Full))
    assert how.budgeted == selector.strategy.budgeted
    margins = [kind for kind in MARGINS if kind in selector.strategy.needs]
    assert how.margin == (margins[0] if margins else None)
    for words, said in {
        "read from a file": selector.given is not None,
        "network trained on held-out samples first": selector.irreducible,
        "those of their training step": config.selection.free,
        "Every sample is scored": bool(selector.scored) and not config.selection.free,
        "by the proxy (width 0.5)": selector.proxy_width is not None,
        "Each step trains on some samples of its batch": selector.batch is not None,
        "margin": any(kind in (selector.batch or selector.strategy).needs for kind in MARGINS)
        and config.selection.strategy != "importance",
    }.items():
        assert (words in how.words) == said, (words, how.words)


@pytest.mark.parametrize("case", CASES)
def test_when_selections_are_made_and_scored_is_what_the_sampler_does(case):
    config, how = told(case)
    sampler, made, scored = sampler_of(config), [], []
    for epoch in range(8):
        wanted = sampler.wanted(epoch)
        if wanted:
            scored.append(epoch)
        refresh = sampler.begin_epoch(epoch, (lambda w=wanted: signals(w)) if wanted else None)
        if refresh is not None and sampler.phase(epoch) == "selected":
            made.append((epoch, refresh))
        assert how.trains_on_all(epoch) == (sampler.phase(epoch) != "selected") or not how.selects
    assert bool(made) == how.selects
    if made and config.selection.schedule != "constant":
        assert ("only where the budget changes" in how.words) == (not sampler.dynamic)
        assert len(made) == 3
    elif made:
        assert ("once and kept" in how.words) == (len(made) == 1)
        assert ("Each refresh" in how.words) == (len(made) > 1)
    if "Every sample is scored" in how.words:
        once = "Every sample is scored once" in how.words
        assert scored == ([made[0][0]] if once else [epoch for epoch, _ in made])
    for _, refresh in made:
        margins = refresh.margins.clone()
        cut = int((margins <= refresh.threshold).sum())
        if how.by_margin:
            assert cut == len(refresh.indices)
        if how.exact:
            assert len(refresh.indices) == round(60 * sampler.budget_at(refresh.epoch)) or (
                not how.budgeted and len(refresh.indices) == 60
            )


def page(run: Run) -> str:
    found = re.sub(r"<style>.*?</style>", "", render_report(run, "run"), flags=re.DOTALL)
    found = re.sub(r'<section id="settings">.*?</section>', "", found, flags=re.DOTALL)
    words = " ".join(re.findall(r'aria-label="([^"]*)"', found))
    return " ".join(
        (re.sub(r"<[^>]*>", " ", found) + words).replace("\N{NO-BREAK SPACE}", " ").split()
    )


def run_of(make_run, case: str, **sections: Any) -> Run:
    """A run of one epoch as the trainer logs it with this configuration."""
    config = config_of(case, **sections)
    selector = build_selector(config)
    run = make_run(epochs=1)
    how = selecting(config.to_dict())
    bare = {"quantiles": [], "histogram_edges": [], "histogram_counts": [], "threshold": math.nan}
    records = [
        RefreshRecord(**{**vars(record), **(bare if how.margin is None else {})})
        for record in run.refreshes
    ]
    nothing = selector.batch is not None or isinstance(selector.strategy, Full)
    if (
        how.passes
    ):  # no figure of the seconds, for speed: of the others it is to say nothing of passes
        run = Run({}, {}, [dataclasses.replace(run.epochs[0], seconds={})], [], run.summary)
    return Run(config.to_dict(), {}, run.epochs, [] if nothing else records, run.summary)


@pytest.mark.parametrize("case", CASES)
def test_the_page_calls_nothing_what_it_is_not(make_run, case):
    run = run_of(make_run, case)
    how, text = selecting(run.config), page(run)
    assert how.words.replace("\N{NO-BREAK SPACE}", " ") in text
    allowed = {
        "refresh": (how.dynamic and how.selects) or not how.selects,
        "threshold": how.by_margin and how.margin is not None,
        "left out": how.by_margin and how.margin is not None,
        "margin": how.margin is not None or case in ("guarded losses", "batch-margin"),
        "budget 0.6": how.budgeted,
        "boundary": how.margin == "distance",
        "include its scoring": False,
    }
    for word, may in allowed.items():
        if not may:
            assert not re.search(
                rf"\b{word}", text.lower().replace("strategy static-margin", "")
            ), word
    if how.by_margin and how.margin is not None:
        assert "Threshold" in text
    if how.margin is not None:
        assert KINDS[how.margin] in text.replace("&#x27;", "'")


def test_a_run_without_proxy_scores_with_the_whole_network(make_run):
    run = run_of(make_run, "margin", proxy=ProxyConfig(recipe="none"))
    assert "scored before each selection, by the whole network" in page(run)
    assert "by the proxy" not in page(run)


def test_the_pass_of_a_selection_is_said_to_be_in_its_epochs_seconds(make_run):
    run = make_run(epochs=1)
    for case, said in {"margin": True, "random": False, "forgetting": False}.items():
        config = config_of(case).to_dict()
        assert ("include its scoring" in page(dataclasses.replace(run, config=config))) == said


def test_the_refresh_that_ends_selecting_is_no_selection(make_run):
    run = make_run(epochs=8, every=1)
    config = config_of("tail").to_dict()
    assert selecting(config).tail == 6
    text = page(Run(config, {}, run.epochs, run.refreshes, run.summary))
    assert "The first 2 epochs and the last 2 epochs train on everything." in text
    table = text.partition("Epoch Selected Threshold Overlap")[2]
    assert re.findall(r"(\d+) 600 ", table) == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize(
    ("case", "warmup", "found"),
    [
        ("infobatch", 2, 1000),
        ("infobatch", 0, None),
        ("selective-backprop", 1, 1000),
        ("batch-rho-loss", 0, None),
        ("importance", 0, None),
        ("margin", 0, 1000),
        ("full", 0, 1000),
    ],
)
def test_the_training_set_s_size_is_not_guessed_from_epochs_that_keep_no_budget(
    make_run, epoch_record, case, warmup, found
):
    _, how = told(case)
    how = Selecting(**{**vars(how), "warmup": warmup})
    share = 1.0 if case == "full" else 0.6
    asked = 0.6 if how.exact and case != "full" else 1.0
    epochs = [
        epoch_record(e, budget=1.0, samples=1000)
        if e < warmup
        else epoch_record(e, budget=asked, samples=round(share * 1000))
        for e in range(4)
    ]
    run = Run({}, {}, epochs, [], None)
    assert training_set_size(run, how) == found
    assert training_set_size(run, how, [400, 601]) == 1001


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"selection": None},
        {"selection": {"strategy": "tomorrow's"}},
        {"selection": {"strategy": ["margin"]}},
        {"selection": {"strategy": "margin", "options": {"margin": {"colour": "red"}}}},
        {"selection": {"strategy": "margin", "warmup_epochs": "two"}, "optim": {"epochs": 3}},
        {"selection": {"strategy": "margin"}, "optim": 3, "proxy": "half"},
    ],
)
def test_of_a_configuration_that_cannot_be_read_nothing_is_said(make_run, config):
    assert selecting(config) == Selecting()
    run = make_run(epochs=1)
    text = page(Run(config, {}, run.epochs, run.refreshes, run.summary))
    assert "Selection Selections Epoch Selected Threshold 1 600" in text
