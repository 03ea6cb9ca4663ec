"""Where a run computes: the one resolver of device names, and the processes that share the work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch


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
    """

    local: int
    machines: int = 1

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.local * self.machines


def resolve_world(
    devices: int, device: torch.device, environ: Mapping[str, str] = os.environ
) -> World:
    """Tell which processes a run has: as many as ``devices``, or as torchrun started.

    Args:
        devices: run.devices. Under torchrun 1, the default, takes what was started.
        device: what they compute on.
        environ: the environment, by which torchrun tells what it started.

    Raises:
        ValueError: torchrun started another number, or this machine has fewer GPUs.
    """
    world = World(devices)
    if "TORCHELASTIC_RUN_ID" in environ:
        size, local = int(environ["WORLD_SIZE"]), int(environ["LOCAL_WORLD_SIZE"])
        if devices not in (1, size):
            raise ValueError(
                f"run.devices: got {devices}, want {size}, as many processes as torchrun started"
            )
        if size % local:
            raise ValueError(
                f"torchrun: got {local} of {size} processes on this machine, want as many on each"
            )
        world = World(local, size // local)
    if device.type == "cuda" and world.local > torch.cuda.device_count():
        raise ValueError(
            f"run.devices: got {world.local} on this machine, want at most "
            f"{torch.cuda.device_count()}, the GPUs that torch finds"
        )
    return world
