"""A run's processes: who is lost is named once, with what resumes; a caller's own process group stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from training_runs import small_config

from dynams.training import children, processes
from dynams.training.devices import World, resolve_world
from dynams.training.distributed import build_fabric
from dynams.training.errors import LostProcessError
from dynams.training.interrupt import Interrupt
from dynams.training.launched import Launched
from dynams.training.meeting import agreed_name
from dynams.training.processes import Companions, joined, told_environment
from dynams.training.resolve import resolve
from dynams.training.rundir import resume_command

CPU = torch.device("cpu")
CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.Store:
    monkeypatch.setattr(processes, "_GRACE", 0.1)
    return dist.HashStore()


def companions(rank: int, size: int, store: dist.Store) -> Companions:
    here = Launched("torchrun", rank, size, rank, size, "127.0.0.1", 4)
    return Companions(World(size, 1, here), store)


def told(mine: Companions, error: Exception) -> LostProcessError:
    with pytest.raises(LostProcessError) as raised, mine.losses_told():
        raise error
    assert raised.value.__cause__ is error
    return raised.value


def test_one_that_says_nothing_more_is_gone_and_the_first_that_is_left_tells_it(store, tmp_path):
    first, third = companions(0, 3, store), companions(2, 3, store)
    lost = told(third, CLOSED)
    assert str(lost) == "process 0 is gone; process 1 is gone; nothing was saved yet"
    assert lost.speaks
    first.run_dir = tmp_path / "my run"
    saved = tmp_path / "my run" / "checkpoints" / "last.pt"
    saved.parent.mkdir(parents=True)
    saved.touch()
    lost = told(first, dist.DistBackendError("NCCL error"))
    assert str(lost) == f"process 1 is gone; resume with: {resume_command(first.run_dir)}"
    assert lost.speaks
    assert not told(third, CLOSED).speaks  # it has heard the first by now


def test_one_that_failed_by_itself_tells_its_error_and_the_others_name_it(store):
    first, second = companions(0, 2, store), companions(1, 2, store)
    with pytest.raises(OSError, match="disk"), second.losses_told():
        raise OSError("disk")
    lost = told(first, CLOSED)
    assert str(lost) == "process 1 failed; nothing was saved yet"
    assert lost.speaks


def test_in_a_group_of_the_callers_nobody_can_say_who_is_lost():
    here = Launched("the process group", 1, 2, 1, 2, "", 0)
    lost = told(Companions(World(2, 1, here)), CLOSED)
    assert str(lost) == "the connection to another process is lost; nothing was saved yet"


def test_processes_that_ended_after_an_earlier_run_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(children, "_command", lambda size: [sys.executable, "-c", ""])
    started = children.Children(3)
    while len(started.ended([1, 2])) < 2:
        time.sleep(0.01)
    monkeypatch.setattr(processes, "_children", lambda size: started)
    with pytest.raises(LostProcessError, match="process 1 ended after an earlier run: start"):
        joined(World(3), CPU).__enter__()
    assert not dist.is_initialized()


def test_an_error_of_all_is_told_by_the_first(store):
    for rank, speaks in ((0, True), (1, False)):
        error = ValueError("the loss became nan")
        with pytest.raises(ValueError, match="nan"), companions(rank, 2, store).losses_told():
            raise error
        assert getattr(error, "speaks", True) is speaks


def closed_on_the_way_out() -> None:
    """As the barrier around what one process does for all."""
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError(*CLOSED.args)


def test_a_process_that_is_stopped_at_once_does_not_tell_that_the_others_are(store):
    with pytest.raises(KeyboardInterrupt), companions(1, 2, store).losses_told():
        closed_on_the_way_out()
    assert not store.check(["ended/1"])
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:  # that the caller was stopped before is no reason
        lost = told(companions(1, 2, store), RuntimeError(*CLOSED.args))
    assert str(lost).startswith("process 0 is gone")


def test_alone_or_after_the_last_meeting_an_error_is_ones_own(store):
    for mine in (Companions(World(1)), companions(0, 2, store)):
        mine.over()
        with pytest.raises(RuntimeError, match="closed") as raised, mine.losses_told():
            raise CLOSED
        assert raised.value is CLOSED


@pytest.fixture
def group_of_two() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_two")
def test_a_process_group_of_the_callers_is_used_and_stays(tmp_path):
    with pytest.raises(ValueError, match=r"run\.devices: got 1, want 2, as many .* process group"):
        resolve_world(1, CPU, {})
    resolved = resolve(small_config(tmp_path, run={"devices": 2}))
    with joined(resolved.world, CPU) as found:
        fabric = build_fabric(resolved, found.world)
        with told_environment(found.world):
            fabric.launch()
        assert (fabric.world_size, fabric.global_rank, fabric.local_rank) == (2, 1, 1)
    assert dist.is_initialized()


def test_a_run_of_one_looks_for_no_cluster(tmp_path, monkeypatch):
    for name, value in {
        "SLURM_NTASKS": "2",
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "train",
        "LSB_JOBID": "5",
        "LSB_DJOB_RANKFILE": "/tmp/ranks",
        "JSM_NAMESPACE_SIZE": "2",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
        "LOCAL_RANK": "1",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    resolved = resolve(small_config(tmp_path))
    with joined(resolved.world, CPU) as found, told_environment(found.world):
        fabric = build_fabric(resolved, found.world)
        fabric.launch()
        assert os.environ["LOCAL_WORLD_SIZE"] == "1"
    assert (fabric.world_size, fabric.global_rank, fabric.is_global_zero) == (1, 0, True)
    assert not dist.is_initialized()
    assert dict(os.environ) == before


def test_a_session_has_no_command_to_run_once_more(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    with (
        pytest.raises(ValueError, match=r"run\.devices: got 2 in a session, want 1, or a script"),
        joined(World(2), CPU),
    ):
        pass


@pytest.mark.skipif(
    os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="60 launches, with the nightly tests"
)
def test_sixty_runs_of_two_processes_in_a_row_end_with_status_0(tmp_path: Path) -> None:
    options = "--data.limit=60 --optim.epochs=1 --run.devices=2 --run.report=false --run.tensorboard=false"
    command = [sys.executable, "-m", "dynams.cli", "train", *options.split()]
    command += ["--run.accelerator=cpu", f"--run.dir={tmp_path}"]
    for _ in range(60):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "terminate called" not in done.stderr


def _meets_and_waits(port: int, starter: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    here = Launched("dynams", 1, 2, 1, 2, "127.0.0.1", port, starter)
    with Interrupt(nothing_to_save=True) as stop, joined(World(2, 1, here), CPU, stop=stop):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_one_that_is_told_to_end_while_it_waits_for_another_to_come_ends():
    """Of the two that met, the first was told first, and makes no process group any more."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    second = get_context("fork").Process(target=_meets_and_waits, args=(store.port, os.getpid()))
    second.start()
    try:
        name = agreed_name(store, 0, 2, timedelta(seconds=60))
        # gloo says where it is, then waits for the first one to say so.
        place = f"dynams/{name}/0//cpu//0/1"
        end = time.monotonic() + 60
        while not any(
            store.check([each]) for each in (place, place.replace("/0//", "/default_pg/0//"))
        ):
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(second.pid, signal.SIGTERM)
        second.join(60)
        assert second.exitcode == 130
    finally:
        second.kill()
        second.join()
