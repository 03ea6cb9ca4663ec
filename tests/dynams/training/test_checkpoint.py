"""Checkpoints appear whole or not at all, and reading one runs no code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from dynams.training import checkpoint as checkpoint_module
from dynams.training.checkpoint import (
    BEST,
    Checkpoint,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
)
from dynams.training.errors import ResumeError


def make(epoch: int = 3) -> Checkpoint:
    return Checkpoint(
        config={"optim": {"lr": 0.1}},
        data={"train": 10},
        epoch=epoch,
        step=2,
        global_step=20,
        samples=640,
        model={"weight": torch.arange(5.0) + epoch},
        optimizer={"state": {0: {"momentum_buffer": torch.ones(5)}}, "param_groups": []},
        sampler={"epoch": epoch},
        sums={"losses": [1.0, 2.0]},
        cost={"seconds": {"training": 1.5}},
        total_seconds=2.5,
        accuracy=0.5,
    )


def test_what_was_saved_is_what_is_read(tmp_path):
    path = save_checkpoint(tmp_path, make())
    read = load_checkpoint(path)
    assert torch.equal(read.model["weight"], make().model["weight"])
    assert (read.epoch, read.step, read.accuracy, read.best_accuracy) == (3, 2, 0.5, None)
    assert read.optimizer["state"][0]["momentum_buffer"].tolist() == [1.0] * 5


def test_the_best_stays_when_a_later_one_is_worse(tmp_path):
    save_checkpoint(tmp_path, make(1), best=True)
    save_checkpoint(tmp_path, make(2))
    assert load_checkpoint(checkpoint_path(tmp_path)).epoch == 2
    assert load_checkpoint(checkpoint_path(tmp_path, BEST)).epoch == 1


def test_the_best_is_copied_where_links_are_refused(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    save_checkpoint(tmp_path, make(4), best=True)
    assert load_checkpoint(checkpoint_path(tmp_path, BEST)).epoch == 4


@pytest.mark.parametrize("moment", ["while writing", "before renaming"])
def test_a_failure_keeps_the_checkpoint_of_before_and_leaves_no_litter(
    tmp_path, monkeypatch, moment
):
    path = save_checkpoint(tmp_path, make(1))

    def fail(*args: object, **_: object) -> None:
        if moment == "while writing":
            Path(str(args[1])).write_bytes(b"half of it")
        raise OSError("disk full")

    target = (torch, "save") if moment == "while writing" else (os, "replace")
    with monkeypatch.context() as patch:
        patch.setattr(*target, fail)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(tmp_path, make(2))
    assert load_checkpoint(path).epoch == 1
    assert [item.name for item in path.parent.iterdir()] == ["last.pt"]


def test_a_missing_checkpoint_is_a_resume_error(tmp_path):
    with pytest.raises(ResumeError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path, keep):
    path = save_checkpoint(tmp_path, make())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ResumeError, match="damaged"):
        load_checkpoint(path)


class Malice:
    ran = False

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return (Malice.act, ())

    @staticmethod
    def act() -> None:
        Malice.ran = True


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_reading_runs_no_code_from_the_file(tmp_path, how):
    path = tmp_path / "last.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malice(), protocol=2))
    else:
        torch.save({"format": 1, "model": Malice()}, path)
    with pytest.raises(ResumeError):
        load_checkpoint(path)
    assert not Malice.ran


def test_other_formats_and_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.ones(1)}, path)
    with pytest.raises(ResumeError, match="not a checkpoint of dynams"):
        load_checkpoint(path)
    torch.save({"format": checkpoint_module.FORMAT}, path)
    with pytest.raises(ResumeError, match="not a whole checkpoint"):
        load_checkpoint(path)
    monkeypatch.setattr(checkpoint_module, "FORMAT", 2)
    saved = make()
    saved.format = 99
    with pytest.raises(ResumeError, match="got checkpoint format 99, want"):
        load_checkpoint(save_checkpoint(tmp_path, saved))
