"""Strategies on the command line: names, their own options, switches, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from dynams.cli import main
from dynams.cli.compare import parse as parse_compare
from dynams.cli.options import parse
from dynams.selection import STRATEGIES
from dynams.training.changed_settings import changed_settings
from dynams.training.config import TrainConfig
from dynams.training.resolve import build_selector


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_a_value_of_the_option_and_in_its_help(name, capsys):
    assert parse(["--selection.strategy", name]).config.selection.strategy == name
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    help_of_strategy = text.partition("--selection.strategy ")[2].partition("--selection.options")[
        0
    ]
    assert name in "".join(help_of_strategy.split())  # it may wrap after a hyphen


def test_a_strategys_own_options_are_a_mapping_in_any_form(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "selection: {strategy: importance, options: {importance: {smoothing: 0.2}, loss: {ties: random}}}\n"
    )
    own, named = "--selection.options.importance", "--selection.strategy=importance"
    given = [
        [named, "--selection.options={importance: {smoothing: 0.2}}"],
        [named, f"{own}={{smoothing: 0.2}}"],
        [named, f"{own}.smoothing=2e-1"],
        [named, f"{own}.smoothing", "0.2"],
        ["--config", str(file)],
    ]
    for argv in given:
        strategy = build_selector(parse(argv).config).strategy
        assert (strategy.smoothing, strategy.replacement) == (0.2, False)
    # One by one, and on top of a file's: each option stays.
    for argv in given:
        config = parse([*argv, f"{own}.replacement=true", f"{own}.score=el2n"]).config
        strategy = build_selector(config).strategy
        assert (strategy.smoothing, strategy.replacement, strategy.score) == (0.2, True, "el2n")
    assert config.selection.options["loss"] == {"ties": "random"}


def test_a_plan_takes_a_strategys_options_one_by_one():
    argv = [
        "digits",
        *(f"--selection.options.infobatch.{each}=0.25" for each in ("ratio", "delta")),
    ]
    want = {"infobatch": {"ratio": 0.25, "delta": 0.25}}
    assert parse_compare(argv).plan.base["selection.options"] == want


def test_options_of_strategies_not_in_use_do_nothing():
    argv = [
        "--selection.options.infobatch.ratio=0.3",
        "--selection.options.static-margin.kind=label",
    ]
    config = parse(argv).config
    assert config.selection.options["infobatch"] == {"ratio": 0.3}
    assert build_selector(config) == build_selector(TrainConfig())
    assert changed_settings(TrainConfig(), config) == []
    used = parse([*argv, "--selection.options.margin.kind=label"]).config
    assert build_selector(used).scored == {"label"}
    assert changed_settings(config, used) == [("selection.options", {}, {"kind": "label"})]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--selection.strategy=infobtch"], "(did you mean infobatch?)"),
        (
            ["--selection.options.infobatch.rato=0.3"],
            "selection.options.infobatch: got 'rato', want one of ratio, delta (did you mean ratio?)",
        ),
        (
            ["--selection.strategy=infobatch", "--selection.options.infobatch.ratio=1.5"],
            "error: selection.options.infobatch.ratio: got 1.5, want a number in [0, 1)",
        ),
        (
            ["--selection.options.infobatch.ratio=much"],
            "error: selection.options.infobatch.ratio: got 'much', want a number",
        ),
        (
            ["--selection.options={infobatch: {name: 3}}"],
            "error: selection.options.infobatch: got 'name', want one of ratio, delta",
        ),
        (
            ["--selection.options.infobatch=3"],
            "error: selection.options.infobatch: got 3, want keys with values",
        ),
        (
            ["--selection.options.infobtach.ratio=0.3"],
            "error: selection.options: got 'infobtach', want one of full, random, static-random, margin,",
        ),
        (["--selection.options.infobtach.ratio=0.3"], "(did you mean infobatch?)"),
        (
            ["--selection.strategy=infobatch", "--selection.options.ratio=0.3"],
            "error: selection.options.ratio: got 0.3, want it under a strategy's name, such as "
            "selection.options.infobatch.ratio",
        ),
        (["--selection.options=3"], "selection.options: got 3, want keys with values"),
        (
            ["--selection.kind=label"],
            "error: selection.kind: got 'label', want selection.options.margin.kind",
        ),
        (
            ["--selection.kind", "label"],
            "error: selection.kind: got 'label', want selection.options.margin.kind",
        ),
        (["--selection.options.margin.kind"], "options.margin.kind: expected one argument"),
        (
            ["--selection.options.margin.kind=gab"],
            "error: selection.options.margin.kind: got 'gab', want one of gap, probability",
        ),
        (
            ["--selection.strategy=infobatch", "--selection.class_balance=equal"],
            "error: selection.class_balance: got InfoBatch, want a strategy that keeps to a size",
        ),
        (
            ["--selection.strategy=selective-backprop", "--selection.exploration=0.1"],
            "error: selection.exploration: got 0.1, want 0.0 with selective-backprop, which chooses inside",
        ),
        (
            ["--selection.unbiased=true"],
            "error: selection.exploration: got 0.0, want above 0 where it is to be unbiased",
        ),
        (
            [
                "--selection.strategy=batch-importance",
                "--selection.options.batch-importance.score=grand",
            ],
            "selection.options.batch-importance: got the score grand, want one that a batch has: confidence",
        ),
        (
            ["--selection.strategy=craig", "--selection.free=true"],
            "selection.free: got True, want False with craig, which scores features",
        ),
        (
            ["--selection.strategy=random", "--selection.free=true"],
            "random, which scores nothing: training steps give",
        ),
        (
            ["--selection.options.margin.kind=distance", "--selection.free=true"],
            "margin, which scores distance",
        ),
        (
            ["--selection.strategy=glister"],
            "data.holdout: got 0.0, want samples held out for glister\n",
        ),
        (
            ["--selection.strategy=rho-loss"],
            "got 0.0, want samples held out for rho-loss, or selection.scores",
        ),
        (["--selection.strategy=memorisation"], "selection.scores: got None, want a file"),
        (["--selection.scores=x.npy"], "selection.scores: no file x.npy"),
        (
            ["--selection.strategy=random", "--selection.scores=x.npy"],
            "selection.scores: got 'x.npy', want None with random, which ranks by no one",
        ),
        (["--selection.tail=1"], "selection.tail: got 1"),
        (["--selection.max_age=0"], "selection.max_age: got 0, want at least 1"),
        (
            ["--proxy.recipe=jiont"],
            "proxy.recipe: got 'jiont', want one of joint, distill, probe, batch_norm, none (did you mean joint?)",
        ),
        (
            ["--proxy.share=0.5", "--run.devices=2"],
            "proxy.share: got 0.5, want 1 with run.devices=2",
        ),
        (["--data.holdout=0.0001"], "data.holdout: got 0.0001 of 100 images, which holds out 0"),
        (["--data.holdout=0.999"], "data.holdout: got 0.999 of 100 images, which holds out 100"),
    ],
)
def test_what_does_not_fit_is_one_line_and_status_2(capsys, monkeypatch, tmp_path, argv, said):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data.limit=100", "--run.accelerator=cpu", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err
    assert list(tmp_path.iterdir()) == []


def test_files_of_before_the_margin_was_an_option_of_its_strategy_are_told_where_it_is_now(
    capsys, tmp_path
):
    config = tmp_path / "config.yaml"
    config.write_text("selection: {kind: label, options: {}}\n")
    (tmp_path / "plan.yaml").write_text("recipes: {full: {selection.kind: label}}\n")
    said = "selection.kind: got 'label', want selection.options.margin.kind\n"
    for argv, before in (
        (["train", "--config", str(config)], f"--config: {config}: "),
        (["train", "--resume", str(tmp_path)], f"{config}: "),
        (["compare", str(tmp_path)], f"{tmp_path / 'plan.yaml'}: recipes.full: "),
    ):
        assert main(argv) == 2
        assert capsys.readouterr().err == f"dynams: error: {before}{said}"


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        (
            "short.npy",
            lambda path: np.save(path, np.zeros(3)),
            "short.npy, want 100 numbers",
        ),
        ("words.npy", lambda path: path.write_text("words"), "holds no plain numbers"),
        ("empty.npy", lambda path: path.touch(), "is damaged or holds no tensor"),
        (
            "code.npy",
            lambda path: np.save(path, np.array([{}] * 100), allow_pickle=True),
            "holds no plain numbers",
        ),
        ("words.pt", lambda path: path.write_text("words"), "is damaged or holds no tensor"),
        (
            "words.csv",
            lambda path: path.write_text("1\n"),
            "got words.csv, want a .npy or .pt file",
        ),
    ],
)
def test_a_bad_file_of_scores_is_one_line_and_leaves_no_run(
    capsys, monkeypatch, tmp_path, name, write, said
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    argv = ["--data.limit=100", "--run.accelerator=cpu", "--selection.strategy=memorisation"]
    assert main(["train", *argv, f"--selection.scores={name}"]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert message.startswith("dynams: error: selection.scores: ")
    assert said in message
    assert [item.name for item in tmp_path.iterdir()] == [name]
