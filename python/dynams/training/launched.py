"""Which of a run's processes this is, as those say that start processes. Nothing here imports torch.

There are three: a run of several devices, which starts the others itself (`dynams.training.processes`), torchrun,
and srun. Whatever else an environment holds of clusters, ranks and sizes (of the allocation that a shell lives
in, of a notebook, of a program before) is not about this process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# Set in processes that a run started, for them alone: rank, processes, address, port, process that started it.
OWN = "DYNAMS_PROCESS"
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")


@dataclass(frozen=True)
class Launched:
    """A process among others of one run.

    Attributes:
        by: what started it.
        rank: which it is, from 0.
        size: processes in all.
        local_rank: which it is on this machine.
        local_size: processes on this machine.
        address: where the first process, or torchrun, is found.
        port: its port there.
        starter: number of the process that started it, if a run did; else 0.
    """

    by: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int
    starter: int = 0


def launched(environ: Mapping[str, str] = os.environ) -> Launched | None:
    """Tell who started this process as one of several; None: nobody did, it stands alone.

    Args:
        environ: the environment.
    """
    return _of_a_run(environ) or _of_torchrun(environ) or _of_srun(environ)


def rank_here(environ: Mapping[str, str] = os.environ) -> int:
    """Tell which of a run's processes this is: 0 is the first, the one that speaks."""
    here = launched(environ)
    return 0 if here is None else here.rank


def own_mark(rank: int, size: int, port: int) -> dict[str, str]:
    """Environment of a process that this one starts on this machine."""
    return {OWN: f"{rank} {size} 127.0.0.1 {port} {os.getpid()}"}


def _of_a_run(environ: Mapping[str, str]) -> Launched | None:
    parts = environ.get(OWN, "").split()
    if len(parts) != 5:
        return None
    rank, size, port, starter = (int(parts[place]) for place in (0, 1, 3, 4))
    # What such a process starts inherits its environment, but has another parent.
    if os.name == "posix" and os.getppid() != starter and _alive(starter):
        return None
    return Launched("dynams", rank, size, rank, size, parts[2], port, starter)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _of_torchrun(environ: Mapping[str, str]) -> Launched | None:
    numbers = [environ.get(name, "") for name in _TORCHRUN]
    if "TORCHELASTIC_RUN_ID" not in environ or not all(map(str.isdecimal, numbers)):
        return None
    rank, size, local_rank, local_size, port = map(int, numbers)
    address = environ.get("MASTER_ADDR", "127.0.0.1")
    return Launched("torchrun", rank, size, local_rank, local_size, address, port)


def _of_srun(environ: Mapping[str, str]) -> Launched | None:
    # Of the step, that is of one srun; SLURM_NTASKS is of the allocation, also where its script calls no srun.
    numbers = [
        environ.get(name, "")
        for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID")
    ]
    if not all(map(str.isdecimal, numbers)) or int(numbers[0]) < 2:
        return None
    size, rank, local_rank, job = map(int, numbers)
    step = environ.get("SLURM_STEP_ID", "0")
    # All processes must come to the same port, and steps of one job to others.
    port = 10000 + (job + 1009 * (int(step) if step.isdecimal() else 0)) % 20000
    wanted = environ.get("MASTER_PORT", "")
    return Launched(
        "srun",
        rank,
        size,
        local_rank,
        _tasks_here(environ.get("SLURM_STEP_TASKS_PER_NODE", str(size))),
        environ.get("MASTER_ADDR") or _first_host(environ.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        int(wanted) if wanted.isdecimal() else port,
    )


def _tasks_here(told: str) -> int:
    """Tasks on each machine, of `2(x3)`, or `3,2`: the most of any, which tells uneven ones apart."""
    return max(int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", told))


def _first_host(nodes: str) -> str:
    """First of a list such as `node[07-09,12],login`."""
    found = re.match(r"([^,\[]*)(?:\[([^,\-\]]*)[^\]]*\])?", nodes)
    assert found is not None
    return found[1] + (found[2] or "")
