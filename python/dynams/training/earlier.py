"""What a run goes on from: the checkpoint that was told, or the newest whole one of a run that is always in one place."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from lightning_fabric import Fabric

from dynams.training.checkpoint import Checkpoint, load_checkpoint
from dynams.training.config import TrainConfig
from dynams.training.distributed import told_by_all
from dynams.training.errors import ResumeError
from dynams.training.rundir import (
    AUTO,
    BEST,
    checkpoint_path,
    fixed_run_dir,
    is_begun,
    run_and_checkpoint,
)

_LOG = logging.getLogger(__name__)


class Earlier(NamedTuple):
    """What a resumed run goes on from; ``written`` tells the file that was read from any that takes its place."""

    run_dir: Path
    path: Path
    checkpoint: Checkpoint
    written: tuple[int, ...] | None

    @classmethod
    def at(cls, resume: str | Path) -> Earlier:
        """Read what was told: a run's directory, or a checkpoint in it."""
        run_dir, path = run_and_checkpoint(resume)
        written = _written(path)  # before it is read: what comes later is another
        return cls(run_dir, path, load_checkpoint(path), written)

    @classmethod
    def whole(cls, run_dir: Path) -> Earlier:
        """The last checkpoint, or the best one where that is damaged."""
        try:
            return cls.at(run_dir)
        except ResumeError as error:
            best = checkpoint_path(run_dir, BEST)
            try:
                found = cls.at(best)
            except ResumeError:
                raise error from None
            _LOG.warning("%s", error)
            return found

    @property
    def is_last(self) -> bool:
        """Whether it is the run's last checkpoint."""
        return self.path == checkpoint_path(self.run_dir)

    @property
    def is_current(self) -> bool:
        """Whether no other process has written it since."""
        return self.written == _written(self.path)


def run_to_resume(
    config: TrainConfig, resume: str | Path | None
) -> tuple[Path | None, Earlier | None]:
    """The directory of a run, if that is given, and what it goes on from, if it does."""
    if resume is None:
        return None, None
    if resume != AUTO:
        earlier = Earlier.at(resume)
        return earlier.run_dir, earlier
    run_dir = fixed_run_dir(config)
    return run_dir, Earlier.whole(run_dir) if is_begun(run_dir) else None


def check_same_state(fabric: Fabric, earlier: Earlier | None) -> None:
    """Refuse processes that go on from different states, as of machines that do not share the run's directory.

    Raises:
        ResumeError: in all of them.
    """
    at = None if earlier is None else earlier.checkpoint.global_step
    told = told_by_all(fabric, at)
    for rank, other in enumerate(told):
        if other != told[0]:
            begin, goes_on = "begins", "goes on after step {}"
            mine, first = (begin if it is None else goes_on.format(it) for it in (other, told[0]))
            raise ResumeError(
                f"resume: process {rank} {mine}, process 0 {first}, want run.dir on a disk that all machines share"
            )


def _written(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
