"""Checkpoints appear whole or not at all, and reading one runs no code."""

from __future__ import annotations

import errno
import pickle
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from dynams.files import StorageError, aside, replacing
from dynams.training import checkpoint as checkpoint_module
from dynams.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    remove_unfinished,
    save_checkpoint,
)
from dynams.training.errors import ResumeError
from dynams.training.rundir import BEST, checkpoint_path, resume_command, run_and_checkpoint
from file_limits import files_of_at_most


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


@pytest.mark.parametrize("moment", ["while writing", "before renaming"])
def test_a_failure_keeps_the_checkpoint_of_before_and_leaves_no_litter(
    tmp_path, monkeypatch, moment
):
    path = save_checkpoint(tmp_path, make(1))
    with ExitStack() as stack:
        if moment == "while writing":
            stack.enter_context(files_of_at_most(1000))
        else:
            patch = stack.enter_context(monkeypatch.context())
            patch.setattr(Path, "replace", lambda part, _: part.rename(tmp_path / "no" / "such"))
        with pytest.raises(
            StorageError, match=r"checkpoints/last\.pt: cannot be written: "
        ) as told:
            save_checkpoint(tmp_path, make(2))
    why = errno.EFBIG if moment == "while writing" else errno.ENOENT
    assert told.value.errno == why
    assert load_checkpoint(path).epoch == 1
    assert [item.name for item in path.parent.iterdir()] == ["last.pt"]


def test_what_killed_processes_left_is_removed_and_what_live_ones_write_is_not(tmp_path):
    folder = save_checkpoint(tmp_path, make(), best=True).parent
    aside(folder / "last.pt").write_bytes(b"half of it")
    (folder / ".best.pt.abcdefgh").mkdir()
    (folder / ".best.pt.abcdefgh" / "best.pt").write_bytes(b"half of one of format 2")
    (folder / "notes.tmp").write_text("not ours")
    with replacing(folder / "live.pt") as live:
        remove_unfinished(tmp_path)
        live.write(b"whole")
    assert sorted(item.name for item in folder.iterdir()) == [
        "best.pt",
        "last.pt",
        "live.pt",
        "notes.tmp",
    ]
    assert (folder / "live.pt").read_bytes() == b"whole"


def test_a_missing_checkpoint_is_a_resume_error(tmp_path):
    with pytest.raises(ResumeError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return save_checkpoint(tmp_path_factory.mktemp("whole"), make()).read_bytes()


def refused(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except ResumeError as error:
        return str(error).startswith(f"damaged: {path}: ")
    return False


def test_a_checkpoint_cut_short_anywhere_is_refused(tmp_path, whole):
    path = tmp_path / "last.pt"
    # Every length at both ends; between them the reader sees no difference.
    near_an_end = [*range(200), *range(len(whole) - 200, len(whole))]
    lengths = sorted({*near_an_end, *range(0, len(whole), 37)})
    assert [length for length in lengths if not refused(path, whole[:length])] == []


def test_a_checkpoint_with_any_flipped_byte_is_refused(tmp_path, whole):
    path = tmp_path / "last.pt"
    accepted = []
    # Every byte of the checksum's own part, and every kind before it: records, directory and its end.
    for place in [*range(0, len(whole) - 60, 11), *range(len(whole) - 60, len(whole))]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        if not refused(path, flipped):
            accepted.append(place)
    assert accepted == []


def test_other_damage_is_refused(tmp_path, whole):
    path = tmp_path / "last.pt"
    middle = len(whole) // 2
    assert refused(path, whole + b"\0")
    assert refused(path, whole + whole)
    assert refused(path, whole + whole[-32:])
    assert refused(path, whole[:middle] + bytes(512) + whole[middle + 512 :])
    assert refused(path, whole[:middle] + whole[middle + 512 :])
    assert refused(path, bytes(len(whole)))


def test_damage_is_told_with_the_command_that_goes_on_from_the_other_one(tmp_path):
    last = save_checkpoint(tmp_path, make(1), best=True)
    best = checkpoint_path(tmp_path, BEST)
    last.write_bytes(last.read_bytes()[:-1])
    command = f"best.pt is whole, from epoch 2 on: {resume_command(best)}"
    with pytest.raises(ResumeError, match=f"^damaged: .*{re.escape(command)}$"):
        load_checkpoint(last)
    assert load_checkpoint(best).epoch == 1
    best.write_bytes(b"")
    with pytest.raises(ResumeError) as told:
        load_checkpoint(last)
    assert "dynams train" not in str(told.value)


def test_a_checkpoint_of_before_there_were_checksums_is_read(tmp_path):
    path = save_checkpoint(tmp_path, make())
    values = torch.load(path, weights_only=True)
    torch.save({**values, "format": 2}, path)
    assert load_checkpoint(path).epoch == 3
    content = path.read_bytes()
    lengths = range(0, len(content), len(content) // 30)
    assert all(refused(path, content[:length]) for length in lengths)


def test_a_checkpoint_of_before_processes_kept_their_own_is_read(tmp_path):
    path = save_checkpoint(tmp_path, make())
    values = torch.load(path, weights_only=True)
    del values["processes"]
    torch.save({**values, "format": checkpoint_module.UNSEALED}, path)
    read = load_checkpoint(path)
    assert (read.epoch, read.processes) == (3, [])


def test_a_run_is_named_by_its_directory_or_a_checkpoint_in_it(tmp_path, monkeypatch):
    last = save_checkpoint(tmp_path, make(), best=True)
    best = last.with_name(BEST)
    assert run_and_checkpoint(tmp_path) == (tmp_path, last)
    assert run_and_checkpoint(best) == (tmp_path, best)
    monkeypatch.chdir(last.parent)
    assert run_and_checkpoint("best.pt") == (tmp_path, best)
    with pytest.raises(ResumeError, match=r"^resume: got .*copy\.pt, want the directory of a run"):
        run_and_checkpoint(tmp_path / "copy.pt")


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


def test_other_formats_and_files_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.ones(1)}, path)
    with pytest.raises(ResumeError, match="not a checkpoint of dynams"):
        load_checkpoint(path)
    torch.save({"format": checkpoint_module.UNSEALED}, path)
    with pytest.raises(ResumeError, match="not a whole checkpoint"):
        load_checkpoint(path)
    saved = make()
    saved.format = 99
    with pytest.raises(ResumeError, match="got checkpoint format 99, want"):
        load_checkpoint(save_checkpoint(tmp_path, saved))
