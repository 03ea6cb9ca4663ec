"""What the build reads from the environment: switches, compilers, their flags, how many at a time. And which of a user's flags win.

A variable that is set but empty counts as not set, as for make. What cannot be read is a `SettingError`: `name: got X, want Y`. It
imports the standard library alone.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

MODES = ("auto", "required", "off")
DEFAULT_COMPILER = "c++"
# What stands before a compiler and is none.
_LAUNCHERS = ("ccache", "sccache", "distcc", "icecc")

# Behind a user's flags, so that none of them undoes what the kernels promise. "-fno-fast-math" takes back the whole group, but
# none of those that were given one by one.
EXACT_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fno-fast-math",
    "-fno-unsafe-math-optimizations",
    "-fno-finite-math-only",
    "-fno-associative-math",
    "-fno-reciprocal-math",
    "-fsigned-zeros",
    "-fno-math-errno",
    "-fno-trapping-math",
    # One rounding an operation wherever the source says so: fused operations are written out.
    "-ffp-contract=off",
    # Objects of several instruction sets stay apart.
    "-fno-lto",
)
# The kernels for every processor of the architecture are that, whatever the user's flags are for, or the compiler's default.
BASELINE_X86_FLAGS = (
    "-march=x86-64",
    "-mfpmath=sse",
    "-mno-sse3",
    "-mno-popcnt",
    "-mno-lzcnt",
    "-mno-bmi",
    "-mno-bmi2",
)
# Given where a library is linked, these add a start-up that rounds the whole process' denormals to zero.
LINK_FLAGS = ("-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations")

# nvcc takes no option twice: ours stand for a user's of the same name. What these change besides is fixed by their defaults.
_NVCC_OWN = re.compile(
    r"--?(std|O\d?|optimize|Ofast-compile|use_fast_math|ftz|prec-div|prec-sqrt|fmad"
    r"|gencode|generate-code|arch|gpu-architecture|code|gpu-code)(=|$)"
)
_NVCC_OWN_WITH_VALUE = re.compile(
    r"--?(std|O|optimize|Ofast-compile|ftz|prec-div|prec-sqrt|fmad|gencode|generate-code|arch|gpu-architecture"
    r"|code|gpu-code)$"
)


class SettingError(RuntimeError):
    """A variable of the environment holds what it cannot."""


def setting(name: str) -> str:
    """The variable's value; empty where it is not set."""
    return os.environ.get(name, "").strip()


def switch(name: str) -> str:
    """The value of DYNAMS_BUILD_CPU or DYNAMS_BUILD_CUDA."""
    mode = setting(name) or "auto"
    if mode not in MODES:
        raise SystemExit(f"{name}: got {mode!r}, want auto, required or off")
    return mode


def flags(name: str) -> list[str]:
    """The words of a variable that holds a compiler's flags."""
    text = setting(name)
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingError(f"{name}: got {text!r}, want flags as in a shell ({error})") from None


def cxx() -> list[str]:
    """The command of the C++ compiler, which may begin with a launcher such as ccache; its programs are there."""
    text = setting("CXX") or DEFAULT_COMPILER
    # A path with spaces that nobody quoted.
    command = [text] if shutil.which(text) else flags("CXX") or [DEFAULT_COMPILER]
    programs = [command[0]]
    if _is_launcher(command[0]) and len(command) > 1:
        programs.append(command[1])
    for program in programs:
        if shutil.which(program) is None:
            raise SettingError(
                f"CXX: got {program!r}, want a C++ compiler on the PATH, or the path of one"
                if setting("CXX")
                else f"no C++ compiler: {program!r} is not on the PATH"
            )
    return command


def host_compiler() -> str | None:
    """The program that nvcc is to compile host code with; None: its own choice."""
    if not setting("CXX"):
        return None
    command = cxx()
    return command[1] if _is_launcher(command[0]) and len(command) > 1 else command[0]


def _is_launcher(program: str) -> bool:
    return Path(program).name in _LAUNCHERS


def nvcc_flags() -> tuple[list[str], list[str]]:
    """A user's flags for nvcc, by NVCCFLAGS and by nvcc's own two variables: those that are taken, and those that are not."""
    given = [*flags("NVCC_PREPEND_FLAGS"), *flags("NVCCFLAGS"), *flags("NVCC_APPEND_FLAGS")]
    taken: list[str] = []
    left: list[str] = []
    words = iter(given)
    for word in words:
        if _NVCC_OWN.match(word):
            left.append(word)
            if _NVCC_OWN_WITH_VALUE.match(word):
                left += [value for value in [next(words, None)] if value is not None]
        else:
            taken.append(word)
    return taken, left


def compiler_environment() -> dict[str, str]:
    """The environment of the compilers: without the flags that nvcc would take from it behind ours."""
    hidden = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def jobs() -> int | None:
    """How many compilations at a time, as MAX_JOBS says; None: as many as ninja likes."""
    text = setting("MAX_JOBS")
    if not text:
        return None
    if not re.fullmatch(r"0*[1-9]\d{0,5}", text):
        raise SettingError(f"MAX_JOBS: got {text!r}, want a whole number of at least 1")
    return int(text)


def cuda_architectures() -> list[str]:
    """The compute capabilities that DYNAMS_CUDA_ARCHITECTURES asks for, such as 90, in its order; none: the default."""
    text = setting("DYNAMS_CUDA_ARCHITECTURES")
    found = []
    for word in re.split(r"[\s,;]+", text.strip(" ,;")) if text else []:
        match = re.fullmatch(r"(?:sm_|compute_)?(\d+)(?:\.(\d))?[af]?(?:\+PTX)?", word)
        if match is None:
            raise SettingError(
                f"DYNAMS_CUDA_ARCHITECTURES: got {word!r}, want compute capabilities such as '80 90'"
            )
        found.append("".join(part for part in match.groups() if part))
    return list(dict.fromkeys(found))
