"""Build of the native modules: plain C++ through ninja, with no torch and no GPU toolkit needed.

Metadata lives in pyproject.toml. Here is only what it cannot say: which sources make which module, compiled for which
instruction sets. A module that is optional and does not build is reported loudly and left out of the installation.

Environment:
    DYNAMS_BUILD_CPU    "auto" (default): without a C++ compiler the package installs without its CPU kernels, and says so;
                        "required": that is an error; "off": not built.
    DYNAMS_BUILD_CUDA   the same for the CUDA kernels, which need nvcc (on the PATH, or in CUDA_HOME): without it GPUs are
                        served by Triton.
    DYNAMS_CUDA_ARCHITECTURES   which GPUs to compile for, such as "80 90"; default: 80, 90, 100, 120, those nvcc knows.
                        The last one's PTX is kept too, for GPUs to come.
    CXX, CXXFLAGS, NVCCFLAGS    the compiler and extra flags; MAX_JOBS: parallel compilations.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
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

ISA_SOURCES = (
    "csrc/cpu/group_passes.cpp",
    "csrc/cpu/isa.cpp",
    "csrc/cpu/row_scores.cpp",
    "csrc/cpu/select.cpp",
)
BASE_SOURCES = (
    "csrc/cpu/bindings.cpp",
    "csrc/cpu/dispatch.cpp",
    "csrc/cpu/grouped.cpp",
    "csrc/cpu/merge_states.cpp",
    "csrc/cpu/parallel.cpp",
    "csrc/cpu/python_team.cpp",
    "csrc/cpu/smallest_k.cpp",
)
X86_ISA_FLAGS = {
    "avx512": (
        "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mbmi -mbmi2 -mpopcnt -mlzcnt"
        " -mprefer-vector-width=512"
    ).split(),
    "avx2": "-mavx2 -mfma -mf16c -mbmi -mbmi2 -mpopcnt".split(),
}
CUDA_SOURCES = (
    "csrc/cuda/bindings.cpp",
    "csrc/cuda/row_scores.cu",
    "csrc/cuda/row_scores_bf16.cu",
    "csrc/cuda/row_scores_f16.cu",
    "csrc/cuda/row_scores_f32.cu",
    "csrc/cuda/row_scores_f64.cu",
    "csrc/cuda/smallest_k.cu",
)
CUDA_ARCHITECTURES = ("80", "90", "100", "120")
# No --use_fast_math: NaN and infinities have rules. ptxas reports registers and spills to a log beside each object.
NVCC_FLAGS = (
    "-std=c++17",
    "-O3",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-g0,-Wall,-Wno-psabi",
    "-Xptxas=-v",
    "-Xfatbin=-compress-all",
    "--threads=1",
)


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
class Toolchain:
    """How a compiler compiles ($in to $out, its headers to $out.d) and links."""

    compile: str
    link: str


@dataclass
class NativeModule:
    """A native module: its objects, and how its build is switched."""

    name: str
    compilations: list[Compilation]
    switch: str
    toolchain: Callable[[], Toolchain]
    without: str  # what takes its place where it is missing

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
    return NativeModule(
        "dynams_kernels._cpu",
        compilations,
        "DYNAMS_BUILD_CPU",
        cxx_toolchain,
        without="plain torch",
    )


def cuda_module() -> NativeModule:
    """The CUDA kernels, for every architecture in one fat binary."""
    compilations = [Compilation(source) for source in CUDA_SOURCES]
    return NativeModule(
        "dynams_kernels._cuda", compilations, "DYNAMS_BUILD_CUDA", nvcc_toolchain, without="Triton"
    )


def python_includes() -> list[str]:
    import pybind11

    return [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]


def cxx_toolchain() -> Toolchain:
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(f"no C++ compiler: {compiler[0]!r} is not on the PATH")
    flags = [*COMMON_FLAGS, *python_includes(), *shlex.split(os.environ.get("CXXFLAGS", ""))]
    on_mac = sys.platform == "darwin"
    link = (
        ["-undefined", "dynamic_lookup"] if on_mac else ["-pthread", "-ldl", "-Wl,-O1,--strip-all"]
    )
    return Toolchain(
        compile=f"{shlex.join([*compiler, *flags])} -MMD -MF $out.d $more -c $in -o $out",
        link=f"{shlex.join(compiler)} $in -o $out {shlex.join(['-shared', *link])}",
    )


def find_nvcc() -> str:
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [str(Path(home) / "bin" / "nvcc") for home in homes]
    for candidate in [*candidates, "nvcc", "/usr/local/cuda/bin/nvcc"]:
        found = shutil.which(candidate)
        if found is not None:
            return found
    raise RuntimeError("no CUDA compiler: nvcc is neither on the PATH nor in CUDA_HOME")


def cuda_architectures(nvcc: str) -> list[str]:
    """The wanted architectures that this nvcc can compile for, ascending."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], check=True, capture_output=True, text=True)
    known = set(re.findall(r"compute_(\d+)", listed.stdout))
    asked = re.findall(r"\d+", os.environ.get("DYNAMS_CUDA_ARCHITECTURES", "").replace(".", ""))
    usable = [name for name in asked or CUDA_ARCHITECTURES if name in known]
    if not usable or (asked and len(usable) < len(asked)):
        raise RuntimeError(
            f"DYNAMS_CUDA_ARCHITECTURES: want some of {sorted(known, key=int)} ({nvcc}), got {asked}"
        )
    return sorted(usable, key=int)


def nvcc_toolchain() -> Toolchain:
    nvcc = find_nvcc()
    names = cuda_architectures(nvcc)
    targets = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    targets.append(f"-gencode=arch=compute_{names[-1]},code=compute_{names[-1]}")
    built = " ".join([*(f"sm_{name}" for name in names), f"compute_{names[-1]}"])
    flags = [*NVCC_FLAGS, *targets, *python_includes()]
    if os.environ.get("CXX"):
        flags.append(f"-ccbin={shlex.split(os.environ['CXX'])[0]}")
    flags += shlex.split(os.environ.get("NVCCFLAGS", ""))
    define = shlex.quote(f'-DDYNAMS_CUDA_ARCHITECTURES="{built}"')
    command = f"{shlex.join([nvcc, *flags])} {define} -MMD -MF $out.d $more -c $in -o $out"
    return Toolchain(
        compile=f"{command} > $out.log 2>&1 || (cat $out.log >&2; exit 1)",
        # The targets again: without them the link adds a program of its own for nvcc's oldest architecture.
        link=f"{shlex.join([nvcc, *targets])} -shared -cudart=static $in -o $out -Xlinker=-O1,--strip-all,--exclude-libs,ALL",
    )


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
            f"\n{bar}\n{module.name} was not built: {error}\nThe package works without it, more slowly, through "
            f"{module.without}. {module.switch}=required makes this an error.\n{bar}\n",
            file=sys.stderr,
        )

    def compile_and_link(self, extension: Extension, module: NativeModule) -> None:
        target = Path(self.get_ext_fullpath(extension.name) if not self.inplace else "")
        if self.inplace:
            target = Path(self.build_lib) / self.get_ext_filename(extension.name)
        target = target.absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        work = ROOT / "build" / f"native-{tag}" / module.name
        work.mkdir(parents=True, exist_ok=True)

        toolchain = module.toolchain()
        lines = [
            "ninja_required_version = 1.5",
            "rule compile",
            f"  command = {toolchain.compile}",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $out",
            "rule link",
            f"  command = {toolchain.link}",
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


BuildNative.modules = {module.name: module for module in (cpu_module(), cuda_module())}

setup(
    packages=find_packages(include=["dynams_kernels", "dynams_kernels.*"])
    + find_packages("python", include=["dynams", "dynams.*"]),
    package_dir={"dynams": "python/dynams"},
    ext_modules=[Extension(name, sources=[]) for name in BuildNative.modules],
    cmdclass={"build_ext": BuildNative},
)
