"""Faults done for real to a run of several processes: under torchrun's own agent, whose workers are forked, not started anew.

`Command` is a command that is given again and again until the run is through, as a cluster would. Each `launch`
of it is a process that does what torchrun does (`elastic_launch`), and restarts its workers; signals hit real processes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dynams.cli import main
from dynams.data import load_data
from dynams.report.console import make_console
from dynams.training.checkpoint import Checkpoint, load_checkpoint
from dynams.training.rundir import LAST, checkpoint_path

# What torchrun says of workers that do not end within 30 seconds of being told to.
KILLED = "forcefully exiting via"

_PATIENCE = 150.0
_FORK = get_context("fork")


def imported_once() -> None:
    """Import what a run on the digits imports as it goes on: what is forked need not do it again."""
    import dynams.training.entry  # noqa: F401

    load_data("digits", limit=10)
    make_console()


def wait_for(what: Callable[[], object], why: str = "") -> None:
    """Wait until ``what`` is true.

    Raises:
        TimeoutError: it takes minutes.
    """
    end = time.monotonic() + _PATIENCE
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(why or "it does not come")
        time.sleep(0.005)


@dataclass
class Command:
    """A run's command: the same every time.

    Attributes:
        folder: where it runs; empty at first.
        argv: arguments after `dynams train`.
        size: processes.
        restarts: how often one launch restarts its workers.
    """

    folder: Path
    argv: list[str]
    size: int = 2
    restarts: int = 3
    launched: list[BaseProcess] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / "run"

    @property
    def last(self) -> Path:
        return checkpoint_path(self.run_dir)

    def full(self) -> list[str]:
        return ["train", "--run.dir=runs", "--run.name=run", "--resume=auto", *self.argv]

    def saved(self) -> Checkpoint:
        return load_checkpoint(self.last)

    def said(self) -> str:
        """What all processes have said so far, the restarted ones too."""
        return "".join(
            path.read_text(errors="replace") for path in sorted(self.folder.glob("*.err"))
        )

    def launch(self) -> BaseProcess:
        """Give the command once."""
        process = _FORK.Process(target=_agent, args=(self,))
        process.start()
        self.launched.append(process)
        return process

    def through(self) -> Checkpoint:
        """Give it until it has ended well, then tell how the run ended; as a cluster does, some times only."""
        for _ in range(3):
            if (self.launched and self.launched[-1].exitcode == 0) or finished(self.launch()) == 0:
                return self.saved()
        raise AssertionError(self.said())

    def workers(self) -> dict[int, int]:
        """Process numbers of the workers that are alive, by rank."""
        found = {}
        for path in self.folder.glob("rank-*"):
            with suppress(ValueError):
                number = int(path.read_text())
                if alive(number):
                    found[int(path.name.removeprefix("rank-"))] = number
        return found

    def kill(self, *ranks: int) -> None:
        """SIGKILL to some of the workers."""
        for rank, number in self.workers().items():
            if rank in ranks:
                _signal(number, signal.SIGKILL)

    def kill_all(self) -> None:
        """As when the machine fails: the launcher first, so that it restarts nothing."""
        for process in self.launched:
            if process.is_alive():
                process.kill()
                process.join()
        self.kill(*range(self.size))
        wait_for(lambda: not self.workers())

    @contextmanager
    def cleaned(self) -> Iterator[Command]:
        """Leave no process behind."""
        try:
            yield self
        finally:
            self.kill_all()


class Saves:
    """Counts how often the last checkpoint was written, from where it stands when this is made."""

    def __init__(self, command: Command) -> None:
        self._path = command.last
        self._stamp = self._now()
        self.count = 0

    def _now(self) -> tuple[int, int] | None:
        with suppress(OSError):
            told = os.stat(self._path)
            return told.st_ino, told.st_mtime_ns
        return None

    def reached(self, count: int) -> bool:
        if (stamp := self._now()) != self._stamp:
            self._stamp = stamp
            self.count += 1
        return self.count >= count


def is_writing(command: Command) -> bool:
    """Whether a checkpoint is half written."""
    return any(command.last.parent.glob(f"{LAST}.*.tmp"))


def finished(process: BaseProcess) -> int | None:
    process.join(_PATIENCE)
    return process.exitcode


def alive(number: int) -> bool:
    """Whether a process still runs; one that is dead and not yet waited for does not."""
    try:
        told = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    return told.rpartition(")")[2].split()[0] != "Z"


def _signal(number: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(number, what)


def _agent(command: Command) -> None:
    """What torchrun does, in a process of its own."""
    os.chdir(command.folder)
    _say_in(command.folder / "torchrun.err")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=command.size,
        run_id="faults",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=command.restarts,
        monitor_interval=0.1,
        start_method="fork",
    )
    status = 1
    try:
        elastic_launch(config, _worker)(command)
        status = 0
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}\n")
    sys.stderr.flush()
    os._exit(status)


def _worker(command: Command) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_DFL
        )  # the launcher has its own, which a new program would not
    rank = os.environ["RANK"]
    _say_in(command.folder / f"rank {rank}.err")
    (command.folder / f"rank-{rank}").write_text(str(os.getpid()))
    torch.set_num_threads(1)
    status = main(command.full())
    sys.stderr.write(f"status {status}\n")
    sys.stderr.flush()
    end = command.saved() if status == 0 else None
    if end is None or end.epoch < end.config["optim"]["epochs"]:
        os._exit(status)
    # The agent waits for what this returns, and this for the agent, which does not read it where it is ending.


def _say_in(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
