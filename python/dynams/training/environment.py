"""What a run ran on: versions, processor and accelerator, as plain values for its log."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import dynams
import dynams_kernels as dk

_PACKAGES = ("lightning-fabric", "numpy", "triton")


def package_version(name: str) -> str | None:
    """Version of an installed distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def environment(device: torch.device | None = None, processes: int = 1) -> dict[str, Any]:
    """Versions and hardware.

    Args:
        device: the device of the run; None leaves it out.
        processes: processes of the run.
    """
    found: dict[str, Any] = {
        "dynams": dynams.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    found.update({name: package_version(name) for name in _PACKAGES})
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["cpu"] = processor_name()
    found["cpu_instructions"] = torch.backends.cpu.get_cpu_capability()
    found["cores"] = usable_cores()
    found["threads"] = torch.get_num_threads()
    found["kernels"] = dk.backends()["serves"]
    if device is not None:
        found["device"] = device_name(device)
        found["processes"] = processes
    return found


def device_name(device: torch.device) -> str:
    """Name the device in words."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return device.type


def processor_name() -> str:
    """Find the CPU's name, or its architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
