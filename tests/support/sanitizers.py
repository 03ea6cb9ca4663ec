"""Programs of the tests compiled by the host's compiler with a sanitizer; skipped where one cannot be had."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def compile_program(
    source: Path,
    folder: Path,
    flags: Sequence[str],
    *,
    probe: str,
    sanitizer: str = "",
) -> Path:
    """The program in `folder`.

    Skips the test where `probe`, a program of what this one needs, cannot be compiled so or cannot run: no compiler, no
    sanitizer, or one whose addresses the system does not leave free.
    """
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        pytest.skip("no C++ compiler")
    command = [*compiler, "-O1", "-g1", "-pthread", *flags]
    if sanitizer:
        command += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    tried = folder / "probe.cpp"
    tried.write_text(probe)
    steps = ([*command, str(tried), "-o", str(folder / "probe")], [str(folder / "probe")])
    if any(subprocess.run(step, capture_output=True, check=False).returncode for step in steps):
        pytest.skip(f"no working C++ with {' '.join(command[1:])}")
    program = folder / source.stem
    built = subprocess.run(
        [*command, "-Wall", "-Wextra", "-Werror", str(source), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-6000:]
    return program


def run_program(program: Path, given: bytes, folder: Path, seconds: int) -> bytes:
    """What `program CASES ANSWERS SECONDS` answers; fails with what it said where it fails or a sanitizer stops it."""
    cases, answers = folder / "cases", folder / "answers"
    cases.write_bytes(given)
    done = subprocess.run(
        [str(program), str(cases), str(answers), str(seconds)],
        env={
            **os.environ,
            "TSAN_OPTIONS": "halt_on_error=1",
            "ASAN_OPTIONS": "detect_leaks=0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-6000:]}"
    return answers.read_bytes()
