"""Build of the native modules: plain C++ through ninja, with no torch and no GPU toolkit needed.

Metadata lives in pyproject.toml. Here is only what it cannot say: which sources make which module, compiled for which
instruction sets. A module that is optional and does not build is reported loudly and left out of the installation.

Environment:
    DYNAMS_BUILD_CPU    "auto" (default): without a C++ compiler the package installs without its CPU kernels, and says so;
                        "required": that is an error; "off": not built.
    CXX, CXXFLAGS       the compiler and extra flags; MAX_JOBS: parallel compilations.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent

COMMON_FLAGS = (
    "-std=c++17",
    "-O3",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    # One rounding an operation wherever the source says so: fused operations are written out.
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
    # GCC 12 sees its own AVX-512 headers as uninitialised.
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
)

ISA_SOURCES = ("csrc/cpu/isa.cpp", "csrc/cpu/row_scores.cpp", "csrc/cpu/select.cpp")
BASE_SOURCES = (
    "csrc/cpu/bindings.cpp",
    "csrc/cpu/dispatch.cpp",
    "csrc/cpu/parallel.cpp",
    "csrc/cpu/smallest_k.cpp",
)
X86_ISA_FLAGS = {
    "avx512": (
        "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mbmi -mbmi2 -mpopcnt -mlzcnt"
        " -mprefer-vector-width=512"
    ).split(),
    "avx2": "-mavx2 -mfma -mf16c -mbmi -mbmi2 -mpopcnt".split(),
}


@dataclass
class Compilation:
    """One object file: a source compiled with some flags beside the common ones."""

    source: str
    flags: tuple[str, ...] = ()
    suffix: str = ""

    @property
    def object(self) -> str:
        return f"{Path(self.source).with_suffix('')}{self.suffix}.o".replace("/", "_")


@dataclass
class NativeModule:
    """A native module: its objects, and how its build is switched."""

    name: str
    compilations: list[Compilation]
    switch: str
    link_flags: tuple[str, ...] = ()
    include_dirs: list[str] = field(default_factory=list)

    def mode(self) -> str:
        mode = os.environ.get(self.switch, "auto")
        if mode not in ("auto", "required", "off"):
            raise SystemExit(f"{self.switch}: got {mode!r}, want auto, required or off")
        return mode


def cpu_module() -> NativeModule:
    """The CPU kernels, compiled for each instruction set of this architecture; the best is chosen at run time."""
    isa_flags: dict[str, list[str]] = {"baseline": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        isa_flags.update(X86_ISA_FLAGS)
    compilations = [Compilation(source) for source in BASE_SOURCES]
    for isa, flags in isa_flags.items():
        define = f"-DDYNAMS_ISA={isa}"
        compilations += [Compilation(source, (*flags, define), f"_{isa}") for source in ISA_SOURCES]
    return NativeModule("dynams_kernels._cpu", compilations, "DYNAMS_BUILD_CPU")


def ninja_command() -> list[str]:
    """The ninja of the build requirements, else the system's."""
    try:
        import ninja

        return [str(Path(ninja.BIN_DIR) / "ninja")]
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise RuntimeError("ninja is not installed") from None
        return [found]


def _escape(path: str | Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class BuildNative(build_ext):
    """Builds `NativeModule`s with ninja in build/native-<platform>, where a second build recompiles only what changed."""

    modules: ClassVar[dict[str, NativeModule]] = {}

    def run(self) -> None:
        for extension in list(self.extensions):
            module = self.modules[extension.name]
            mode = module.mode()
            try:
                if mode == "off":
                    raise RuntimeError(f"{module.switch}=off")
                self.compile_and_link(extension, module)
            except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                if mode == "required":
                    raise
                # An extension that failed must leave the list, or an editable install looks for its file.
                self.extensions.remove(extension)
                self.report_missing(module, error)
        if self.inplace:
            self.copy_extensions_to_source()

    @staticmethod
    def report_missing(module: NativeModule, error: Exception) -> None:
        bar = "*" * 100
        print(
            f"\n{bar}\n{module.name} was not built: {error}\nThe package works without it, more slowly, in plain "
            f"torch. {module.switch}=required makes this an error.\n{bar}\n",
            file=sys.stderr,
        )

    def compile_and_link(self, extension: Extension, module: NativeModule) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(extension.name) if not self.inplace else "")
        if self.inplace:
            target = Path(self.build_lib) / self.get_ext_filename(extension.name)
        target = target.absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        work = ROOT / "build" / f"native-{tag}" / module.name
        work.mkdir(parents=True, exist_ok=True)

        compiler = shlex.split(os.environ.get("CXX", "c++"))
        if shutil.which(compiler[0]) is None:
            raise RuntimeError(f"no C++ compiler: {compiler[0]!r} is not on the PATH")
        includes = [pybind11.get_include(), sysconfig.get_paths()["include"], *module.include_dirs]
        flags = [*COMMON_FLAGS, *(f"-I{include}" for include in includes)]
        flags += shlex.split(os.environ.get("CXXFLAGS", ""))
        link = ["-shared", *module.link_flags]
        link += (
            ["-undefined", "dynamic_lookup"]
            if sys.platform == "darwin"
            else ["-pthread", "-ldl", "-Wl,-O1,--strip-all"]
        )
        lines = [
            "ninja_required_version = 1.5",
            f"cxx = {shlex.join(compiler)}",
            f"flags = {shlex.join(flags)}",
            "rule compile",
            "  command = $cxx -MMD -MF $out.d $flags $more -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $out",
            "rule link",
            f"  command = $cxx $in -o $out {shlex.join(link)}",
            "  description = link $out",
        ]
        for compilation in module.compilations:
            lines.append(
                f"build {_escape(compilation.object)}: compile {_escape(ROOT / compilation.source)}"
            )
            lines.append(f"  more = {shlex.join(compilation.flags)}")
        objects = " ".join(_escape(compilation.object) for compilation in module.compilations)
        lines.append(f"build {_escape(target)}: link {objects}")
        build_file = work / "build.ninja"
        text = "\n".join(lines) + "\n"
        if not build_file.exists() or build_file.read_text() != text:
            build_file.write_text(text)
        command = [*ninja_command(), "-C", str(work)]
        if os.environ.get("MAX_JOBS"):
            command += ["-j", os.environ["MAX_JOBS"]]
        subprocess.run(command, check=True)


BuildNative.modules = {module.name: module for module in (cpu_module(),)}

setup(
    packages=find_packages(include=["dynams_kernels", "dynams_kernels.*"])
    + find_packages("python", include=["dynams", "dynams.*"]),
    package_dir={"dynams": "python/dynams"},
    ext_modules=[Extension(name, sources=[]) for name in BuildNative.modules],
    cmdclass={"build_ext": BuildNative},
)
