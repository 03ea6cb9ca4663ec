"""What the build asks for: CUTLASS's package where the Hopper kernels are compiled from it, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

import dynams_backend
from cuda_requirements import (
    CUTLASS_PACKAGE,
    WithoutHopperError,
    build_requirements,
    cutlass_headers,
    cutlass_version,
)

VARIABLES = ("CUDA_HOME", "CUDA_PATH", "DYNAMS_BUILD_CUDA", "DYNAMS_CUDA_ARCHITECTURES")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "DYNAMS_CUTLASS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that can compile for four architectures, in CUDA_HOME."""
    path = tmp_path / "cuda" / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\nprintf 'compute_%s\\n' 80 90 100 120\n")
    path.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    return path


def headers(folder: Path, version: str = "4.2.0") -> Path:
    """The two of CUTLASS's headers that tell what it is."""
    (folder / "cutlass").mkdir(parents=True)
    (folder / "cutlass" / "cutlass.h").touch()
    parts = zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True)
    lines = [f"#define CUTLASS_{part} {number}\n" for part, number in parts]
    (folder / "cutlass" / "version.h").write_text("#pragma once\n" + "".join(lines))
    return folder


# ------------------------------------------------------------------------------------ what is asked for


@pytest.mark.usefixtures("nvcc")
def test_beside_nvcc_a_wheel_and_an_editable_install_ask_for_the_headers() -> None:
    assert CUTLASS_PACKAGE in dynams_backend.get_requires_for_build_wheel()
    assert CUTLASS_PACKAGE in dynams_backend.get_requires_for_build_editable()
    # Nothing is compiled for a source distribution.
    assert CUTLASS_PACKAGE not in dynams_backend.get_requires_for_build_sdist()


def test_without_nvcc_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("cuda_requirements.USUAL_NVCC", "/nowhere/nvcc")
    assert build_requirements() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DYNAMS_BUILD_CUDA", "off"),
        ("DYNAMS_CUDA_ARCHITECTURES", "80 120"),
        ("DYNAMS_CUDA_ARCHITECTURES", "75"),  # which this nvcc has not: the build's own error
        ("DYNAMS_CUTLASS", "/a/folder"),
        ("DYNAMS_CUTLASS", "off"),
    ],
)
@pytest.mark.usefixtures("nvcc")
def test_what_is_not_compiled_or_is_at_hand_is_not_asked_for(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert build_requirements() == []


@pytest.mark.parametrize("asked", ["9.0", "80;90"])
@pytest.mark.usefixtures("nvcc")
def test_90_is_recognised_among_the_architectures(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMS_CUDA_ARCHITECTURES", asked)
    assert build_requirements() == [CUTLASS_PACKAGE]


# ------------------------------------------------------------------------------------ where the headers are


@pytest.mark.parametrize("inside", ["", "include"])
def test_a_folder_of_headers_or_a_checkout_is_taken(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    include = headers(tmp_path / inside)
    monkeypatch.setenv("DYNAMS_CUTLASS", str(tmp_path))
    assert cutlass_headers(["80", "90"]) == include
    assert cutlass_version(include) == (4, 2, 0)


def test_the_package_is_found_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "cutlass_library"
    include = headers(package / "source" / "include")
    (package / "__init__.py").write_text("raise ImportError('all of its generators')")
    monkeypatch.syspath_prepend(tmp_path)
    assert cutlass_headers(["90"]) == include


def test_a_named_folder_without_them_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMS_CUTLASS", str(tmp_path))
    with pytest.raises(SystemExit, match=f"^DYNAMS_CUTLASS: got {tmp_path}, without .*, want "):
        cutlass_headers(["90"])


def test_headers_that_are_too_old_are_an_error_where_named_and_left_where_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    include = headers(tmp_path / "cutlass_library" / "source" / "include", "3.9.2")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WithoutHopperError, match=r"got one of version 3\.9\.2, want 4\.2"):
        cutlass_headers(["90"])
    monkeypatch.setenv("DYNAMS_CUTLASS", str(include))
    with pytest.raises(SystemExit, match=r"of version 3\.9\.2, want 4\.2"):
        cutlass_headers(["90"])


def test_without_headers_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WithoutHopperError, match="only for 80 120"):
        cutlass_headers(["80", "120"])
    monkeypatch.setenv("DYNAMS_CUTLASS", "off")
    with pytest.raises(WithoutHopperError, match="DYNAMS_CUTLASS=off"):
        cutlass_headers(["90"])
    monkeypatch.delenv("DYNAMS_CUTLASS")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(WithoutHopperError, match="not installed"):
        cutlass_headers(["90"])
