"""`dynams train --rates`: predictions by hand, a budget found and trained with, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynams.cli import main
from dynams.cli.options import parse
from dynams.report.runlog import read_run
from dynams.training.config import TrainConfig

SMALL = [
    "--data.limit=241",
    "--model.base_channels=4",
    "--selection.warmup_epochs=1",
    "--selection.refresh_every=1",
    "--selection.batch_size=64",
    "--optim.batch_size=32",
    "--run.accelerator=cpu",
    "--run.tensorboard=false",
    "--run.report=false",
    "--run.progress=false",
]
FOUR = [*SMALL, "--optim.epochs=4"]


def edit(run_dir: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Rewrite a log line by line; None drops the line."""
    path = run_dir / "log.jsonl"
    lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))


def by_hand(line: dict[str, Any]) -> dict[str, Any]:
    """10 ms a sample trained, 2 ms more with the proxy, 1 ms a sample scored, and 1.001 s a run."""
    if line["record"] == "epoch":
        proxied = 0 if line["proxy_loss"] is None else line["samples"]
        scored = 241 if line["epoch"] == 1 else 0
        line["seconds"] = dict.fromkeys(line["seconds"], 0.0) | {
            "training": 0.01 * line["samples"],
            "proxy loss": 0.002 * proxied,
            "scoring": 0.001 * scored,
        }
    if line["record"] == "end":
        # 241 samples with the proxy, then 145 of them without it, and one pass.
        line["total_seconds"] = 0.01 * (241 + 145) + 0.002 * 241 + 0.001 * 241 + 1.001
    return line


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration run of two epochs, its log as written."""
    folder = tmp_path_factory.mktemp("measured")
    assert main(["train", *SMALL, "--optim.epochs=2", f"--run.dir={folder}"]) == 0
    (run_dir,) = folder.iterdir()
    return run_dir


@pytest.fixture
def rates(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The calibration run with the times of `by_hand`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    run_dir = shutil.copytree(measured, tmp_path / "rates")
    edit(run_dir, by_hand)
    return Path("rates")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def shown_config(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[TrainConfig, str]:
    assert main(["train", "--print_config", *argv]) == 0
    shown = capsys.readouterr()
    assert not Path("runs").exists()
    return TrainConfig.from_dict(yaml.safe_load(shown.out)), shown.err


def test_by_real_rates_a_target_beyond_all_samples_takes_them_all(
    measured, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *FOUR, "--rates", str(measured), "--within", "1000"]) == 0
    assert "dynams: selection.budget 1: " in said(capsys)
    (run_dir,) = Path("runs").iterdir()
    assert read_run(run_dir).summary.samples == 4 * 241


def test_a_budget_by_hand_is_trained_saved_and_resumed(rates, capsys):
    # Epochs 1 to 3 select k: 0.01 (241 + 3 k) + 0.002 (241 + 2 k) + 0.001 * 723 + 1.001 = 4.616 + 0.034 k.
    # 7 s leave k = 70, and 0.2925 is the largest budget in steps of 0.0001 that rounds to it.
    assert main(["train", *FOUR, "--rates", str(rates), "--within", "7"]) == 0
    first, second = said(capsys).splitlines()[:2]
    assert first == (
        "dynams: selection.budget 0.2925: 7.00 s predicted, 10.6 s for the same 4 epochs on all "
        "samples; saves 34.3 %"
    )
    assert second == (
        "dynams: by purpose (on all samples): training 4.51 s (9.64 s), proxy loss 0.76 s (none), "
        "scoring 0.72 s (none), other 1.00 s (1.00 s)"
    )
    (run_dir,) = Path("runs").iterdir()
    run = read_run(run_dir)
    assert [epoch.samples for epoch in run.epochs] == [241, 70, 70, 70]
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["selection"]["budget"] == 0.2925
    assert run.config["selection"]["budget"] == 0.2925
    assert main(["train", "--resume", str(run_dir)]) == 0


def test_a_fraction_is_of_the_same_epochs_on_all_samples(rates, capsys):
    # Half of 9.64 + 1.001 s leaves k = 20.
    argv = [*FOUR, "--rates", str(rates), "--within-fraction=0.5"]
    config, told = shown_config(capsys, *argv)
    assert config.selection.budget == 0.085
    assert "5.30 s predicted, 10.6 s for" in told
    assert config == parse([*FOUR, "--selection.budget=0.085"]).config


def test_a_schedule_gets_its_end(rates, capsys):
    # Budgets 1, (1 + b) / 2 and b over epochs 1 to 3.
    argv = [*FOUR, "--selection.schedule=linear", "--rates", str(rates), "--within=9"]
    config, told = shown_config(capsys, *argv)
    budget = config.selection.budget
    middle, last = round(241 * (1 + budget) / 2), round(241 * budget)
    seconds = 0.01 * (482 + middle + last) + 0.002 * (482 + middle) + 0.001 * 723 + 1.001
    assert 8.97 < seconds <= 9.0
    assert f"selection.budget {budget:g}, the end of linear(start=1.0, end={budget})" in told


def test_a_tail_is_paid_for(rates, capsys):
    # Epoch 3 trains on everything again: 0.01 (482 + 2 k) + 0.002 (241 + k) + 0.001 * 482 + 1.001.
    argv = [*FOUR, "--selection.tail=0.25", "--rates", str(rates), "--within=7.9"]
    config, _ = shown_config(capsys, *argv)
    assert round(241 * config.selection.budget) == 50  # 6.785 + 0.022 k


def test_without_a_target_the_budget_stays_and_its_cost_is_told(rates, capsys):
    config, told = shown_config(capsys, *FOUR, "--rates", str(rates))
    assert config == parse(FOUR).config
    # k = 145: 4.616 + 0.034 * 145.
    assert "selection.budget 0.6: 9.55 s predicted, 10.6 s for" in told
    assert "saves 10.3 %" in told
    assert "warning" not in told


def test_a_negative_saving_is_warned_of(rates, capsys):
    _, told = shown_config(capsys, *FOUR, "--selection.budget=0.9", "--rates", str(rates))
    # k = 217: 4.616 + 0.034 * 217.
    assert "12.0 s predicted, 10.6 s for the same 4 epochs on all samples; loses 12.7 %" in told
    assert "dynams: warning: selection costs more than it saves: 11.99 s, against 10.64 s" in told
    assert "proxy loss takes 1.35 s" in told


def test_a_proxy_that_trains_less_often_is_cheaper(rates, capsys):
    # Its 0.002 (241 + 2 k) by 4: 4.2545 + 0.031 k.
    argv = [*FOUR, "--proxy.every=4", "--rates", str(rates), "--within=7"]
    config, _ = shown_config(capsys, *argv)
    assert round(241 * config.selection.budget) == 88


def test_an_unfinished_calibration_is_enough_but_said(rates, capsys):
    edit(rates, lambda line: None if line["record"] == "end" else line)
    _, told = shown_config(capsys, *FOUR, "--rates", str(rates))
    assert "9.64 s for the same 4 epochs" in told
    assert "warning: rates did not finish: what its run took outside its epochs is not" in told


def test_the_budget_of_a_file_is_replaced_by_the_one_found(rates, capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("selection: {budget: 0.8}\n")
    argv = ["--config", str(file), *FOUR, "--rates", str(rates)]
    assert shown_config(capsys, *argv)[0].selection.budget == 0.8
    assert shown_config(capsys, *argv, "--within=7")[0].selection.budget == 0.2925


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rates=missing"], "rates: no run in missing, it has no log.jsonl"),
        (["--within=7"], "--within: needs --rates"),
        (["--within-fraction=0.5"], "--within: needs --rates"),
        (
            ["--rates=rates", "--within=7", "--within-fraction=0.5"],
            "--within-fraction: does not go with --within",
        ),
        (["--rates=rates", "--within=0"], "--within: got 0.0, want a number in (0, inf)"),
        (
            ["--rates=rates", "--within-fraction=nan"],
            "--within-fraction: got nan, want a number in",
        ),
        (["--rates=rates", "--within=soon"], "--within: got 'soon', want a number"),
        (["--rates"], "--rates: expected one argument"),
        (["--rates=rates", "--resume=rates"], "--rates: a resumed run keeps its budget"),
        (["--within=7", "--resume=rates"], "--within: needs --rates"),
        (["--rates=rates", "--within=7", "--selection.budget=0.5"], "--within sets it"),
        (["--rates=rates", "--within=7", "--selection.budget", "0.5"], "--within sets it"),
        (
            ["--rates=rates", "--within=4.6"],
            "target: got seconds=4.6, 4.6 s, want at least ",
        ),
        (["--rates=rates", "--within-fraction=0.1"], "for training"),
        (
            ["--rates=rates", "--selection.strategy=full"],
            "selection.strategy: got 'full', want one that keeps a budget",
        ),
        (
            ["--rates=rates", "--selection.strategy=selective-backprop"],
            "want one that keeps a budget",
        ),
        (["--rates=rates", "--selection.free=true"], "selection.free: got True, want False, or"),
        (["--rates=rates", "--selection.strategy=random"], "strategy: got 'random', want 'margin'"),
        (
            ["--rates=rates", "--selection.options.margin.kind=label"],
            "selection.options: got {'kind': 'label'}, want {}",
        ),
        (["--rates=rates", "--model.name=resnet14"], "model.name: got 'resnet14', want 'resnet8'"),
        (["--rates=rates", "--model.base_channels=8"], "model.base_channels: got 8, want 4"),
        (["--rates=rates", "--data.limit=100"], "data.limit: got 100, want 241"),
        (["--rates=rates", "--data.holdout=0.1"], "data.holdout: got 0.1, want 0.0"),
        (["--rates=rates", "--optim.batch_size=64"], "optim.batch_size: got 64, want 32"),
        (["--rates=rates", "--proxy.recipe=none"], "proxy.recipe: got 'none', want 'joint'"),
        (["--rates=rates", "--proxy.width=0.25"], "proxy.width: got 0.25, want 0.5"),
        (["--rates=rates", "--run.precision=bf16-mixed"], ": got 'bf16-mixed', want '32-true'"),
        (["--rates=rates", "--run.compile=true"], "run.compile: got True, want False"),
    ],
)
def test_what_cannot_be_predicted_is_one_line_and_status_2(rates, capsys, argv, message):
    assert main(["train", *FOUR, *argv]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("dynams: error: ")
    assert message in shown.err
    assert not Path("runs").exists()


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["train", *FOUR, *argv]) == 2
    (line,) = said(capsys).splitlines()
    assert not Path("runs").exists()
    return line.removeprefix("dynams: error: ")


def test_rates_of_another_device_are_refused(rates, capsys):
    def moved(line: dict[str, Any]) -> dict[str, Any]:
        if line["record"] == "start":
            line["environment"]["device"] = "cuda: NVIDIA H100"
        return line

    edit(rates, moved)
    message = refused(capsys, "--rates=rates")
    assert "want 'cuda: NVIDIA H100': rates measured that" in message


def test_rates_of_another_folder_of_images_are_refused(rates, capsys, tmp_path):
    def moved(line: dict[str, Any]) -> dict[str, Any]:
        if line["record"] == "start":
            line["config"]["data"] |= {"name": "folder", "path": "there"}
        return line

    edit(rates, moved)
    argv = ["--rates=rates", "--data.name=folder", "--data.path=here"]
    assert "data.path: got 'here', want 'there'" in refused(capsys, *argv)


def test_a_calibration_without_what_the_run_needs_is_refused(rates, capsys):
    def unscored(line: dict[str, Any]) -> dict[str, Any] | None:
        if line["record"] == "epoch":
            return line if line["epoch"] == 0 else None
        return None if line["record"] == "refresh" else line

    edit(rates, unscored)
    message = refused(capsys, "--rates=rates")
    assert (
        "rates.scoring: got None, want what was measured: there is work of that kind; a run with two"
        in message
    )


def test_a_calibration_without_a_checkpoint_or_an_epoch_is_refused(rates, capsys):
    shutil.rmtree(rates / "checkpoints")
    assert "rates: its number of samples is not known: no checkpoint" in refused(
        capsys, "--rates=rates"
    )


def test_a_damaged_log_is_refused(rates, capsys):
    (rates / "log.jsonl").write_text("words\n{}\n")
    assert "rates: rates/log.jsonl, line 1: not a line of JSON" in refused(capsys, "--rates=rates")


def test_the_help_explains_the_three_options(capsys):
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--rates RUN_DIR", "--within SECONDS", "--within-fraction FRACTION"):
        assert option in text
