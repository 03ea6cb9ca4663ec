"""The CUDA kernels' machine code: left by the build, compiled here by nvcc, or embedded in the installed module, read with cuobjdump.

What to compile and how is read from setup.py, so that what is tested is what is built.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import aot
from cuda_requirements import find_nvcc

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class PtxasUsage:
    """What ptxas reported of one function; registers are 0 for one that kernels call without inlining it."""

    name: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class Machine:
    """One function of a binary: its resources by cuobjdump's names (REG, STACK, ...) and how often it has each instruction."""

    usage: dict[str, int]
    opcodes: dict[str, int]

    @property
    def uses_wide_loads(self) -> bool:
        """Whether global memory is read 16 bytes a thread at a time, or in bulk."""
        return any(aot.is_wide_load(op) for op in self.opcodes)


Binary = dict[str, dict[str, Machine]]  # architecture, function


# ------------------------------------------------------------------------------------ compilation


def setup_constant(name: str) -> Any:
    """A literal that setup.py assigns at its top level."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return ast.literal_eval(statement.value)
    raise LookupError(f"setup.py assigns no {name}")


def compile_fatbin(source: Path, capability: int, target: Path) -> str:
    """Compiles one source's device code for one architecture as setup.py does, and returns what ptxas reported."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise FileNotFoundError("nvcc")
    command = [
        nvcc,
        *setup_constant("NVCC_FLAGS"),
        f"-gencode=arch=compute_{capability},code=sm_{capability}",
        "-fatbin",
        str(source),
        "-o",
        str(target),
    ]
    if os.environ.get("CXX"):
        command.append(f"-ccbin={os.environ['CXX'].split()[0]}")
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"nvcc, {source.name}: {done.stdout[-4000:]}")
    return done.stdout


@dataclass(frozen=True)
class Compiled:
    """A source's device code, and what ptxas reported."""

    fatbin: Path
    report: str


def built(source: Path, target: str) -> Compiled | None:
    """What the build left of a source, with the code for a target ("sm_90", "sm_90a") and perhaps others; None where it was not
    built here, or where anything that is compiled has changed since.
    """
    inputs = [ROOT / "setup.py", *(ROOT / "csrc").rglob("*.*")]
    newest = max(path.stat().st_mtime for path in inputs)
    name = f"{source.relative_to(ROOT).with_suffix('')}.o".replace(os.sep, "_")
    for made in ROOT.glob(f"build/native-*/dynams_kernels._cuda/{name}"):
        report = made.with_name(f"{name}.log")
        plan = made.with_name("build.ninja").read_text().partition(f"build {name}:")[2]
        targets = plan.partition("\nbuild ")[0]
        if report.is_file() and made.stat().st_mtime > newest and f"code={target} " in targets:
            return Compiled(made, report.read_text())
    return None


def compile_all(
    sources: Iterable[Path], capability: int, folder: Path
) -> dict[str, Future[Compiled]]:
    """Sources compiled side by side, by their files' names; what the build left is not compiled again."""

    def compile_one(source: Path) -> Compiled:
        left = built(source, f"sm_{capability}")
        if left is not None:
            return left
        target = folder / f"{source.stem}.fatbin"
        return Compiled(target, compile_fatbin(source, capability, target))

    with ThreadPoolExecutor(aot.cores()) as pool:
        return {source.name: pool.submit(compile_one, source) for source in sources}


# ------------------------------------------------------------------------------------ reading


def parse_ptxas(report: str) -> list[PtxasUsage]:
    """Every function in the output of `ptxas -v`, and under one name for each architecture it was compiled for."""
    pattern = re.compile(
        r"Function properties for (?P<name>\S+)\s*\n"
        r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
        r"(?:\s*\nptxas info\s*: Used (?P<registers>\d+) registers)?"
    )
    return [
        PtxasUsage(
            found["name"],
            int(found["registers"] or 0),
            int(found["stack"]),
            int(found["stores"]),
            int(found["loads"]),
        )
        for found in pattern.finditer(report)
    ]


def readable(names: list[str]) -> dict[str, str]:
    """The names as C++ writes them, where a demangler is at hand; else as they are."""
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None or not names:
        return {name: name for name in names}
    done = subprocess.run(
        [tool], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def installed_module() -> Path | None:
    """The file of the installed CUDA module, found without importing it."""
    import dynams_kernels

    found = PathFinder.find_spec("dynams_kernels._cuda", dynams_kernels.__path__)
    return Path(found.origin) if found is not None and found.origin else None


def read_binary(path: Path) -> Binary:
    """Every function of the device code in a file (a fat binary, or a module that holds some), by architecture.

    The linker leaves an image with no function in it, of nvcc's default architecture: that one is not told.
    """
    usages = _by_architecture(aot.run_cuobjdump("-res-usage", path))
    code = _by_architecture(aot.run_cuobjdump("-sass", path))
    if set(usages) != set(code):
        raise RuntimeError(f"cuobjdump: resources of {set(usages)}, code of {set(code)}")
    binary: Binary = {}
    for architecture, text in usages.items():
        usage = aot.parse_resource_usage(text)
        functions = aot.functions_of(code[architecture])
        if functions:
            binary[architecture] = {
                name: Machine(usage[name], opcodes) for name, opcodes in functions.items()
            }
    return binary


def _by_architecture(text: str) -> dict[str, str]:
    """The parts of cuobjdump's output, joined by architecture; parts of PTX, which have no code, hold nothing to find."""
    _, *parts = re.split(r"^arch = (sm_\w+)$", text, flags=re.MULTILINE)
    joined: defaultdict[str, str] = defaultdict(str)
    for architecture, part in zip(parts[::2], parts[1::2], strict=True):
        joined[architecture] += part
    return dict(joined)
