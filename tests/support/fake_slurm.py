"""A Slurm of one or two machines, as far as a batch script and `srun` see it: for tests, where there is none.

`FakeSlurm.batch` runs a script as sbatch would: with the variables that its #SBATCH lines lead to, and `srun` and `scontrol`
first on its path. This file is both. srun starts the tasks of a step, block by block on the nodes, each with the
variables that it finds itself by; signals to a step go to its tasks, as those of `#SBATCH --signal` and `scancel` do. What
`scontrol` was called with is in `FakeSlurm.calls`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

# Set for the script: nodes (name to prefix of a command there), and where notes are left.
_PLACE = "FAKE_SLURM"


class FakeSlurm:
    """Runs batch scripts.

    Args:
        folder: where its commands and its notes are; empty.
        nodes: names of the nodes, each with what stands before a command to run it there.
    """

    def __init__(self, folder: Path, nodes: dict[str, list[str]]) -> None:
        self._folder = folder
        self._nodes = nodes
        self._job = 4711
        for name in ("srun", "scontrol"):
            command = folder / name
            command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
            command.chmod(0o755)

    def batch(self, script: Path, environ: dict[str, str], folder: Path) -> subprocess.Popen[str]:
        """Start a batch script in ``folder`` on the first node; its output is piped."""
        asked = _asked_for(script.read_text())
        nodes = dict(list(self._nodes.items())[: asked.nodes])
        return subprocess.Popen(
            [*next(iter(nodes.values())), "bash", str(script)],
            env={
                **environ,
                "PATH": f"{self._folder}{os.pathsep}{environ['PATH']}",
                "SLURM_JOB_ID": f"{self._job}",
                "SLURM_JOB_NUM_NODES": f"{len(nodes)}",
                "SLURM_JOB_NODELIST": _list(nodes),
                "SLURM_NTASKS": f"{asked.ntasks_per_node * len(nodes)}",
                "SLURM_NTASKS_PER_NODE": f"{asked.ntasks_per_node}",
                _PLACE: json.dumps({"nodes": nodes, "folder": str(self._folder)}),
            },
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the tasks of the step that runs; waits until there is one."""
        note = self._folder / "tasks"
        while not note.exists():
            time.sleep(0.05)
        for task in json.loads(note.read_text()):
            os.kill(task, number)

    @property
    def calls(self) -> list[str]:
        """Arguments of each call of scontrol."""
        note = self._folder / "scontrol calls"
        return note.read_text().splitlines() if note.exists() else []


def _asked_for(script: str) -> argparse.Namespace:
    """What the #SBATCH lines ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--ntasks-per-node", type=int, default=1)
    lines = [line.split()[1:] for line in script.splitlines() if line.startswith("#SBATCH ")]
    return parser.parse_known_args([word for line in lines for word in line])[0]


def _list(nodes: Iterable[str]) -> str:
    """As Slurm writes the names of nodes that end in numbers: `node[1-2]`."""
    numbers = [name.lstrip("abcdefghijklmnopqrstuvwxyz") for name in nodes]
    stem = next(iter(nodes)).removesuffix(numbers[0])
    return stem + (numbers[0] if len(numbers) == 1 else f"[{numbers[0]}-{numbers[-1]}]")


def srun(arguments: list[str]) -> int:
    """Run a command once for each task; the status is the largest."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=int(os.environ["SLURM_JOB_NUM_NODES"]))
    parser.add_argument("--ntasks", type=int)
    parser.add_argument(
        "--ntasks-per-node", type=int, default=int(os.environ["SLURM_NTASKS_PER_NODE"])
    )
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args(arguments)
    place = json.loads(os.environ[_PLACE])
    nodes = dict(list(place["nodes"].items())[: asked.nodes])
    each = asked.ntasks_per_node if asked.ntasks is None else asked.ntasks // len(nodes)
    step = {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": f"{each * len(nodes)}",
        "SLURM_STEP_NODELIST": _list(nodes),
        "SLURM_STEP_TASKS_PER_NODE": f"{each}" + (f"(x{len(nodes)})" if len(nodes) > 1 else ""),
    }
    tasks = []
    for number, prefix in enumerate(nodes.values()):
        for local in range(each):
            mine = {"SLURM_PROCID": f"{number * each + local}", "SLURM_LOCALID": f"{local}"}
            environ = {**os.environ, **step, **mine, "SLURM_NODEID": f"{number}"}
            tasks.append(subprocess.Popen([*prefix, *asked.command], env=environ))
    note = Path(place["folder"]) / "tasks"
    note.with_suffix(".new").write_text(json.dumps([task.pid for task in tasks]))
    note.with_suffix(".new").rename(note)
    status = max(abs(task.wait()) for task in tasks)
    note.unlink()
    return status


def scontrol(arguments: list[str]) -> int:
    """Tell the names of nodes, or note the call."""
    if arguments[:2] == ["show", "hostnames"]:
        print("\n".join(json.loads(os.environ[_PLACE])["nodes"]))
        return 0
    folder = Path(json.loads(os.environ[_PLACE])["folder"])
    with (folder / "scontrol calls").open("a") as calls:
        calls.write(shlex.join(arguments) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
