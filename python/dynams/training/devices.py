"""Where a run computes: the one resolver of device names, and the processes that share the work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from dynams.training.launched import Launched, launched


def resolve_device(
    name: str, setting: str = "run.accelerator", *, mps: bool = True
) -> torch.device:
    """Turn the name of a device into one that is there.

    Args:
        name: auto (a GPU if there is one, else the CPU), cpu, mps, cuda, or a numbered one such as cuda:1.
        setting: who asks, for the message.
        mps: whether auto may give mps.

    Returns:
        The device, without a number unless ``name`` has one.

    Raises:
        ValueError: it is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    metal = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if gpus else "mps" if metal and mps else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        found = f"{gpus} GPUs" if gpus else "no usable GPU"
        raise ValueError(f"{setting}: got {name}, want a device that is there; torch finds {found}")
    if device.type == "mps" and not metal:
        raise ValueError(
            f"{setting}: got mps, want a device that is there; torch finds no such one"
        )
    return device


@dataclass(frozen=True)
class World:
    """The processes of a run, one for each device.

    Attributes:
        local: on each machine.
        machines: machines.
        here: which of them this is; None: the only one, or the first, which is to start the others.
    """

    local: int
    machines: int = 1
    here: Launched | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.local * self.machines


def resolve_world(
    devices: int, device: torch.device, environ: Mapping[str, str] = os.environ
) -> World:
    """Tell which processes a run has: as many as ``devices``, or as were started for it.

    Args:
        devices: run.devices. Under torchrun 1, the default, takes what was started.
        device: what they compute on.
        environ: the environment, by which a process knows who started it.

    Raises:
        ValueError: another number was started, or this machine has fewer GPUs.
    """
    here = launched(environ) or _of_a_group()
    world = World(devices) if here is None else _started_world(devices, here)
    if here is None and devices > 1:
        _check_unclaimed(devices, environ)
    if device.type == "cuda" and world.local > torch.cuda.device_count():
        raise ValueError(
            f"run.devices: got {world.local} on this machine, want at most "
            f"{torch.cuda.device_count()}, the GPUs that torch finds"
        )
    return world


def _of_a_group() -> Launched | None:
    """The process group that the caller made, if it did."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None
    rank, size = dist.get_rank(), dist.get_world_size()
    return Launched("the process group", rank, size, rank, size, "", 0)


def _started_world(devices: int, here: Launched) -> World:
    if devices != here.size and not (devices == 1 and here.by == "torchrun"):
        way_out = {
            "torchrun": "",
            "srun": "; where each task is a run of its own: env -u SLURM_STEP_NUM_TASKS dynams train ...",
        }.get(here.by, "")
        has = "has" if here.by == "the process group" else "started"
        raise ValueError(
            f"run.devices: got {devices}, want {here.size}, as many processes as {here.by} {has}{way_out}"
        )
    if here.size % here.local_size:
        raise ValueError(
            f"{here.by}: got {here.local_size} of {here.size} processes on this machine, want as many on each"
        )
    return World(here.local_size, here.size // here.local_size, here)


def _check_unclaimed(devices: int, environ: Mapping[str, str]) -> None:
    """Refuse to start processes where this seems to be one of several already, by whoever started them."""
    rank, size = environ.get("RANK"), environ.get("WORLD_SIZE")
    if rank and size not in (None, "", "1") and "MASTER_ADDR" in environ:
        raise ValueError(
            f"run.devices: got {devices} where RANK={rank} and WORLD_SIZE={size} name one of several processes, want "
            "torchrun to start them; if they are left over: env -u RANK dynams train ..."
        )
