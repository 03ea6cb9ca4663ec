"""With the programs that start processes, as they are typed: one that hangs, one that is killed, a job that is pre-empted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import equal

from dynams.training.checkpoint import load_checkpoint
from dynams.training.rundir import checkpoint_path
from faults import KILLED, alive, wait_for
from foreground import heed_interrupts

pytestmark = pytest.mark.skipif(
    os.environ.get("HYPOTHESIS_PROFILE") != "nightly",
    reason="every process imports all anew; with the nightly tests",
)

_RUN = [
    *["-m", "dynams.cli", "train", "--run.dir=runs", "--run.name=run", "--resume=auto"],
    *["--data.limit=120", "--model.base_channels=4", "--selection.warmup_epochs=1"],
    *[
        "--optim.batch_size=32",
        "--optim.epochs=30",
        "--run.accelerator=cpu",
        "--run.progress=false",
    ],
    *["--run.tensorboard=false", "--run.report=false", "--run.save_every_steps=2"],
]
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_interrupts,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def children(number: int) -> list[int]:
    told = Path(f"/proc/{number}/task/{number}/children").read_text()
    return [int(word) for word in told.split()]


def is_trained(folder: Path) -> bool:
    return checkpoint_path(folder / "runs" / "run").exists()


def end_of(folder: Path):
    return load_checkpoint(checkpoint_path(folder / "runs" / "run"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    status, said = finish(start(folder, sys.executable, *_RUN, "--run.devices=2"))
    assert status == 0, said
    return end_of(folder)


@pytest.mark.parametrize("stopped", ["the first", "the second"])
def test_a_process_that_hangs_ends_all_of_a_run_that_started_them_itself(
    stopped, tmp_path, undisturbed
):
    command = [sys.executable, *_RUN, "--run.devices=2"]
    first = start(tmp_path, *command, "--run.timeout=5")
    wait_for(lambda: is_trained(tmp_path))
    (second,) = children(first.pid)
    os.kill(first.pid if stopped == "the first" else second, signal.SIGSTOP)
    status, said = finish(first)
    assert status != 0
    wait_for(lambda: not alive(second))
    rank = 0 if stopped == "the first" else 1
    (line,) = [line for line in said.splitlines() if "has not come on" in line]
    assert line.startswith(f"dynams: error: process {rank} has not come on for 5 s (")
    assert line.endswith("; resume with: dynams train --resume runs/run")
    status, said = finish(start(tmp_path, *command))
    assert status == 0, said
    assert equal(end_of(tmp_path).model, undisturbed.model)


def test_torchrun_restarts_a_run_of_which_a_process_was_killed(tmp_path, undisturbed):
    torchrun = start(tmp_path, *_TORCHRUN, "--max-restarts=2", *_RUN)
    wait_for(lambda: is_trained(tmp_path))
    os.kill(children(torchrun.pid)[1], signal.SIGKILL)
    status, said = finish(torchrun)
    assert status == 0, said
    assert "process 1 is gone; resume with: torchrun" in said
    assert equal(end_of(tmp_path).model, undisturbed.model)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_torchrun_passes_on_that_the_time_is_up(number, tmp_path, undisturbed):
    heeded = ["--signals-to-handle=SIGUSR1"] if number == signal.SIGUSR1 else []
    torchrun = start(tmp_path, *_TORCHRUN, *heeded, *_RUN)
    wait_for(lambda: is_trained(tmp_path))
    torchrun.send_signal(number)
    status, said = finish(torchrun)
    assert status != 0
    assert KILLED not in said
    assert "dynams: stopped; resume with: torchrun --nproc-per-node=2 -m dynams.cli" in said
    assert end_of(tmp_path).epoch < 30
    status, said = finish(start(tmp_path, *_TORCHRUN, *_RUN))
    assert status == 0, said
    assert equal(end_of(tmp_path).model, undisturbed.model)
