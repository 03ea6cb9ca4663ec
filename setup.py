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
    DYNAMS_CUTLASS      a checkout of CUTLASS, or a folder of its headers, for the kernels of compute capability 9.0; default: the
                        package nvidia-cutlass, which the build backend asks for where they are compiled; "off": without them.
    CXX, CXXFLAGS, NVCCFLAGS    the compiler and extra flags, of which none undoes what the kernels promise: the package's own come
                        behind CXXFLAGS, and stand for NVCCFLAGS' of the same name; MAX_JOBS: parallel compilations.
A variable that is empty counts as not set.
"""

from __future__ import annotations

import hashlib
import os
import platform
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
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.absolute()
PACKAGE = ROOT / "dynams_kernels"
# The build backend has it on the path, `python setup.py` has not.
sys.path.insert(0, str(ROOT / "build_backend"))
import build_outputs  # noqa: E402
import build_settings  # noqa: E402
import cuda_requirements  # noqa: E402

# Objects and their logs, kept from one build to the next.
WORK = ROOT / "build" / f"native-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"

COMMON_FLAGS = (
    *build_settings.EXACT_FLAGS,
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
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
CPU_BINDINGS = "csrc/cpu/bindings.cpp"
BASE_SOURCES = (
    CPU_BINDINGS,
    "csrc/cpu/digits.cpp",
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
CUDA_BINDINGS = "csrc/cuda/bindings.cpp"
CUDA_SOURCES = (
    "csrc/cuda/row_scores.cu",
    "csrc/cuda/row_scores_bf16.cu",
    "csrc/cuda/row_scores_f16.cu",
    "csrc/cuda/row_scores_f32.cu",
    "csrc/cuda/row_scores_f64.cu",
    "csrc/cuda/smallest_k.cu",
)
# Kernels made of CUTLASS's parts, for compute capability 9.0 alone: its wgmma is in no other, and not in plain compute_90.
HOPPER_SOURCES = (
    "csrc/cuda/hopper/head_kernels.cu",
    "csrc/cuda/hopper/linear_head.cu",
)
HOPPER_TARGET = "-gencode=arch=compute_90a,code=sm_90a"
HOPPER_FLAGS = (
    # With its assertions ptxas waits after every wgmma (warning C7510 in the log).
    "-DNDEBUG",
    "--expt-relaxed-constexpr",
)
# No --use_fast_math: NaN and infinities have rules. ptxas reports registers and spills to a log beside each object.
NVCC_FLAGS = (
    "-std=c++17",
    "-O3",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-g0,-fno-fast-math,-Wall,-Wno-psabi",
    "-Xptxas=-v",
    "-Xfatbin=-compress-all",
    "--threads=1",
)


@dataclass
class Compilation:
    """One object file: a source compiled with some flags beside the recipe's."""

    source: str
    flags: tuple[str, ...] = ()
    suffix: str = ""

    @property
    def object(self) -> str:
        return f"{Path(self.source).with_suffix('')}{self.suffix}.o".replace("/", "_")


@dataclass
class Recipe:
    """How a module is made: how its compiler compiles ($in to $out with $more, its headers to $out.d) and links, and what."""

    compile: str
    link: str
    compilations: list[Compilation]


@dataclass
class NativeModule:
    """A native module, and how its build is switched."""

    name: str
    switch: str
    recipe: Callable[[], Recipe]
    without: str  # what takes its place where it is missing


def system_headers(name: str, version: str, folder: str | Path) -> list[str]:
    """The flags for a library's headers, under a path that stays: pip compiles in a new environment every time, and its
    path in the commands would have every object compiled anew. The version is in it: another one has them compiled anew.
    """
    link = WORK / "headers" / f"{name}-{version}"
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f"{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder, target_is_directory=True)
    fresh.replace(link)
    # As a system's, they are not among the files whose change is looked for.
    return ["-isystem", f"../headers/{link.name}"]


def python_headers() -> list[str]:
    try:
        import pybind11
    except ImportError:
        raise RuntimeError("pybind11 is not installed") from None

    pybind = system_headers("pybind11", pybind11.__version__, pybind11.get_include())
    return [*pybind, f"-I{sysconfig.get_paths()['include']}"]


def interface(name: str) -> str:
    """The flag that tells a module which stub it was compiled for: Python code with another one does not load it."""
    stub = PACKAGE / f"{name}.pyi"
    return f'-DDYNAMS_INTERFACE="{hashlib.sha256(stub.read_bytes()).hexdigest()[:16]}"'


def command(words: list[str]) -> str:
    """Words as a shell and ninja read them."""
    return shlex.join(words).replace("$", "$$")


def cpu_recipe() -> Recipe:
    """The CPU kernels, compiled for each instruction set of this architecture; the best is chosen at run time."""
    compiler = build_settings.cxx()
    flags = [*build_settings.flags("CXXFLAGS"), *COMMON_FLAGS, *python_headers()]
    on_mac = sys.platform == "darwin"
    link = (
        ["-undefined", "dynamic_lookup"] if on_mac else ["-pthread", "-ldl", "-Wl,-O1,--strip-all"]
    )
    isa_flags: dict[str, list[str]] = {"baseline": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        flags += build_settings.BASELINE_X86_FLAGS
        isa_flags.update(X86_ISA_FLAGS)
    compilations = [
        Compilation(source, (interface("_cpu"),) if source == CPU_BINDINGS else ())
        for source in BASE_SOURCES
    ]
    for isa, more in isa_flags.items():
        define = f"-DDYNAMS_ISA={isa}"
        compilations += [Compilation(source, (*more, define), f"_{isa}") for source in ISA_SOURCES]
    linked = command(["-shared", *build_settings.LINK_FLAGS, *link])
    return Recipe(
        compile=f"{command([*compiler, *flags])} -MMD -MF $out.d $more -c $in -o $out",
        link=f"{command(compiler)} $in -o $out {linked}",
        compilations=compilations,
    )


def cuda_recipe() -> Recipe:
    """The CUDA kernels, for every architecture in one fat binary, and those for compute capability 9.0 alone."""
    nvcc = cuda_requirements.find_nvcc()
    if nvcc is None:
        raise RuntimeError("no CUDA compiler: nvcc is neither on the PATH nor in CUDA_HOME")
    names = cuda_requirements.cuda_architectures(nvcc)
    targets = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    targets.append(f"-gencode=arch=compute_{names[-1]},code=compute_{names[-1]}")
    built = " ".join([*(f"sm_{name}" for name in names), f"compute_{names[-1]}"])
    hopper = hopper_compilations(names)
    host = build_settings.host_compiler()
    given, left_out = build_settings.nvcc_flags()
    if left_out:
        report(f"NVCCFLAGS: {' '.join(left_out)}: left out, the kernels' own stand for them")
    flags = [*([] if host is None else [f"-ccbin={host}"]), *given, *NVCC_FLAGS, *python_headers()]
    compile_one = f"{command([nvcc, *flags])} -MMD -MF $out.d $more -c $in -o $out"
    defines = (f'-DDYNAMS_CUDA_ARCHITECTURES="{built}"', hopper.define, interface("_cuda"))
    return Recipe(
        compile=f"{compile_one} > $out.log 2>&1 || (cat $out.log >&2; exit 1)",
        # The targets again: without them the link adds a program of its own for nvcc's oldest architecture.
        link=f"{command([nvcc, *targets])} -shared -cudart=static $in -o $out -Xlinker=-O1,--strip-all,--exclude-libs,ALL",
        compilations=[
            # First what takes longest, lest one core be left with it.
            *hopper.compilations,
            *(Compilation(source, tuple(targets)) for source in CUDA_SOURCES),
            Compilation(CUDA_BINDINGS, (*targets, *defines)),
        ],
    )


@dataclass
class Hopper:
    """The part of the CUDA module that needs CUTLASS: its objects, none where it is left out, and what tells the module."""

    compilations: list[Compilation]
    define: str


def hopper_compilations(architectures: list[str]) -> Hopper:
    try:
        headers = cuda_requirements.cutlass_headers(architectures)
    except cuda_requirements.WithoutHopperError as reason:
        report(
            f"dynams_kernels._cuda is built without its kernels for Hopper: {reason}\nLinear heads are slower there, "
            f"through Triton."
        )
        return Hopper([], f'-DDYNAMS_WITHOUT_HOPPER="{reason}"')
    version = ".".join(map(str, cuda_requirements.cutlass_version(headers)))
    flags = (HOPPER_TARGET, *HOPPER_FLAGS, *system_headers("cutlass", version, headers))
    return Hopper([Compilation(source, flags) for source in HOPPER_SOURCES], "-DDYNAMS_HOPPER=1")


def is_source(folder: Path) -> bool:
    """Whether a folder that is to be built into is that of the source itself, where nothing is removed."""
    return folder.resolve() == PACKAGE.resolve()


def say_removed(paths: list[Path]) -> None:
    for path in paths:
        print(f"removed {path}, of an earlier build", file=sys.stderr)


def report(text: str) -> None:
    bar = "*" * 100
    print(f"\n{bar}\n{text}\n{bar}\n", file=sys.stderr)


MODULES = (
    NativeModule("dynams_kernels._cpu", "DYNAMS_BUILD_CPU", cpu_recipe, without="plain torch"),
    NativeModule("dynams_kernels._cuda", "DYNAMS_BUILD_CUDA", cuda_recipe, without="Triton"),
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
    """Builds `NativeModule`s with ninja in `WORK`, where a second build recompiles only what changed."""

    modules: ClassVar[dict[str, NativeModule]] = {module.name: module for module in MODULES}

    def run(self) -> None:
        for extension in list(self.extensions):
            module = self.modules[extension.name]
            mode = build_settings.switch(module.switch)
            # Also where this one is built: ninja would keep any file that is young enough.
            self.remove_earlier(extension)
            try:
                if mode == "off":
                    raise RuntimeError(f"{module.switch}=off")
                self.compile_and_link(extension, module)
            except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
                if mode == "required":
                    raise SystemExit(f"{module.switch}=required: {error}") from error
                # An extension that failed must leave the list, or an editable install looks for its file.
                self.extensions.remove(extension)
                self.remove_earlier(extension)
                report(
                    f"{module.name} was not built: {error}\nThe package works without it, more slowly, through "
                    f"{module.without}. {module.switch}=required makes this an error."
                )
                if self.inplace:
                    self.tell_earlier(extension)
        if self.inplace:
            self.copy_extensions_to_source()

    def remove_earlier(self, extension: Extension) -> None:
        """See that no module of an earlier build is packaged."""
        folder = Path(self.build_lib).absolute() / PACKAGE.name
        if not is_source(folder):
            say_removed(build_outputs.remove_modules(folder, extension.name.rpartition(".")[2]))

    def tell_earlier(self, extension: Extension) -> None:
        """Tell of a module of an earlier build that stays beside the source."""
        for path in build_outputs.importable(PACKAGE, extension.name.rpartition(".")[2]):
            report(
                f"{path}, of an earlier build, stays and is imported where it fits the Python code. Delete it to be without."
            )

    def compile_and_link(self, extension: Extension, module: NativeModule) -> None:
        target = Path(self.get_ext_fullpath(extension.name) if not self.inplace else "")
        if self.inplace:
            target = Path(self.build_lib) / self.get_ext_filename(extension.name)
        target = target.absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        work = WORK / module.name
        work.mkdir(parents=True, exist_ok=True)

        recipe = module.recipe()
        lines = [
            "ninja_required_version = 1.5",
            "rule compile",
            f"  command = {recipe.compile}",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = compile $out",
            "rule link",
            f"  command = {recipe.link}",
            "  description = link $out",
        ]
        for compilation in recipe.compilations:
            # Relative, as the headers are: a tree that is moved with its objects has nothing to compile.
            source = os.path.relpath(ROOT / compilation.source, work)
            lines.append(f"build {_escape(compilation.object)}: compile {_escape(source)}")
            lines.append(f"  more = {shlex.join(compilation.flags).replace('$', '$$')}")
        objects = " ".join(_escape(compilation.object) for compilation in recipe.compilations)
        lines.append(f"build {_escape(target)}: link {objects}")
        build_file = work / "build.ninja"
        text = "\n".join(lines) + "\n"
        if not build_file.exists() or build_file.read_text() != text:
            build_file.write_text(text)
        try:
            jobs = build_settings.jobs()
        except build_settings.SettingError as error:
            report(f"{error}: not heeded")
            jobs = None
        ninja = [*ninja_command(), "-C", str(work), *([] if jobs is None else ["-j", str(jobs)])]
        subprocess.run(ninja, check=True, env=build_settings.compiler_environment())


class BuildPython(build_py):
    """Copies the Python code, and leaves nothing beside it that only an earlier build had."""

    def run(self) -> None:
        super().run()
        folder = Path(self.build_lib).absolute()
        if self.editable_mode or is_source(folder / PACKAGE.name):
            return
        modules = tuple(module.name.rpartition(".")[2] for module in MODULES)
        for package in ("dynams", PACKAGE.name):
            say_removed(build_outputs.remove_others(folder / package, self.get_outputs(), modules))


setup(
    packages=find_packages(include=["dynams_kernels", "dynams_kernels.*"])
    + find_packages("python", include=["dynams", "dynams.*"]),
    package_dir={"dynams": "python/dynams"},
    ext_modules=[Extension(module.name, sources=[]) for module in MODULES],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython},
)
