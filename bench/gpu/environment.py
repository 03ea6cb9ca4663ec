"""Prints the facts of this machine that a GPU report needs, as JSON. Exit code 2 and one line where there is no usable GPU."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NVIDIA_SMI = (
    "driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,"
    "temperature.gpu,persistence_mode,mig.mode.current"
)


def output(*command: str) -> str | None:
    """What a command prints; None where it is missing or fails."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()


def version(distribution: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> dict[str, Any]:
    """The commit of the source tree; DYNAMS_COMMIT names it where the tree came without its history, or with another's."""
    named = os.environ.get("DYNAMS_COMMIT")
    if named:
        return {"id": named, "dirty": None}
    found = output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    dirty = output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return {"id": found or "unknown", "dirty": bool(dirty) if found else None}


def gpu(torch: Any) -> dict[str, Any]:
    """The first GPU, as torch and the driver's tool see it."""
    properties = torch.cuda.get_device_properties(0)
    facts: dict[str, Any] = {
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
    }
    told = output("nvidia-smi", f"--query-gpu={NVIDIA_SMI}", "--format=csv,noheader", "--id=0")
    if told is not None:
        facts.update(zip(NVIDIA_SMI.split(","), map(str.strip, told.split(",")), strict=False))
    return facts


def nvcc() -> str | None:
    """The release line of the CUDA compiler."""
    path = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    told = output(path, "--version") or ""
    return next((line.strip() for line in told.splitlines() if "release" in line), None)


def main() -> int:
    try:
        import torch
    except ImportError as error:
        print(f"gpu.sh: {sys.executable} has no torch: {error}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        print(
            f"gpu.sh: no usable GPU: torch {torch.__version__} ({built}) sees none", file=sys.stderr
        )
        return 2
    facts = {
        "gpu": gpu(torch),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nvcc": nvcc(),
        "python_version": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": {"brand_raw": processor(), "count": os.cpu_count()},
        "packages": {
            name: version(name)
            for name in ("triton", "numpy", "pytest", "pytest-benchmark", "pytest-xdist")
        },
        "commit": commit(),
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    print(json.dumps(facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
