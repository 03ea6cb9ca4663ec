"""Two hosts on this machine: network, mount and UTS namespaces, joined by a cable (a veth pair).

Each has a name (node1, node2), an address (10.77.0.1, 10.77.0.2), a loopback of its own and a hosts file that knows both;
files, processors and memory are shared, as on a cluster with a file system for all nodes. What is started in one reaches
the other by that cable only. Nothing is left when the processes that hold them end.

    python tests/support/two_hosts.py COMMAND    # on both at once; the status is the larger one
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("node1", "node2")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_TOOLS = ("unshare", "nsenter", "ip", "mount", "hostname")
_INTERFACE = "eth0"


class TwoHosts:
    """The two hosts, for as long as the block lasts.

    Args:
        hosts_files: the hosts file of each; unset, both know both names by their addresses.

    Raises:
        OSError: this machine allows no namespaces, or lacks the tools.
    """

    def __init__(self, hosts_files: tuple[str, str] | None = None) -> None:
        known = "127.0.0.1 localhost\n" + "".join(
            f"{address} {name}\n" for name, address in zip(NAMES, ADDRESSES, strict=True)
        )
        self._hosts_files = hosts_files or (known, known)
        self._holders: list[subprocess.Popen[str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> TwoHosts:
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            raise OSError(f"two hosts: got no {', '.join(missing)}, want util-linux and iproute2")
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.callback(self._end)
            for name, text in zip(NAMES, self._hosts_files, strict=True):
                hosts = folder / name
                hosts.write_text(text)
                self._holders.append(_holder(name, hosts))
            # Made inside the first, so that this machine's own network never sees it.
            cable = ["ip", "link", "add", _INTERFACE, "type", "veth", "peer", "name", _INTERFACE]
            self._do(0, [*cable, "netns", str(self._holders[1].pid)])
            for host, address in enumerate(ADDRESSES):
                self._do(host, ["ip", "address", "add", f"{address}/24", "dev", _INTERFACE])
                self._do(host, ["ip", "link", "set", "lo", "up"])
                self._do(host, ["ip", "link", "set", _INTERFACE, "up"])
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self, host: int, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command on a host, 0 or 1; ``options`` are those of `subprocess.Popen`."""
        return subprocess.Popen([*self.prefix(host), *command], text=True, **options)

    def prefix(self, host: int) -> list[str]:
        """What stands before a command that is to run on a host; it becomes that command, with the same process number."""
        return [
            "nsenter",
            "--net",
            "--uts",
            "--mount",
            f"--target={self._holders[host].pid}",
            "--wd=.",
        ]

    def cut(self) -> None:
        """Pull the cable: packets are lost from here on, without a word to either side."""
        self._do(0, ["ip", "link", "set", _INTERFACE, "down"])

    def _do(self, host: int, command: list[str]) -> None:
        done = subprocess.run(
            [*self.prefix(host), *command], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise OSError(f"two hosts: {shlex.join(command)}: {done.stderr.strip()}")

    def _end(self) -> None:
        for holder in self._holders:
            holder.kill()
            holder.wait()
            for stream in (holder.stdin, holder.stdout, holder.stderr):
                if stream is not None:
                    stream.close()
        self._holders.clear()


def _holder(name: str, hosts: Path) -> subprocess.Popen[str]:
    """A process that keeps a host's namespaces open until its input ends."""
    setup = f"hostname {name} && mount --bind {shlex.quote(str(hosts))} /etc/hosts && echo ready && exec cat"
    pipe = subprocess.PIPE
    holder = subprocess.Popen(
        ["unshare", "--net", "--uts", "--mount", "sh", "-c", setup],
        stdin=pipe, stdout=pipe, stderr=pipe, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stderr is not None
    if holder.stdout.readline() != "ready\n":
        holder.kill()
        told = holder.communicate()[1].strip()
        raise OSError(f"two hosts: {told or 'no namespaces here'}")
    return holder


def main() -> int:
    """Run the command line on both hosts."""
    with TwoHosts() as hosts:
        processes = [hosts.start(host, sys.argv[1:]) for host in (0, 1)]
        return max(process.wait() for process in processes)


if __name__ == "__main__":
    sys.exit(main())
