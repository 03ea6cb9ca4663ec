"""The compiled modules that bench/gpu.sh runs: made there, or brought along from a machine that only compiles.

python bench/gpu/builds.py make FOLDER ARCHITECTURES [--without-cuda]    compiles both modules into FOLDER, with a manifest
python bench/gpu/builds.py fits FOLDER ARCHITECTURE    exit code 0 where they serve this Python, GPU and source; prints what they are
python bench/gpu/builds.py assemble FOLDER SITE        the package in SITE: the modules of FOLDER, the rest as the source is now
python bench/gpu/builds.py usable                      exit code 0 where the CUDA kernels of the package on the path can be used; needs torch

A manifest tells for which Python and which GPUs the modules are, and of which C++ and CUDA source. Python's part of the package
is always the source tree's: a Triton kernel mended needs no new build.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MANIFEST = "manifest.json"
# What the modules are made of.
SOURCES = (
    "csrc",
    "setup.py",
    "build_backend/build_settings.py",
    "build_backend/cuda_requirements.py",
    "dynams_kernels/_cpu.pyi",
    "dynams_kernels/_cuda.pyi",
)
PACKAGES = {"dynams_kernels": "dynams_kernels", "dynams": "python/dynams"}


def source_hash() -> str:
    """One number for all that is compiled."""
    digest = hashlib.sha256()
    for top in SOURCES:
        path = ROOT / top
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
                digest.update(file.read_bytes())
    return digest.hexdigest()


def python_tag() -> str:
    """What the name of a module for this Python ends in."""
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def make(folder: Path, architectures: str, cuda: bool) -> None:
    """Compiles the modules; raises CalledProcessError where that fails."""
    begin = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    environment = {
        **os.environ,
        "DYNAMS_BUILD_CPU": "required",
        "DYNAMS_BUILD_CUDA": "required" if cuda else "off",
        "DYNAMS_CUDA_ARCHITECTURES": architectures,
    }
    subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(folder.absolute())],
        cwd=ROOT,
        env=environment,
        check=True,
    )
    modules = sorted(folder.rglob(f"*{python_tag()}"))
    facts = {
        "python": python_tag(),
        "architectures": architectures.split() if cuda else [],
        "source": source_hash(),
        "modules": {module.name: module.stat().st_size for module in modules},
        "seconds": round(time.monotonic() - begin, 1),
    }
    (folder / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{folder}: {facts}")


def why_not(folder: Path, architecture: str) -> str:
    """Why the modules of a folder cannot serve here; empty where they can."""
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError) as error:
        return f"no manifest ({error})"
    if facts["python"] != python_tag():
        return f"for Python {facts['python']}, here {python_tag()}"
    if architecture not in facts["architectures"]:
        return f"for GPUs of {facts['architectures']}, here {architecture}"
    if facts["source"] != source_hash():
        return "of other sources than these"
    for name, size in facts["modules"].items():
        module = folder / "dynams_kernels" / name
        if not module.is_file() or module.stat().st_size != size:
            return f"{name} is missing or incomplete"
    return ""


def assemble(folder: Path, site: Path) -> None:
    """Puts the package together in `site`; without a `folder` there, its modules are missing."""
    shutil.rmtree(site, ignore_errors=True)
    skipped = shutil.ignore_patterns("__pycache__", "*.so")
    for name, source in PACKAGES.items():
        shutil.copytree(ROOT / source, site / name, ignore=skipped)
    for module in (folder / "dynams_kernels").glob(f"*{python_tag()}"):
        shutil.copy2(module, site / "dynams_kernels" / module.name)


def usable() -> bool:
    """Whether the compiled CUDA kernels of the package that Python finds can run here; prints all backends."""
    import dynams_kernels

    told: Any = dynams_kernels.backends()
    print(dynams_kernels.__file__, told)
    return bool(told["native_cuda"]["usable"])


def main(arguments: list[str]) -> int:
    if (
        len(arguments) in (3, 4)
        and arguments[0] == "make"
        and arguments[3:] in ([], ["--without-cuda"])
    ):
        make(Path(arguments[1]), arguments[2], cuda=len(arguments) == 3)
    elif len(arguments) == 3 and arguments[0] == "fits":
        reason = why_not(Path(arguments[1]), arguments[2])
        print(reason or f"{python_tag()}, sm_{arguments[2]}")
        return 1 if reason else 0
    elif len(arguments) == 3 and arguments[0] == "assemble":
        assemble(Path(arguments[1]), Path(arguments[2]))
    elif arguments == ["usable"]:
        return 0 if usable() else 1
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
