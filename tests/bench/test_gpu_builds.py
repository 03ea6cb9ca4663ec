"""Which compiled modules bench/gpu.sh runs: those brought along where they fit and work, else its own, else none, and that is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from faked_script import FATAL, FULL, SETUP, Script

from gpu import builds


def prebuilt(script: Script) -> Path:
    """Modules brought along, of the sources as they are."""
    folder = script.repo / "build" / "gpu" / "prebuilt"
    command = [sys.executable, str(script.repo / "bench/gpu/builds.py"), "make", str(folder), "90"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def site(script: Script) -> list[str]:
    package = script.repo / "build" / "gpu" / "site" / "dynams_kernels"
    return sorted(path.name.partition(".")[0] for path in package.iterdir())


def test_a_build_brought_along_is_taken_with_python_as_the_source_is_now(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    prebuilt(script)
    monkeypatch.setenv("PYTHONPATH", "/more/packages")
    script.fake("check", f'echo "$PYTHONPATH" > {script.fakes}/path\n')
    (script.repo / "dynams_kernels" / "__init__.py").write_text("# mended since")
    assert script.run("--plan", "first", "--stage", "build").returncode == 0
    assert script.calls("builds.py make") == []
    assert script.notes()["build"].startswith("build/gpu/prebuilt: .cpython-")
    assert site(script) == ["__init__", "_cpu", "_cuda"]
    package = script.repo / "build" / "gpu" / "site" / "dynams_kernels"
    assert (package / "__init__.py").read_text() == "# mended since"
    path = (script.fakes / "path").read_text()
    assert path == f"{package.parent}:{script.repo}/bench:/more/packages\n"


def test_a_build_is_refused_where_anything_it_rests_on_differs(script: Script) -> None:
    folder = prebuilt(script)
    manifest = folder / builds.MANIFEST
    written = manifest.read_text()

    def told(architecture: str = "90") -> str:
        command = [str(script.repo / "bench/gpu/builds.py"), "fits", str(folder), architecture]
        ran = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False
        )
        assert ran.returncode == (not ran.stdout.startswith(".cpython")), ran.stderr
        return ran.stdout

    assert told().endswith("sm_90\n")
    assert told("100") == "for GPUs of ['90'], here 100\n"
    manifest.write_text(json.dumps({**json.loads(written), "python": ".cpython-27.so"}))
    assert told().startswith("for Python .cpython-27.so")
    manifest.write_text(written)
    (script.repo / "csrc" / "new.cu").touch()
    assert told() == "of other sources than these\n"
    (script.repo / "csrc" / "new.cu").unlink()
    next(folder.rglob("_cuda*")).write_text("half")
    assert "is missing or incomplete" in told()
    manifest.unlink()
    assert told().startswith("no manifest")


def test_a_build_brought_along_that_does_not_work_is_made_anew(script: Script) -> None:
    prebuilt(script)
    mark = script.fakes / "failed-once"
    script.fake("check", f"[ -e {mark} ] || {{ touch {mark}; exit 1; }}\n")
    ran = script.run("--plan", "first", "--stage", "build")
    assert ran.returncode == 0, ran.stdout
    assert len(script.calls("builds.py make")) == 1
    assert (
        script.notes()["build"]
        == "build/gpu/prebuilt: does not work here, see build.log; built here"
    )
    assert site(script) == ["__init__", "_cpu", "_cuda"]


def test_a_build_that_fails_is_said_loudly_and_triton_goes_on(script: Script) -> None:
    (script.repo / "setup.py").write_text(FATAL + SETUP)
    script.fake("check", "exit 1\n")
    ran = script.run()
    assert ran.returncode == 1
    assert "NO COMPILED CUDA KERNELS" in ran.stdout
    assert "nvcc: fatal" in (script.out / "build.log").read_text()
    assert "NO COMPILED CUDA KERNELS" in (script.out / "kernels.md").read_text()
    assert script.stages() == {
        **dict.fromkeys(FULL, "ok"),
        "build": "failed",
        "tests, native": "skipped",
    }
    assert site(script) == ["__init__", "_cpu"]
    # What is Triton's with either backend has not been tested yet.
    assert "test_cuda_linear.py" in script.calls("tests/kernels")[0]
