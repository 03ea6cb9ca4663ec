"""Processes that run the GPU benchmarks on the CPU in the GPU's place (see cpu_for_gpu.py), and the ledger they write to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu import ledger, results

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BENCH = ROOT / "bench"


def environment(**more: str) -> dict[str, str]:
    paths = [str(HERE), str(BENCH), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A process that takes itself for one of several tests' workers does not time benchmarks.
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")
    }
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def run_benchmarks(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    more |= {ledger.FILE: str(folder / results.LEDGER), ledger.SUITE: "benchmarks"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    plugins = ["-p", "gpu.outcomes", "-p", "gpu.device_guard", "-p", "cpu_for_gpu"]
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    return subprocess.run(
        [*command, *plugins, *options, *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


FACTS: dict[str, Any] = {
    "gpu": {"name": "none"},
    "torch": "0",
    "python_version": "3",
    "commit": {"id": "0" * 40},
    "datetime": "2026-12-01",
}


def new_ledger(folder: Path, *lines: dict[str, Any]) -> None:
    for line in ({"environment": FACTS, "plan": "full"}, *lines):
        ledger.append(folder / results.LEDGER, line)
