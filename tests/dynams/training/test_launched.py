"""Which of a run's processes this is: said by whoever started it, by nothing else in the environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dynams.training.launched import OWN, Launched, launched, own_mark, rank_here

SLURM = {"SLURM_JOB_ID": "70123", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
# What stands around where a process of its own is started.
ELSEWHERE = {
    "a batch script": {**SLURM, "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "2"},
    "srun of one task": {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"},
    "LSF": {
        "LSB_JOBID": "5",
        "LSB_DJOB_RANKFILE": "/tmp/ranks",
        "JSM_NAMESPACE_SIZE": "2",
        "JSM_NAMESPACE_RANK": "1",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
    },
    "MPI": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1"},
    "Kubeflow": {"MASTER_ADDR": "job-0", "MASTER_PORT": "23456", "WORLD_SIZE": "2", "RANK": "1"},
    "a notebook": {"LOCAL_RANK": "1", "NODE_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "2"},
    "half of torchrun": {"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1"},
    "garbage": {OWN: "1", "TORCHELASTIC_RUN_ID": "none", "RANK": "first", "WORLD_SIZE": ""},
}


@pytest.mark.parametrize("environ", ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_an_environment_says_of_others_is_not_about_this_process(environ):
    assert launched(environ) is None
    assert rank_here(environ) == 0


def test_torchrun_says_which_it_is():
    environ = {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "node7",
        "MASTER_PORT": "29500",
        **SLURM,  # srun starts one torchrun on each machine
        "SLURM_STEP_NUM_TASKS": "2",
    }
    assert launched(environ) == Launched("torchrun", 5, 8, 1, 4, "node7", 29500)
    assert rank_here(environ) == 5


@pytest.mark.parametrize(
    ("nodes", "tasks", "first", "here"),
    [
        ("node7", "6", "node7", 6),
        ("node[07-09,12],login", "2(x3)", "node07", 2),
        ("rack1-node[3]", "3(x2)", "rack1-node3", 3),
        ("a,b", "4,2", "a", 4),
    ],
)
def test_srun_of_several_tasks_says_which_it_is(nodes, tasks, first, here):
    environ = {
        **SLURM,
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
    }
    found = launched(environ)
    assert found == Launched("srun", 1, 6, 1, here, first, 20123)
    other = launched({**environ, "SLURM_STEP_ID": "1"})
    assert other is not None
    assert other.port not in (found.port, 0)
    told = launched({**environ, "MASTER_ADDR": "head", "MASTER_PORT": "4242"})
    assert told is not None
    assert (told.address, told.port) == ("head", 4242)


def test_a_process_that_a_run_started_knows_it_and_what_it_starts_does_not():
    code = (
        "import subprocess, sys\n"
        "from dynams.training.launched import launched\n"
        "print(launched(), flush=True)\n"
        "if len(sys.argv) > 1: subprocess.run([sys.executable, '-c', sys.argv[1]])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **own_mark(1, 2, 4242)},
        capture_output=True,
        text=True,
        check=True,
    )
    mine = Launched("dynams", 1, 2, 1, 2, "127.0.0.1", 4242, os.getpid())
    assert done.stdout.splitlines() == [str(mine), "None"]
    # One whose starter is gone is still of that run, and ends with it.
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = launched({OWN: f"1 2 127.0.0.1 4242 {ended.pid}"})
    assert left is not None
    assert left.rank == 1
