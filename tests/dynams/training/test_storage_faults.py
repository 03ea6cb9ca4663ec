"""A run whose storage fails says what, why and what to do, and goes on once that is done."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from training_runs import equal, log_lines, made_up_data, small_config

from dynams.files import StorageError, aside
from dynams.report.runlog import read_run
from dynams.training.checkpoint import load_checkpoint
from dynams.training.entry import train
from dynams.training.errors import ResumeError
from dynams.training.interrupt import Interrupt
from dynams.training.rundir import BEST, checkpoint_path, resume_command
from file_limits import files_of_at_most

DATA = made_up_data()


class At(Interrupt):
    """Does something the n-th time that it is asked whether to stop."""

    def __init__(self, question: int, act: Callable[[], object]) -> None:
        super().__init__()
        self.left = question
        self.act = act

    @property
    def requested(self) -> bool:
        self.left -= 1
        if self.left == 0:
            self.act()
        return False


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> str:
    return train(small_config(tmp_path_factory.mktemp("whole")), DATA).run_dir


def assert_same_end(run_dir: Path, reference: str) -> None:
    ours, wanted = (load_checkpoint(checkpoint_path(each)) for each in (run_dir, reference))
    assert equal(ours.model, wanted.model)
    assert log_lines(run_dir) == log_lines(reference)


@pytest.mark.parametrize(
    ("room", "tensorboard"), [("none", True), ("for the log", True), ("for the log", False)]
)
def test_a_full_disk_is_told_and_the_run_goes_on_after_it(tmp_path, reference, room, tensorboard):
    config = small_config(tmp_path, run={"tensorboard": tensorboard})
    limits = {"none": 10, "for the log": 20_000}
    with ExitStack() as stack:

        def fill() -> None:
            stack.enter_context(files_of_at_most(limits[room]))

        with pytest.raises(StorageError) as told:
            # In the second epoch, which begins with its selection.
            train(config, DATA, interrupt=At(8, fill))
    assert told.value.errno == errno.EFBIG
    (run_dir,) = tmp_path.iterdir()
    file = "log.jsonl" if room == "none" else "checkpoints/last.pt"
    assert str(told.value) == (
        f"{run_dir}/{file}: cannot be written: File too large; raise the limit on the size of files "
        f"(ulimit -f) or write to another disk, then go on with: {resume_command(run_dir)}"
    )
    assert list(run_dir.rglob("*.tmp")) == []
    summary = read_run(run_dir).summary
    if room == "none":
        assert summary is None
    else:
        assert summary is not None
        assert summary.failure == str(told.value)
    assert train(config, DATA, resume=run_dir).completed
    assert_same_end(run_dir, reference)


def test_a_run_whose_folder_goes_is_told(tmp_path):
    with pytest.raises(StorageError, match=r"checkpoints: .*; its folder was removed or renamed"):
        train(small_config(tmp_path), DATA, interrupt=At(8, lambda: shutil.rmtree(tmp_path)))


def test_a_folder_of_checkpoints_that_goes_is_made_again(tmp_path, reference):
    def lose() -> None:
        shutil.rmtree(next(tmp_path.iterdir()) / "checkpoints")

    run_dir = Path(train(small_config(tmp_path), DATA, interrupt=At(8, lose)).run_dir)
    assert_same_end(run_dir, reference)


def test_a_checkpoint_that_cannot_fit_is_refused_before_anything_is_made(tmp_path):
    with (
        files_of_at_most(10),
        pytest.raises(ValueError, match=r"got a limit of 0\.0 KiB for files"),
    ):
        train(small_config(tmp_path), DATA)
    assert list(tmp_path.iterdir()) == []


def test_from_the_best_checkpoint_a_run_ends_as_it_did(tmp_path, reference):
    run_dir = tmp_path / "copy"
    shutil.copytree(reference, run_dir)
    last, best = checkpoint_path(run_dir), checkpoint_path(run_dir, BEST)
    last.write_bytes(last.read_bytes()[:1000])
    aside(last).write_bytes(b"of a killed run")
    aside(run_dir / "report.html").write_bytes(b"of a killed run")
    with (run_dir / "log.jsonl").open("ab") as log:
        log.write(b'{"record": "epo')  # a killed run's
    config = small_config(tmp_path)
    with pytest.raises(ResumeError, match=f"^damaged: .*: {re.escape(resume_command(best))}$"):
        train(config, DATA, resume=run_dir)
    summary = train(config, DATA, resume=best)
    assert (summary.completed, summary.run_dir) == (True, str(run_dir))
    assert_same_end(run_dir, reference)
    assert list(run_dir.rglob("*.tmp")) == []
