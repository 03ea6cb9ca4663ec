"""Triton kernels compiled ahead of time for a GPU that need not be there, and what their machine code says about them.

A kernel is compiled as its module's `shipped()` lists it. What is then read from the result are facts of the compiled code: registers,
local memory (where a kernel that runs out of registers spills), shared memory, and the instructions themselves.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# The most shared memory that a block may ask for, by compute capability (CUDA programming guide, "Technical specifications").
SHARED_MEMORY_LIMIT = {
    80: 163 * 1024,
    86: 99 * 1024,
    89: 99 * 1024,
    90: 227 * 1024,
    100: 227 * 1024,
    120: 99 * 1024,
}
# Where machine code is read; elsewhere spills, shared memory and intermediate code tell as much in a sixtieth of the time.
DISASSEMBLED = 90


@dataclass(frozen=True)
class CompiledFacts:
    """What the machine code of one kernel says.

    Attributes:
        registers: of a thread.
        stack: bytes of local memory of a thread's frame; spilled registers live there.
        local_accesses: instructions that read or write local memory.
        shared: bytes of shared memory that a launch asks for.
        ptx: the intermediate code.
        opcodes: how often each instruction occurs, in full ("LDG.E.128"), of every function in the binary; empty where it was
            not disassembled, which takes longer than most compilations.
    """

    registers: int
    stack: int
    local_accesses: int
    shared: int
    ptx: str = field(repr=False)
    opcodes: dict[str, int] = field(repr=False)

    @property
    def uses_wgmma(self) -> bool:
        """Whether the warpgroup's tensor-core instruction is issued."""
        return "wgmma.mma_async" in self.ptx and any(op.startswith("HGMMA") for op in self.opcodes)

    @property
    def serialises_wgmma(self) -> bool:
        """Whether the assembler gave up to keep several of these in flight (its C7510 and like): each waits for the one before."""
        products = sum(count for op, count in self.opcodes.items() if op.startswith("HGMMA"))
        return products > 1 and self.opcodes.get("WARPGROUP.ARRIVE", 0) >= products

    @property
    def uses_bulk_loads(self) -> bool:
        """Whether the copy engine reads whole tiles of global memory."""
        return any(op.startswith("UTMALDG") for op in self.opcodes)

    @property
    def uses_wide_loads(self) -> bool:
        """Whether global memory is read 16 bytes a thread at a time, or in bulk; in the intermediate code, if there is no other."""
        if not self.opcodes:
            return WIDE_LOAD.search(self.ptx) is not None
        return any(is_wide_load(op) for op in self.opcodes)


# The assembler keeps vectors of the intermediate code together.
WIDE_LOAD = re.compile(
    r"ld\.global\S*\.(v4\.[bfus]32|v2\.[bfus]64)|cp\.async\.cg\S* .*, 0x10[,;]|cp\.async\.bulk"
)


def is_wide_load(opcode: str) -> bool:
    """Whether an instruction reads 16 or more bytes a thread of global memory, or whole tiles (TMA)."""
    name, *modifiers = opcode.split(".")
    if name in ("LDG", "LDGSTS"):
        return "128" in modifiers or "256" in modifiers
    return name in ("UTMALDG", "UBLKCP")


# ------------------------------------------------------------------------------------ compilation


def shipped_kernel(module: str, name: str) -> Any:
    """The kernel of that name in a module's `shipped()`."""
    return next(
        kernel for kernel in importlib.import_module(module).shipped() if kernel.name == name
    )


def compile_shipped(kernel: Any, capability: int) -> CompiledFacts:
    """Compiles a `Shipped` kernel for a compute capability (90 for sm_90)."""
    names = kernel.fn.arg_names
    constants = {name for name, kind in kernel.signature.items() if kind == "constexpr"}
    if set(kernel.signature) != set(names) or constants != set(kernel.constexprs):
        raise ValueError(
            f"{kernel.name}: signature {kernel.signature} and constants {kernel.constexprs} are not those "
            f"of the arguments {names}"
        )
    return compile_function(
        kernel.fn,
        kernel.signature,
        kernel.constexprs,
        {(names.index(name),): [["tt.divisibility", 16]] for name in kernel.divisible_by_16},
        {
            "num_warps": kernel.num_warps,
            "num_stages": kernel.num_stages,
            **getattr(kernel, "options", {}),
        },
        capability,
        disassemble=capability == DISASSEMBLED or kernel.wants_bulk_loads,
    )


def compile_function(
    function: Any,
    signature: dict[str, str],
    constexprs: dict[Any, Any],
    attributes: dict[tuple[int, ...], Any],
    options: dict[str, Any],
    capability: int,
    *,
    disassemble: bool = True,
) -> CompiledFacts:
    """Compiles a jitted function as Triton's own launch would; where it is not disassembled, `opcodes` are not known."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    compiled = triton.compile(
        ASTSource(function, signature, constexprs, attributes),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    return facts_of(
        compiled.asm["cubin"], compiled.asm["ptx"], compiled.metadata.shared, disassemble
    )


def facts_of(cubin: bytes, ptx: str, shared: int, disassemble: bool = True) -> CompiledFacts:
    """What the disassembler says of a binary. Several functions in one (calls that were not inlined): the largest of each number."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = parse_resource_usage(run_cuobjdump("-res-usage", path))
        opcodes = count_opcodes(run_cuobjdump("-sass", path)) if disassemble else {}
    if not usage or (disassemble and not opcodes):
        raise RuntimeError("cuobjdump told nothing of the binary")
    return CompiledFacts(
        registers=max(entry["REG"] for entry in usage.values()),
        stack=max(entry["STACK"] + entry["LOCAL"] for entry in usage.values()),
        local_accesses=local_accesses(opcodes),
        shared=shared,
        ptx=ptx,
        opcodes=opcodes,
    )


# ------------------------------------------------------------------------------------ reading machine code


@cache
def cuobjdump() -> str | None:
    """Path of the disassembler: the one that Triton brings, else that of the CUDA toolkit on the PATH."""
    import shutil
    from importlib.util import find_spec

    found = find_spec("triton")
    for folder in (found.submodule_search_locations or []) if found else []:
        tool = Path(folder) / "backends" / "nvidia" / "bin" / "cuobjdump"
        if os.access(tool, os.X_OK):
            return str(tool)
    return shutil.which("cuobjdump")


def run_cuobjdump(option: str, binary: Path) -> str:
    """What cuobjdump prints of a binary."""
    tool = cuobjdump()
    if tool is None:
        raise FileNotFoundError("no cuobjdump: neither Triton's nor the CUDA toolkit's")
    done = subprocess.run([tool, option, str(binary)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"cuobjdump {option}: {done.stderr.strip()}")
    return done.stdout


def parse_resource_usage(text: str) -> dict[str, dict[str, int]]:
    """Each function's numbers in the output of `cuobjdump -res-usage`."""
    found = re.findall(r"^ *Function (\S+):\s*\n\s*(\S.*)$", text, re.MULTILINE)
    return {
        name: {key: int(value) for key, value in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", numbers)}
        for name, numbers in found
    }


def count_opcodes(sass: str) -> dict[str, int]:
    """How often each instruction occurs in the output of `cuobjdump -sass`."""
    instruction = r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.a-z]*)"
    return dict(Counter(re.findall(instruction, sass, re.MULTILINE)))


def functions_of(sass: str) -> dict[str, dict[str, int]]:
    """The instructions of each function in the output of `cuobjdump -sass`."""
    _, *parts = re.split(r"^\s*Function : (\S+)\s*$", sass, flags=re.MULTILINE)
    return {name: count_opcodes(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def local_accesses(opcodes: dict[str, int]) -> int:
    """Instructions that touch local memory: where registers are spilled, or an array is indexed by a variable."""
    return sum(count for op, count in opcodes.items() if op.split(".")[0] in ("LDL", "STL"))


# ------------------------------------------------------------------------------------ the promises


def broken_limits(facts: CompiledFacts, capability: int) -> list[str]:
    """What a kernel compiled for a capability does that none of ours may."""
    found = []
    if facts.stack:
        found.append(f"{facts.stack} bytes of local memory a thread (registers spilled)")
    if facts.local_accesses:
        found.append(f"{facts.local_accesses} instructions on local memory")
    if facts.shared > SHARED_MEMORY_LIMIT[capability]:
        found.append(
            f"{facts.shared} bytes of shared memory, limit {SHARED_MEMORY_LIMIT[capability]}"
        )
    return found


def violations(kernel: Any, facts: CompiledFacts, capability: int) -> list[str]:
    """The same, and what a shipped kernel lacks that it promised."""
    found = broken_limits(facts, capability)
    if kernel.wants_wgmma and capability == 90 and not facts.uses_wgmma:
        found.append("no wgmma")
    if facts.serialises_wgmma:
        found.append("wgmma serialised")
    if kernel.wants_bulk_loads and not facts.uses_bulk_loads:
        found.append("no TMA load")
    if kernel.wants_wide_loads and not facts.uses_wide_loads:
        found.append("no 16-byte load of global memory")
    return found


# ------------------------------------------------------------------------------------ many at once


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


Job = tuple[str, str, int]  # module, kernel's name, compute capability


def compile_job(job: Job) -> CompiledFacts:
    """Compiles one kernel that a module ships."""
    module, name, capability = job
    return compile_shipped(shipped_kernel(module, name), capability)


class Compilations:
    """Jobs compiled side by side, each once, in processes of their own (a compilation holds the interpreter's lock).

    Args:
        compile_one: compiles a job; a function of a module, as another process must find it.
        jobs: hashable; those that are equal are one.
    """

    def __init__(
        self, compile_one: Callable[[Any], CompiledFacts], jobs: Iterable[Hashable]
    ) -> None:
        jobs = list(dict.fromkeys(jobs))
        # Spawned, as a fork of a process with torch's threads may hang.
        self._pool = ProcessPoolExecutor(
            max(1, min(cores(), len(jobs))), mp_context=get_context("spawn")
        )
        self._futures: dict[Hashable, Future[CompiledFacts]] = {
            job: self._pool.submit(compile_one, job) for job in jobs
        }

    def __getitem__(self, job: Hashable) -> CompiledFacts:
        return self._futures[job].result()

    def close(self) -> None:
        """Drops what was not started."""
        self._pool.shutdown(cancel_futures=True)
