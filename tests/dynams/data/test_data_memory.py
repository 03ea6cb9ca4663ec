"""What the host tells of its memory, read from files written here as systems write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynams.data.memory import HostMemory

GIB = 1 << 30
NO_LIMIT = 9223372036854771712  # What version 1 tells where there is no limit.


class Host:
    """A root directory with the files that a system tells its memory in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(
            "proc/meminfo", f"MemTotal: {99 * GIB // 1024} kB\nMemAvailable: {64 * GIB // 1024} kB"
        )

    def write(self, file: str, text: object) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def group(self, version: int, path: str, limit: object, used: int = 0, cached: int = 0) -> None:
        if version == 1:
            folder = f"sys/fs/cgroup/memory{path}"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            folder = f"sys/fs/cgroup{path}"
            names = ("memory.max", "memory.current", "inactive_file")
        self.write(f"{folder}/{names[0]}", limit)
        self.write(f"{folder}/{names[1]}", used)
        self.write(f"{folder}/memory.stat", f"anon 5\n{names[2]} {cached}")

    def free(self, processes: int = 1) -> int | None:
        return HostMemory(self.root, processes).free()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_without_limits_what_is_available_is_shared(host: Host) -> None:
    assert host.free() == 64 * GIB
    assert host.free(processes=8) == 8 * GIB


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("where", ["own", "parent", "root", "outside"])
def test_the_own_control_group_and_those_above_it_count(
    host: Host, version: int, where: str
) -> None:
    line = {1: "7:cpu,memory:{}", 2: "0::{}"}[version]
    own = "/user.slice/job_3/step"
    host.write("proc/self/cgroup", "3:pids:/elsewhere\n" + line.format(own))
    for path in ("", "/user.slice", "/user.slice/job_3", own):
        host.group(version, path, NO_LIMIT if version == 1 else "max", 7 * GIB)
    host.group(version, "/other", GIB, 0)
    limited = {"own": own, "parent": "/user.slice/job_3", "root": "", "outside": "/other"}[where]
    host.group(version, limited, 10 * GIB, 7 * GIB, 2 * GIB)
    assert host.free() == (64 * GIB if where == "outside" else 5 * GIB)
    assert host.free(processes=2) == (32 * GIB if where == "outside" else 5 * GIB // 2)


def test_of_several_limits_the_least_counts(host: Host) -> None:
    host.write("proc/self/cgroup", "4:memory:/a\n0::/b")
    host.group(1, "/a", 20 * GIB, 1 * GIB)
    assert host.free() == 19 * GIB
    # Version 2 beside version 1 is mounted one folder deeper.
    host.group(2, "/unified/b", 9 * GIB, 1 * GIB)
    assert host.free() == 8 * GIB
    host.write("sys/fs/cgroup/unified/b/memory.high", 4 * GIB)
    assert host.free() == 3 * GIB
    host.group(2, "/unified/b", "max", 1 * GIB)
    host.write("sys/fs/cgroup/unified/b/memory.current", 5 * GIB)
    assert host.free() == 0


def test_a_container_that_names_the_hosts_group_has_its_root(host: Host) -> None:
    host.write("proc/self/cgroup", "0::/kubepods/pod7/container")
    host.group(2, "", 6 * GIB, GIB)
    assert host.free() == 5 * GIB


@pytest.mark.parametrize(("limit", "used"), [("address space", "VmSize"), ("data size", "VmData")])
def test_limits_on_a_process_are_its_own(host: Host, limit: str, used: str) -> None:
    host.write("proc/self/status", f"Name: python\n{used}:\t  {GIB // 1024} kB")
    line = "Max {:<22} {:<20} {:<20} bytes"
    host.write("proc/self/limits", line.format(limit, "unlimited", "unlimited"))
    assert host.free() == 64 * GIB
    host.write("proc/self/limits", line.format(limit, 3 * GIB, "unlimited"))
    assert host.free() == 2 * GIB
    assert host.free(processes=4) == 2 * GIB
    assert host.free(processes=64) == GIB


@pytest.mark.parametrize("text", ["", "nonsense", "MemAvailable:", "MemAvailable: many kB"])
def test_a_system_that_does_not_tell_is_unknown(host: Host, text: str) -> None:
    host.write("proc/meminfo", text)
    host.write("proc/self/cgroup", text)
    host.write("proc/self/limits", text)
    host.write("sys/fs/cgroup/memory.max", text)
    assert host.free() is None


def test_this_system_tells_something_sensible() -> None:
    free = HostMemory(processes=1).free()
    if free is None:
        pytest.skip("this system does not tell its memory")
    assert 0 < free < 1 << 50
    assert torch.empty(1 << 20, dtype=torch.uint8).numel() <= free


def test_processes_are_counted_in_the_environment(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert HostMemory(host.root).free() == 64 * GIB
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert HostMemory(host.root).free() == 16 * GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert HostMemory(host.root).free() == 32 * GIB
