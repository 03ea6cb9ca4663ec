"""A run's directory: what is stored of the configuration, where it is found again, how it is resumed."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from dynams.training.config import DataConfig, RunConfig, TrainConfig
from dynams.training.errors import ResumeError
from dynams.training.options import build
from dynams.training.rundir import (
    make_run_dir,
    read_config,
    resume_command,
    write_config,
)
from dynams.training.selection_config import SelectionConfig


def made(folder: Path, config: TrainConfig) -> Path:
    """A run of the configuration, told in ``folder``."""
    os.chdir(folder)
    run_dir = make_run_dir(config, "digits")
    write_config(run_dir, config)
    return folder / run_dir


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_stored_path_means_the_same_from_everywhere(tmp_path):
    config = TrainConfig(
        data=DataConfig(path="data", cache="../cache"),
        selection=SelectionConfig(scores="s.npy"),
        run=RunConfig(name="007"),
    )
    run_dir = made(tmp_path, config)
    os.chdir("/")
    again = build(read_config(run_dir))
    assert again.data.path == str(tmp_path / "data")
    assert again.data.cache == str(tmp_path.parent / "cache")
    assert again.selection.scores == str(tmp_path / "s.npy")
    assert (again.run.dir, again.run.name) == (str(tmp_path / "runs"), "007")


def test_data_that_moved_together_with_the_run_are_found(tmp_path):
    (tmp_path / "old" / "data").mkdir(parents=True)
    run_dir = made(tmp_path / "old", TrainConfig(data=DataConfig(path="data")))
    (tmp_path / "old").rename(tmp_path / "new")
    moved = tmp_path / "new" / "runs" / run_dir.name
    assert read_config(moved)["data.path"] == str(tmp_path / "new" / "data")
    # The run alone: data are where they were, also where there are others beside it.
    (tmp_path / "old" / "data").mkdir(parents=True)
    assert read_config(moved)["data.path"] == str(tmp_path / "old" / "data")


def test_any_path_survives_the_configuration(tmp_path):
    config = TrainConfig(
        data=DataConfig(path="caf\udce9/é"), run=RunConfig(dir="r\udcff", name="n\udce9")
    )
    run_dir = made(tmp_path, config)
    assert os.fsencode(run_dir.name).startswith(b"n\xe9-")
    again = build(read_config(run_dir))
    assert again.data.path == str(tmp_path / "caf\udce9/é")
    assert (again.run.dir, again.run.name) == (str(tmp_path / "r\udcff"), "n\udce9")


def test_a_path_may_come_as_any_kind_of_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    run = RunConfig(dir=Path("~/runs"))  # type: ignore[arg-type]
    assert run.dir == "/home/me/runs"
    assert DataConfig(path=b"caf\xe9").path == "caf\udce9"  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"run\.dir: got 3, want text"):
        RunConfig(dir=3)  # type: ignore[arg-type]


def test_a_damaged_configuration_is_told_with_its_file(tmp_path):
    (tmp_path / "config.yaml").write_text("optim: {lr: 1}\noptim: {lr: 2}\n")
    with pytest.raises(ValueError, match=r"config\.yaml: optim is given twice, in line 1 and"):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_text("proxy: {recipe: full}\noptim:\n")
    assert read_config(tmp_path) == {"proxy.recipe": "none"}  # its name in an earlier version
    with pytest.raises(ResumeError, match="resume: no directory nowhere"):
        read_config("nowhere")
    with pytest.raises(ResumeError, match=r"resume: got the file config\.yaml, want the directory"):
        read_config("config.yaml")


def test_the_command_that_resumes_is_one_that_can_be_typed(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    module = [sys.executable, "-m", "dynams.cli", "train", "--resume", "a b"]
    assert shlex.split(resume_command("a b")) == module
    (tmp_path / "dynams").touch(0o755)
    assert resume_command("runs/x") == "dynams train --resume runs/x"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    started = "torchrun --nproc-per-node=2 -m dynams.cli train --resume runs/x"
    assert resume_command("runs/x") == started
