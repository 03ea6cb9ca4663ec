"""What the build takes from the environment: nothing that is empty or nonsense stops it, no flag undoes what the kernels promise."""

from __future__ import annotations

import platform
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import build_settings as settings

COMPILER = shutil.which("c++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

# What a NaN, an infinity, a rounding or the order of a sum could be lost in.
SOURCE = """
extern "C" int is_nan(float x) { return __builtin_isnan(x); }
extern "C" float fused(float a, float b, float c) { return a * b + c; }
extern "C" float signed_zero(float x) { return x + 0.0f; }
extern "C" float quotient(float a, float b) { return a / b; }
extern "C" double total(const double* x, int n) { double s = 0; for (int i = 0; i < n; ++i) s += x[i]; return s; }
extern "C" int bits(unsigned x) { return __builtin_popcount(x); }
constexpr auto twice = [](auto x) { if constexpr (sizeof(x) > 4) return x + x; else return 2 * x; };
extern "C" double doubled(double x) { return twice(x); }
"""
HARMFUL = (
    "-O0",
    "-Ofast",
    "-ffast-math",
    "-std=c++14",
    "-ffp-contract=fast",
    "-funsafe-math-optimizations",
    "-ffinite-math-only -fassociative-math -freciprocal-math -fno-signed-zeros -fno-trapping-math",
    "-flto",
    "-march=native",
    "-mfma -mavx2 -mpopcnt",
)


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# ------------------------------------------------------------------------------------ the C++ compiler


@pytest.mark.parametrize("value", ["", " ", None])
def test_an_empty_compiler_is_the_default(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "c++")
    monkeypatch.setenv("PATH", str(tmp_path))
    if value is None:
        monkeypatch.delenv("CXX", raising=False)
    else:
        monkeypatch.setenv("CXX", value)
    assert settings.cxx() == ["c++"]
    assert settings.host_compiler() is None


def test_a_launcher_a_path_with_spaces_and_flags_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my tools"
    folder.mkdir()
    spaced = program(folder, "g++")
    for name in ("ccache", "g++-12"):
        program(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    for value, command, host in (
        ("ccache g++-12", ["ccache", "g++-12"], "g++-12"),
        ("ccache", ["ccache"], "ccache"),
        (f"'{spaced}' -m64", [str(spaced), "-m64"], str(spaced)),
        (str(spaced), [str(spaced)], str(spaced)),
    ):
        monkeypatch.setenv("CXX", value)
        assert settings.cxx() == command
        assert settings.host_compiler() == host


@pytest.mark.parametrize("value", ["nowhere/g++", "ccache nowhere++", "g++ 'half"])
def test_a_compiler_that_is_not_there_is_named(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "ccache")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", value)
    with pytest.raises(settings.SettingError, match=r"^CXX: got .*, want "):
        settings.cxx()


# ------------------------------------------------------------------------------------ flags


def compiled(flags: list[str], folder: Path) -> str:
    source = folder / "source.cpp"
    source.write_text(SOURCE)
    assert COMPILER is not None
    done = subprocess.run(
        [COMPILER, *flags, "-S", str(source), "-o", "-"], capture_output=True, text=True, check=True
    )
    # Named there: what is asked for, and by which file.
    return "\n".join(line for line in done.stdout.splitlines() if "-ffast" not in line)


@needs_compiler
def test_flags_of_the_environment_leave_the_machine_code_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = list(settings.EXACT_FLAGS)
    if platform.machine().lower() in ("x86_64", "amd64"):
        own += settings.BASELINE_X86_FLAGS
        harmful = HARMFUL
    else:
        harmful = HARMFUL[:-2]
    monkeypatch.delenv("CXXFLAGS", raising=False)
    want = compiled(own, tmp_path)
    assert compiled(["-ffast-math", *settings.flags("CXXFLAGS")], tmp_path) != want
    monkeypatch.setenv("CXXFLAGS", " ".join(harmful))
    assert compiled([*settings.flags("CXXFLAGS"), *own], tmp_path) == want
    for flags in harmful:
        monkeypatch.setenv("CXXFLAGS", flags)
        assert compiled([*settings.flags("CXXFLAGS"), *own], tmp_path) == want, flags


@needs_compiler
def test_linking_brings_nothing_that_flushes_denormals(tmp_path: Path) -> None:
    assert COMPILER is not None
    for given in ("-ffast-math", "-Ofast", "-funsafe-math-optimizations"):
        told = subprocess.run(
            [COMPILER, given, "-shared", *settings.LINK_FLAGS, "-###", "x.o", "-o", "x.so"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert "x.so" in told.stderr
        assert "crtfastmath" not in told.stderr


def test_flags_that_no_shell_could_read_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXXFLAGS", "-DX='half")
    with pytest.raises(settings.SettingError, match=r"^CXXFLAGS: got .*, want flags"):
        settings.flags("CXXFLAGS")


def test_nvcc_takes_of_a_users_flags_those_that_are_not_the_kernels_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NVCC_PREPEND_FLAGS", "-std c++14")
    monkeypatch.setenv("NVCCFLAGS", "--use_fast_math -lineinfo -O1 --optimize=0 -arch=sm_80 -I x")
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "--fmad=false -ftz true -Xptxas=-O1 -ccbin=g++-12")
    taken, left = settings.nvcc_flags()
    assert taken == ["-lineinfo", "-I", "x", "-Xptxas=-O1", "-ccbin=g++-12"]
    assert left == [
        *("-std", "c++14", "--use_fast_math", "-O1", "--optimize=0", "-arch=sm_80"),
        *("--fmad=false", "-ftz", "true"),
    ]
    assert not {"NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"} & set(settings.compiler_environment())


# ------------------------------------------------------------------------------------ other values


def test_empty_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DYNAMS_BUILD_CPU", "MAX_JOBS", "DYNAMS_CUDA_ARCHITECTURES", "CXXFLAGS"):
        monkeypatch.setenv(name, " ")
    assert settings.switch("DYNAMS_BUILD_CPU") == "auto"
    assert settings.jobs() is None
    assert settings.cuda_architectures() == []
    assert settings.flags("CXXFLAGS") == []


@pytest.mark.parametrize("value", ["many", "0", "-1", "2.5"])
def test_a_number_of_jobs_that_is_none_is_told(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_JOBS", value)
    with pytest.raises(settings.SettingError, match=f"^MAX_JOBS: got '{value}', want "):
        settings.jobs()
    monkeypatch.setenv("MAX_JOBS", "3")
    assert settings.jobs() == 3


def test_a_switch_of_another_value_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMS_BUILD_CPU", "yes")
    with pytest.raises(SystemExit, match=r"^DYNAMS_BUILD_CPU: got 'yes', want auto, .* off$"):
        settings.switch("DYNAMS_BUILD_CPU")


@pytest.mark.parametrize(
    ("value", "want"),
    [("80 90", ["80", "90"]), ("8.0;9.0+PTX", ["80", "90"]), ("sm_90a,120", ["90", "120"])],
)
def test_architectures_are_read_as_people_write_them(
    value: str, want: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMS_CUDA_ARCHITECTURES", value)
    assert settings.cuda_architectures() == want


def test_an_architecture_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMS_CUDA_ARCHITECTURES", "80 hopper")
    with pytest.raises(settings.SettingError, match="ARCHITECTURES: got 'hopper', want "):
        settings.cuda_architectures()
