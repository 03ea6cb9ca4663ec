"""Runs of two processes that survive what befalls them: each ends bit for bit as the run that nothing befell."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from training_runs import equal, log_lines

from dynams.training.checkpoint import Checkpoint
from faults import KILLED, Command, Saves, alive, finished, imported_once, is_writing, wait_for

_ARGV = [
    "--data.limit=120",
    "--model.base_channels=4",
    "--selection.warmup_epochs=1",
    "--selection.refresh_every=1",
    "--selection.batch_size=64",
    "--optim.batch_size=32",
    "--optim.epochs=5",
    "--run.accelerator=cpu",
    "--run.tensorboard=false",
    "--run.report=false",
    "--run.progress=false",
    "--run.save_every_steps=1",
]
_STEPS = 16
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Checkpoint, list[dict]]:
    """The end of the run that nothing befell, and its log. It saves at the ends of epochs alone."""
    imported_once()
    argv = [*_ARGV[:-1], "--run.save_every_steps=null"]
    with Command(tmp_path_factory.mktemp("undisturbed"), argv).cleaned() as command:
        end = command.through()
        assert end.global_step == _STEPS
        return end, log_lines(command.run_dir)


class Missed(Exception):
    """The run was through before anything befell it."""


def a_moment(command: Command, draws: random.Random, latest: int = 10) -> None:
    """Let the run come to some place: while it starts, or just after one of its saves."""
    saves, wanted = Saves(command), draws.randrange(latest + 1)
    if not wanted:
        wait_for(lambda: len(command.workers()) == command.size)
    else:
        wait_for(lambda: saves.reached(wanted) or not command.launched[-1].is_alive())
    time.sleep(draws.random() * (0.03 if wanted else 0.5))


def one_is_killed(command: Command, draws: random.Random) -> None:
    """The launcher restarts both workers."""
    launcher = command.launch()
    a_moment(command, draws)
    hit(command, draws.randrange(2), signal.SIGKILL)
    assert finished(launcher) == 0, command.said()


def all_are_killed(command: Command, draws: random.Random) -> None:
    launcher = command.launch()
    a_moment(command, draws)
    if not launcher.is_alive():
        raise Missed
    command.kill_all()


def killed_while_it_saves(command: Command, draws: random.Random) -> None:
    launcher = command.launch()
    saves, wanted = Saves(command), draws.randrange(1, 8)
    wait_for(lambda: saves.reached(wanted) or not launcher.is_alive())
    while not is_writing(command):
        if not launcher.is_alive():
            raise Missed
    hit(command, 0, signal.SIGKILL)
    assert finished(launcher) == 0, command.said()


def pre_empted(command: Command, draws: random.Random) -> None:
    """The launcher is told to end; it tells its workers, and kills them after 30 seconds."""
    launcher = command.launch()
    a_moment(command, draws)
    workers = command.workers()
    if len(workers) < 2:
        raise Missed
    had_saved = command.last.exists()
    os.kill(launcher.pid or 0, signal.SIGTERM)
    assert finished(launcher) != 0
    said = command.said()
    assert KILLED not in said
    # The first process alone tells by its status; one that has not come to listen yet is ended by the signal itself.
    assert "status 130" in said or not had_saved, said
    assert "status 1\n" not in said


def one_is_told_to_stop(command: Command, draws: random.Random) -> None:
    """Both save and end; the launcher sees that they have not ended well, and restarts them."""
    launcher = command.launch()
    saves = Saves(command)
    wait_for(lambda: saves.reached(draws.randrange(1, 9)) or not launcher.is_alive())
    hit(command, draws.randrange(2), signal.SIGUSR1)
    assert finished(launcher) == 0, command.said()
    assert "status 130" in command.said()


def one_hangs(command: Command, draws: random.Random) -> None:
    command.argv = [*command.argv, "--run.timeout=3"]
    launcher = command.launch()
    a_moment(command, draws)
    rank = draws.randrange(2)
    wait_for(lambda: (command.run_dir / "config.yaml").exists())
    number = hit(command, rank, signal.SIGSTOP)
    wait_for(lambda: not alive(number))
    assert finished(launcher) == 0, command.said()
    assert f"dynams: error: process {rank} has not come on for 3 s (" in command.said()


def the_disk_is_full(command: Command, draws: random.Random) -> None:
    """For the process that saves, until it has ended; the restarted ones find room."""
    launcher = command.launch()
    saves = Saves(command)
    wait_for(lambda: saves.reached(draws.randrange(1, 8)) or not launcher.is_alive())
    number = command.workers().get(0)
    if number is None:
        raise Missed
    with suppress(ProcessLookupError):
        resource.prlimit(number, resource.RLIMIT_FSIZE, (10_000, 10_000))
    assert finished(launcher) == 0, command.said()
    said = command.said()
    if "cannot be written" not in said:
        raise Missed
    assert "last.pt: cannot be written: File too large; raise the limit" in said
    assert "status 1\n" in said


def the_last_checkpoint_is_damaged(command: Command, draws: random.Random) -> None:
    """So that the run goes on from the best one."""
    all_are_killed(command, draws)
    best = command.last.with_name("best.pt")
    if not (command.last.exists() and best.exists()):
        raise Missed
    content = bytearray(command.last.read_bytes())
    if draws.random() < 0.5:
        del content[draws.randrange(len(content)) :]
    else:
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    command.last.write_bytes(content)


Fault = Callable[[Command, random.Random], None]
FAULTS: list[Fault] = [
    one_is_killed,
    killed_while_it_saves,
    pre_empted,
    one_hangs,
    the_last_checkpoint_is_damaged,
    all_are_killed,
    one_is_told_to_stop,
    the_disk_is_full,
]
_COUNT = 50 if NIGHTLY else 5


def hit(command: Command, rank: int, what: signal.Signals) -> int:
    """Send a signal to a worker; returns its number."""
    number = command.workers().get(rank)
    if number is None:
        raise Missed
    os.kill(number, what)
    return number


def befallen(folder: Path, fault: Fault, seed: int) -> Command:
    """A run that ``fault`` has befallen, still to be given its command once more."""
    for attempt in range(5):
        place = folder / str(attempt)
        place.mkdir()
        command = Command(place, list(_ARGV))
        try:
            fault(command, random.Random(1000 * attempt + seed))
        except Missed:
            command.kill_all()
        except BaseException:
            command.kill_all()
            raise
        else:
            return command
    raise AssertionError("the run was through each time before anything befell it")


@pytest.mark.parametrize("seed", range(_COUNT))
def test_a_run_ends_as_if_nothing_had_befallen_it(seed, tmp_path, undisturbed):
    end, log = undisturbed
    with befallen(tmp_path, FAULTS[seed % len(FAULTS)], seed).cleaned() as command:
        ours = command.through()
        said = command.said()
        assert "Traceback (most recent call last):\n  File" not in said.replace("E1127", "")
        for name in ("model", "optimizer", "sampler", "accuracy", "best_accuracy", "samples"):
            assert equal(getattr(ours, name), getattr(end, name)), name
        assert ours.global_step == _STEPS
        assert [line for line in log_lines(command.run_dir) if line["record"] != "start"] == log[1:]
        assert list(command.run_dir.rglob("*.tmp")) == []


@pytest.mark.parametrize("size", [1, 4] if NIGHTLY else [1])
def test_a_run_goes_on_with_another_number_of_processes(size, tmp_path):
    """Chosen without the network, which comes out otherwise: the same samples in the same order."""
    argv = [*_ARGV, "--selection.strategy=random"]
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    with Command(tmp_path / "parts", argv).cleaned() as command:
        launcher = command.launch()
        saves = Saves(command)
        wait_for(lambda: saves.reached(6))
        command.kill_all()
        assert launcher.exitcode != 0
        before = command.saved()
        command.size = size
        after = command.through()
    assert before.global_step < after.global_step == _STEPS
    assert after.config["run"]["devices"] == size
    assert after.samples == sum(
        line["samples"] for line in log_lines(command.run_dir) if line["record"] == "epoch"
    )
    with Command(tmp_path / "whole", argv).cleaned() as command:
        whole = command.through()
    assert equal(after.sampler, whole.sampler)
    assert not equal(after.model, before.model)
