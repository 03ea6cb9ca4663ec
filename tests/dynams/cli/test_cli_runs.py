"""Whole runs through the command line, each in its own process: stopped, resumed, on two devices."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from children import plain_environment
from dynams.cli import main
from dynams.cli.options import parse
from dynams.data import load_data
from dynams.files import StorageError
from dynams.models import build_model
from dynams.training.batches import ImageBatches
from dynams.training.checkpoint import load_checkpoint
from dynams.training.entry import train
from dynams.training.errors import ResumeError
from dynams.training.evaluation import evaluate
from dynams.training.rundir import BEST, checkpoint_path
from foreground import heed_interrupts

SMALL = [
    "--data.limit=241",
    "--model.base_channels=4",
    "--selection.warmup_epochs=0",
    "--selection.refresh_every=2",
    "--selection.batch_size=64",
    "--optim.batch_size=32",
    "--run.accelerator=cpu",
    "--run.tensorboard=false",
]


def start(folder: Path, *argv: str) -> subprocess.Popen[str]:
    environment = plain_environment(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    environment.pop("DYNAMS_DEBUG", None)
    return subprocess.Popen(
        [sys.executable, "-m", "dynams.cli", "train", *argv],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status and what was said on standard error."""
    out, err = process.communicate(timeout=300)
    assert out == ""
    return process.returncode, err


def stop_in_epoch(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Send a signal once the first epoch is through."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("epoch"):
            break
    process.send_signal(number)
    status, rest = finish(process)
    return status, said + rest


def only_run(folder: Path) -> Path:
    (found,) = (folder / "runs").iterdir()
    return found


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """The log without times and environment."""
    read = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    for line in read:
        for key in ("seconds", "total_seconds", "run_dir", "environment"):
            line.pop(key, None)
    return read


def small_run(folder: Path, epochs: int) -> Path:
    """The same run in this process, on one device, never stopped."""
    argv = [*SMALL, f"--optim.epochs={epochs}", "--run.report=false", "--run.progress=false"]
    summary = train(parse([*argv, f"--run.dir={folder}"]).config)
    assert summary.completed
    return Path(summary.run_dir)


def test_a_run_stopped_by_sigint_and_resumed_in_a_new_process_is_the_uninterrupted_run(tmp_path):
    stopped = start(tmp_path, *SMALL, "--optim.epochs=20")
    status, said = stop_in_epoch(stopped, signal.SIGINT)
    assert status == 130, said
    run_dir = only_run(tmp_path)
    name = str(Path("runs") / run_dir.name)
    assert said.splitlines()[-1] == f"dynams: stopped; resume with: dynams train --resume {name}"
    assert "Traceback" not in said
    assert load_checkpoint(checkpoint_path(run_dir)).epoch < 20

    resumed = start(tmp_path, "--resume", name)
    reference = small_run(tmp_path / "reference", 20)
    status, said = finish(resumed)
    assert status == 0, said
    assert "Test accuracy" in said
    assert {"config.yaml", "log.jsonl", "checkpoints", "report.html"} == {
        item.name for item in run_dir.iterdir()
    }
    mine, theirs = (load_checkpoint(checkpoint_path(each)) for each in (run_dir, reference))
    for key, tensor in theirs.model.items():
        assert torch.equal(mine.model[key], tensor), key
    assert torch.equal(mine.sampler["indices"], theirs.sampler["indices"])
    assert lines(run_dir)[1:] == lines(reference)[1:]  # the first line holds run.dir


def test_a_changed_setting_is_refused_in_one_line(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    run_dir = small_run(tmp_path, 1)
    argv = ["--optim.lr=0.3", "--run.seed=2", "--run.devices=2"]
    assert main(["train", "--resume", str(run_dir), *argv]) == 2
    assert capsys.readouterr().err == (
        "dynams: error: optim.lr: got 0.3, want 0.1; run.seed: got 2, want 0: "
        "a resumed run keeps its settings\n"
    )
    # A rank that is left over silences nothing.
    assert main(["train", "--resume", str(run_dir)]) == 0
    assert "Test accuracy" in capsys.readouterr().err
    (told,) = (record.getMessage() for record in caplog.records)
    assert told == f"{run_dir}: all 1 epochs are done; more of them: --optim.epochs"


def test_a_diverging_run_ends_with_one_line_and_status_1(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "--optim.lr=1e30", "--run.progress=false"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("dynams: error: the loss became ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("fails", "lost"),
    [
        ("dynams.training.journal.write_report", "its report"),
        ("dynams.report.runlog.RunLog.end", "the end of its log"),
    ],
)
def test_what_fails_after_the_run_is_told_after_the_table_with_status_1(
    tmp_path, capsys, monkeypatch, fails, lost
):
    monkeypatch.chdir(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise StorageError("x", OSError(28, "No space left on device"))

    monkeypatch.setattr(fails, fail)
    assert main(["train", *SMALL, "--optim.epochs=1", "--run.progress=false"]) == 1
    said = capsys.readouterr().err
    assert said.index("Test accuracy") < said.index(
        f"dynams: error: the run is saved, but not {lost}: x: "
    )
    assert said.endswith(
        f"dynams train --resume {only_run(tmp_path).relative_to(tmp_path)} writes it\n"
    )


def test_a_damaged_checkpoint_is_told_with_a_command_that_can_be_typed(tmp_path, capsys):
    run_dir = small_run(tmp_path, 1)
    last = checkpoint_path(run_dir)
    last.write_bytes(last.read_bytes()[:5000])
    assert main(["train", "--resume", str(run_dir)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"dynams: error: damaged: {last}: ")
    command = shlex.split(said.rpartition(": ")[2])
    assert command[:2] == ["dynams", "train"]
    assert main([*command[1:], "--run.report=false"]) == 0
    assert load_checkpoint(last).epoch == 1


def test_two_processes_select_count_evaluate_and_stop_as_one(tmp_path):
    pair = start(tmp_path, *SMALL, "--optim.epochs=20", "--run.devices=2", "--run.report=false")
    reference = lines(small_run(tmp_path / "reference", 3))
    status, said = stop_in_epoch(pair, signal.SIGTERM)
    assert status == 130, said
    assert "Traceback" not in said
    run_dir = only_run(tmp_path)
    stopped_at = load_checkpoint(checkpoint_path(run_dir)).epoch
    assert stopped_at < 20

    status, said = finish(start(tmp_path, "--resume", str(run_dir)))
    assert status == 0, said
    assert said.count("Test accuracy, full width") == 1
    ours = lines(run_dir)
    epochs = [line for line in ours if line["record"] == "epoch"]
    assert [line["epoch"] for line in epochs] == list(range(20))
    assert {(line["samples"], line["steps"]) for line in epochs} == {(145, 5)}
    # The first refresh scores the same initial weights, so one and two processes agree.
    for key in ("record", "epoch", "selected", "class_counts"):
        assert ours[1][key] == reference[1][key]
    assert ours[1]["threshold"] == pytest.approx(reference[1]["threshold"], rel=1e-5)
    for mine, theirs in zip(epochs, reference[2:], strict=False):
        if theirs["record"] == "epoch":
            assert (mine["samples"], mine["steps"]) == (theirs["samples"], theirs["steps"])
    assert_accuracy(run_dir, "last.pt", epochs[-1]["accuracy"])
    assert_accuracy(run_dir, BEST, max(line["accuracy"] for line in epochs))


def assert_accuracy(run_dir: Path, name: str, accuracy: float) -> None:
    """The checkpoint, evaluated in one process, has exactly the accuracy that was logged."""
    data = load_data("digits", limit=241)
    network = build_model("resnet8", 10, in_channels=1, base_channels=4)
    network.load_state_dict(load_checkpoint(checkpoint_path(run_dir, name)).model)
    batches = ImageBatches(data.test, torch.device("cpu"), data.mean, data.std, data.augmentation)
    result = evaluate(Fabric(accelerator="cpu"), network, batches, batch_size=64)
    assert result.full == accuracy
    assert result.samples == len(data.test)


def test_a_run_whose_paths_are_no_text_goes_on_after_all_of_it_moved(tmp_path, monkeypatch, capsys):
    home = tmp_path / "caf\udce9"
    home.mkdir()
    np.save(home / "s.npy", np.arange(241.0))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    named = ["--run.dir=~/runs", "--run.name=n\udce9", "--selection.scores=s.npy"]
    argv = [*SMALL, *named, "--selection.strategy=memorisation", "--optim.epochs=1"]
    assert main(["train", *argv, "--run.tensorboard=true"]) == 0
    (run_dir,) = (home / "runs").iterdir()
    (events,) = (run_dir / "tensorboard").iterdir()
    assert events.stat().st_size > 0
    assert "caf\\udce9/runs/n\\udce9-" in "".join(capsys.readouterr().err.split())

    home = home.rename(tmp_path / "else\udcff")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir("/")
    assert main(["train", "--resume", f"~/runs/{run_dir.name}", "--run.tensorboard=false"]) == 0
    moved = home / "runs" / run_dir.name
    changed = [f"--selection.scores={home / 's.npy'}", "--run.tensorboard=false"]
    config = parse(["--resume", str(moved), *changed]).config
    assert train(config, resume=Path("~/runs") / run_dir.name).run_dir == str(moved)
    np.save(home / "s.npy", np.arange(241.0)[::-1])
    with pytest.raises(
        ResumeError, match=r"selection\.scores: got others in .* than the run began"
    ):
        train(config, resume=moved)
