"""Checks a folder holding one sdist and the wheel built from it: nothing missing, nothing that does not belong."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

COMPARE_PRESETS = ("ablations-cpu", "cifar10-cpu", "cifar10", "digits")
NEEDED_IN_SDIST = (
    "setup.py",
    "build_backend/dynams_backend.py",
    "build_backend/build_outputs.py",
    "build_backend/build_settings.py",
    "build_backend/cuda_requirements.py",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "csrc/cpu/bindings.cpp",
    "csrc/common/order_key.h",
    "csrc/cuda/hopper/linear_head.cu",
    "dynams_kernels/py.typed",
    "dynams_kernels/_cpu.pyi",
    "python/dynams/py.typed",
    "python/dynams/cli/presets/digits.yaml",
    "tests/support/oracle.py",
    "bench/README.md",
    "docs/index.md",
    *(f"python/dynams/compare/presets/{name}.yaml" for name in COMPARE_PRESETS),
)
NEEDED_IN_WHEEL = (
    "dynams_kernels/__init__.py",
    "dynams_kernels/py.typed",
    "dynams/__init__.py",
    "dynams/py.typed",
    "dynams/cli/presets/digits.yaml",
    *(f"dynams/compare/presets/{name}.yaml" for name in COMPARE_PRESETS),
)


def one(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{folder}: want one {pattern}, got {[path.name for path in found]}")
    return found[0]


def main(folder: Path) -> None:
    with tarfile.open(one(folder, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(one(folder, "*.whl")) as wheel:
        wheel_names = set(wheel.namelist())
    missing = [name for name in NEEDED_IN_SDIST if name not in names]
    missing += [name for name in NEEDED_IN_WHEEL if name not in wheel_names]
    if not any(
        name.startswith("dynams_kernels/_cpu.") and name.endswith(".so") for name in wheel_names
    ):
        missing.append("dynams_kernels/_cpu.*.so")
    stray = [name for name in names if name.endswith((".so", ".pyc", ".o"))]
    stray += [name for name in wheel_names if name.startswith(("tests/", "csrc/", "bench/"))]
    if missing or stray:
        raise SystemExit(f"distribution: missing {missing}, stray {stray}")
    print(f"sdist of {len(names)} entries, wheel of {len(wheel_names)}: complete")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
