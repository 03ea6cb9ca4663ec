"""What is packaged is what a build made: nothing that an earlier one left, nothing of a compiler that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import build_outputs

ROOT = Path(__file__).parents[1]
SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a build without its compilations reads."""
    skipped = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in ("build_backend", "dynams_kernels", "python"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy2(ROOT / name, tmp_path)
    return tmp_path


def build(tree: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", *command],
        cwd=tree,
        env={**os.environ, "DYNAMS_BUILD_CUDA": "off", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_of_an_earlier_build_is_packaged(tree: Path) -> None:
    package = tree / "build" / "lib" / "dynams_kernels"
    package.mkdir(parents=True)
    stale = [f"_cpu{SUFFIX}", "_cpu.cpython-38-x86_64-linux-gnu.so", f"_cuda{SUFFIX}", "gone.py"]
    for name in stale:
        (package / name).write_text("of an earlier build")
    # A compiler that is there and fails, in automatic mode.
    done = build(
        tree, "build", "--build-lib", "build/lib", CXX=shutil.which("false") or "", CXXFLAGS=""
    )
    assert done.returncode == 0, done.stderr
    assert (package / "__init__.py").is_file()
    assert not [name for name in stale if (package / name).exists()]
    assert "_cpu was not built" in done.stderr
    for name in stale:
        assert f"{name}, of an earlier build" in done.stderr


def test_a_module_beside_the_source_is_told_of_and_stays(tree: Path) -> None:
    module = tree / "dynams_kernels" / f"_cpu{SUFFIX}"
    module.write_text("of an earlier build")
    done = build(tree, "build_ext", "--inplace", DYNAMS_BUILD_CPU="off")
    assert done.returncode == 0, done.stderr
    assert module.read_text() == "of an earlier build"
    assert f"{module}, of an earlier build, stays" in done.stderr


def test_what_is_required_and_fails_is_an_error_of_one_line(tree: Path) -> None:
    done = build(tree, "build_ext", "--inplace", DYNAMS_BUILD_CPU="required", CXX="nowhere++")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("DYNAMS_BUILD_CPU=required: CXX: got 'nowhere++', want ")


def test_only_modules_of_the_name_are_removed_and_found(tmp_path: Path) -> None:
    for name in ("_cpu.abi3.so", "_cpu.pyi", "_cpu_notes.so", "_cuda.so"):
        (tmp_path / name).touch()
    assert [path.name for path in build_outputs.importable(tmp_path, "_cpu")] == ["_cpu.abi3.so"]
    assert [path.name for path in build_outputs.remove_modules(tmp_path, "_cpu")] == [
        "_cpu.abi3.so"
    ]
    assert len(list(tmp_path.iterdir())) == 3
    assert build_outputs.remove_modules(tmp_path / "nowhere", "_cpu") == []
