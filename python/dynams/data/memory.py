"""How much memory decoded images may take, on the host and on the training device."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_on_host() -> int | None:
    """Ask how many bytes of host memory this process may take; None: unknown.

    What is available now, also to the control group (a container's limit), shared among the
    processes started on this host.
    """
    known = [amount for amount in (_system(), _control_group()) if amount is not None]
    if not known:
        return None
    return min(known) // _processes_here()


def free_on_device(device: torch.device) -> int | None:
    """Ask how many bytes are free on a CUDA device; None: unknown."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def _system() -> int | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _control_group() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((_CGROUP / "memory.current").read_text())
        entries = dict(
            line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines() if line
        )
        # Cached file pages count as used but are given up on demand.
        return max(0, int(limit) - used + int(entries.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def _processes_here() -> int:
    """Count the processes of a distributed run here, each of which keeps its own images."""
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return 1
