"""Which device a name stands for, and which processes a run has."""

from __future__ import annotations

import os

import pytest
import torch
from training_runs import small_config

from dynams.training.devices import World, resolve_device, resolve_world
from dynams.training.launched import OWN
from dynams.training.resolve import resolve

CPU = torch.device("cpu")


def launched(size: int, local: int) -> dict[str, str]:
    """What torchrun leaves in the environment."""
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(local),
        "LOCAL_RANK": "0",
    }


def srun(tasks: int, here: str) -> dict[str, str]:
    """What srun leaves in the environment."""
    return {
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_TASKS_PER_NODE": here,
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }


def test_a_device_is_the_one_named_or_the_best_there_is():
    assert resolve_device("cpu") == CPU
    best = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto", mps=False).type == best


@pytest.mark.parametrize("name", ["cuda:99", "mps"])
def test_a_device_that_is_not_there_is_refused_by_the_setting_that_asks(name):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("has one")
    with pytest.raises(ValueError, match=rf"^device: got {name}, want a device that is there"):
        resolve_device(name, "device")


@pytest.mark.parametrize(
    ("devices", "environ", "world"),
    [
        (3, {}, World(3)),
        # Left over: of a notebook, of an allocation.
        (2, {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, World(2)),
        (1, {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "SLURM_NTASKS": "2"}, World(1)),
        (2, {OWN: f"1 2 127.0.0.1 4242 {os.getppid()}"}, World(2)),
        (4, srun(4, "2(x2)"), World(2, 2)),
        (1, launched(1, 1), World(1)),
        (1, launched(2, 2), World(2)),
        (2, launched(2, 2), World(2)),
        (8, launched(8, 4), World(4, 2)),
    ],
)
def test_processes_are_as_many_as_asked_for_or_as_torchrun_started(devices, environ, world):
    assert resolve_world(devices, CPU, environ) == world


def test_another_number_of_devices_than_torchrun_started_is_refused():
    with pytest.raises(ValueError, match=r"run\.devices: got 3, want 2, as many processes as"):
        resolve_world(3, CPU, launched(2, 2))
    with pytest.raises(ValueError, match=r"torchrun: got 2 of 3 processes on this machine"):
        resolve_world(1, CPU, launched(3, 2))
    with pytest.raises(ValueError, match=r"srun: got 3 of 4 processes on this machine"):
        resolve_world(4, CPU, srun(4, "3,1"))
    # A shell loop of single runs would be as likely: nothing is taken for granted.
    with pytest.raises(
        ValueError, match=r"run\.devices: got 1, want 4, .* srun started; .*env -u SLURM_STEP"
    ):
        resolve_world(1, CPU, srun(4, "4"))


def test_processes_that_others_started_by_hand_start_no_more():
    environ = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node7"}
    with pytest.raises(ValueError, match=r"run\.devices: got 2 where RANK=1 .* want torchrun"):
        resolve_world(2, CPU, environ)


def test_what_torchrun_started_is_what_the_run_has_and_is_checked_by(tmp_path, monkeypatch):
    for name, value in launched(2, 2).items():
        monkeypatch.setenv(name, value)
    resolved = resolve(small_config(tmp_path))
    assert resolved.config.run.devices == resolved.world.size == 2
    with pytest.raises(ValueError, match=r"optim\.batch_size: got 3, want at least 4"):
        resolve(small_config(tmp_path, optim={"batch_size": 3}))
