"""How much memory decoded images may take, on the host and on the training device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

# What control groups of both versions call a limit, what is used, and cached file pages, which count as used
# but are given up on demand.
_FILES = {
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    2: (("memory.max", "memory.high"), "memory.current", "inactive_file"),
}
# Where their hierarchies are mounted; the last, where version 2 is beside version 1.
_MOUNTED = {1: ("sys/fs/cgroup/memory",), 2: ("sys/fs/cgroup", "sys/fs/cgroup/unified")}
# Limits on a process (ulimit -v, -d), and what it takes of them.
_LIMITS = {"Max address space": "VmSize:", "Max data size": "VmData:"}


@dataclass(frozen=True)
class HostMemory:
    """The host's memory, as its system tells it in files.

    Attributes:
        root: of the file system that they are in.
        processes: of this run on this host, each of which keeps its own images; None: as the environment says.
    """

    root: Path = Path("/")
    processes: int | None = None

    def free(self) -> int | None:
        """Ask how many bytes this process may take; None: unknown.

        What is available now, also to the control groups that the process is in, shared among the processes of
        this run, and within the limits on each process.
        """
        shared = [
            amount for amount in (self._system(), *self._control_groups()) if amount is not None
        ]
        processes = _processes_here() if self.processes is None else self.processes
        own = list(self._process_limits())
        known = [min(shared) // processes, *own] if shared else own
        return max(0, min(known)) if known else None

    def _system(self) -> int | None:
        available = self._sizes("proc/meminfo").get("MemAvailable:")
        if available is not None or self.root != Path("/"):
            return available
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None

    def _control_groups(self) -> Iterator[int | None]:
        """Tell what is left to the process' own groups and to all above them."""
        own = {1: PurePosixPath("/"), 2: PurePosixPath("/")}
        for line in self._lines("proc/self/cgroup"):
            _, controllers, group = (*line.split(":", 2), "", "")[:3]
            if not controllers:
                own[2] = PurePosixPath(group)
            elif "memory" in controllers.split(","):
                own[1] = PurePosixPath(group)
        for version, inner in own.items():
            # Seen from within a container, a group may bear the host's name and not be there: its root is.
            for part in (inner, *inner.parents):
                for mounted in _MOUNTED[version]:
                    yield self._left(PurePosixPath(mounted) / str(part).strip("/"), version)

    def _left(self, group: PurePosixPath, version: int) -> int | None:
        limits, used, reclaimed = _FILES[version]
        known = [
            line for name in limits for line in self._lines(str(group / name)) if line.isdigit()
        ]
        taken = self._lines(str(group / used))
        if not known or not taken or not taken[0].isdigit():
            return None
        entries = dict(
            line.split() for line in self._lines(str(group / "memory.stat")) if line.count(" ") == 1
        )
        return min(map(int, known)) - int(taken[0]) + int(entries.get(reclaimed, 0))

    def _process_limits(self) -> Iterator[int]:
        taken = self._sizes("proc/self/status")
        for line in self._lines("proc/self/limits"):
            for name, used in _LIMITS.items():
                soft = line.removeprefix(name).split()[:1]
                if line.startswith(name) and soft and soft[0].isdigit():
                    yield int(soft[0]) - taken.get(used, 0)

    def _sizes(self, file: str) -> dict[str, int]:
        """Read lines such as "VmData: 12 kB"."""
        words = [line.split() for line in self._lines(file)]
        return {
            line[0]: int(line[1]) * 1024
            for line in words
            if len(line) == 3 and line[1].isdigit() and line[2] == "kB"
        }

    def _lines(self, file: str) -> list[str]:
        try:
            return (self.root / file).read_text(errors="replace").splitlines()
        except OSError:
            return []


def told(size: int) -> str:
    """Write a number of bytes as messages do."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if size >= 2**power:
            return f"{size / 2**power:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"


def free_on_device(device: torch.device) -> int | None:
    """Ask how many bytes are free on a CUDA device; None: unknown."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free)


def _processes_here() -> int:
    """Count the processes of a distributed run here, each of which keeps its own images."""
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return 1
