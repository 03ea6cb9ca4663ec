"""What the build of the CUDA module takes from its surroundings: nvcc, and CUTLASS's headers for the Hopper kernels.

setup.py and the build backend both decide by it. It imports the standard library alone.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import build_settings

# Only its headers are used, and only while compiling.
CUTLASS_PACKAGE = "nvidia-cutlass==4.2.0.0"
OLDEST_CUTLASS = (4, 2)
CUDA_ARCHITECTURES = ("80", "90", "100", "120")
HOPPER = "90"
USUAL_NVCC = "/usr/local/cuda/bin/nvcc"


class WithoutHopperError(Exception):
    """Why the Hopper kernels are left out of the CUDA module."""


def find_nvcc() -> str | None:
    """The CUDA compiler that the build takes."""
    homes = [home for name in ("CUDA_HOME", "CUDA_PATH") if (home := build_settings.setting(name))]
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes]
    found = (shutil.which(path) for path in [*candidates, "nvcc", USUAL_NVCC])
    return next((path for path in found if path is not None), None)


def cuda_architectures(nvcc: str) -> list[str]:
    """The wanted architectures that this nvcc can compile for, ascending; RuntimeError where it cannot for one that was asked for."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], check=True, capture_output=True, text=True)
    known = set(re.findall(r"compute_(\d+)", listed.stdout))
    asked = build_settings.cuda_architectures()
    usable = [name for name in asked or CUDA_ARCHITECTURES if name in known]
    if not usable or (asked and len(usable) < len(asked)):
        raise RuntimeError(
            f"DYNAMS_CUDA_ARCHITECTURES: got {' '.join(asked) or 'none'}, want some of "
            f"{' '.join(sorted(known, key=int))}, which {nvcc} knows"
        )
    return sorted(usable, key=int)


def build_requirements() -> list[str]:
    """What building a wheel needs beside what pyproject.toml names: CUTLASS's package, where its headers are compiled from there."""
    nvcc = find_nvcc()
    if (
        build_settings.switch("DYNAMS_BUILD_CUDA") == "off"
        or nvcc is None
        or build_settings.setting("DYNAMS_CUTLASS")
    ):
        return []
    try:
        architectures = cuda_architectures(nvcc)
    except (RuntimeError, OSError, subprocess.CalledProcessError):
        return []  # the build meets it too, and says what follows
    return [CUTLASS_PACKAGE] if HOPPER in architectures else []


def cutlass_headers(architectures: list[str]) -> Path:
    """The folder of CUTLASS's headers; WithoutHopperError where there is nothing to compile, or nothing to compile it with."""
    if HOPPER not in architectures:
        raise WithoutHopperError(f"not compiled for {HOPPER}, only for {' '.join(architectures)}")
    named = build_settings.setting("DYNAMS_CUTLASS")
    if named == "off":
        raise WithoutHopperError("DYNAMS_CUTLASS=off")
    if named:
        try:
            return _checked(Path(named), Path(named) / "include")
        except LookupError as error:
            raise SystemExit(f"DYNAMS_CUTLASS: got {named}, {error}") from None
    # Found, not imported: that would take all of its code generators, and scipy.
    package = importlib.util.find_spec("cutlass_library")
    if package is None or not package.submodule_search_locations:
        raise WithoutHopperError(f"{CUTLASS_PACKAGE} is not installed, DYNAMS_CUTLASS not set")
    try:
        return _checked(Path(package.submodule_search_locations[0]) / "source" / "include")
    except LookupError as error:
        raise WithoutHopperError(f"nvidia-cutlass: got one {error}") from None


def cutlass_version(include: Path) -> tuple[int, int, int]:
    """The version of the headers in a folder; (0, 0, 0) where they do not tell."""
    header = include / "cutlass" / "version.h"
    text = header.read_text() if header.is_file() else ""
    found = dict(re.findall(r"^#define CUTLASS_(MAJOR|MINOR|PATCH) (\d+)", text, re.MULTILINE))
    major, minor, patch = (int(found.get(part, 0)) for part in ("MAJOR", "MINOR", "PATCH"))
    return major, minor, patch


def _checked(*folders: Path) -> Path:
    """The first folder with CUTLASS's headers; LookupError where there is none, or where they are too old."""
    for folder in folders:
        if (folder / "cutlass" / "cutlass.h").is_file():
            version = cutlass_version(folder)
            if version[:2] < OLDEST_CUTLASS:
                got, want = (".".join(map(str, parts)) for parts in (version, OLDEST_CUTLASS))
                raise LookupError(f"of version {got}, want {want} or newer")
            return folder.absolute()
    raise LookupError("without cutlass/cutlass.h, want a folder of CUTLASS's headers, or off")
