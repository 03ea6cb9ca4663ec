"""What a GPU would be asked to compile: launches recorded with no GPU, each with the very types, constants and options it was made with.

`shipped()` lists what a kernel should be compiled as; here is what its callers make of it. Triton's own binder runs under a driver
that names a GPU and has none; its hook takes what would have been compiled and ends the launch.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aot

# No device of this number exists, so that nothing recorded here is found in Triton's caches of real ones.
_NO_DEVICE = -1
_GRID_LIMIT = (2**31 - 1, 65_535, 65_535)
_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion")


@dataclass(frozen=True)
class Launch:
    """One launch's kernel, as Triton would compile it. Mappings are tuples of pairs, so that equal launches are one.

    Attributes:
        module, function: where the kernel is.
        signature: the type of every argument.
        constexprs: the value of every constant argument, by its place.
        attributes: what is known of the others (divisible by 16), by their places.
        options: warps, stages and the like.
    """

    module: str
    function: str
    signature: tuple[tuple[str, str], ...]
    constexprs: tuple[tuple[Any, Any], ...]
    attributes: tuple[tuple[Any, Any], ...]
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        names = [name for name, _ in self.signature]
        constants = ", ".join(f"{names[place[0]]}={value}" for place, value in self.constexprs)
        types = ", ".join(f"{name}: {kind}" for name, kind in self.signature if kind != "constexpr")
        options = ", ".join(f"{name}={value}" for name, value in self.options if value is not None)
        return f"{self.function}({types}; {constants}; {options})"

    @property
    def divisible(self) -> tuple[str, ...]:
        """The arguments known to be multiples of 16."""
        return tuple(self.signature[place[0]][0] for place, known in self.attributes if known)


@contextmanager
def named_gpu(capability: int) -> Iterator[None]:
    """Within, Triton takes it that there is a GPU of this capability."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    class NamedGpu:
        def get_current_device(self) -> int:
            return _NO_DEVICE - capability

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, 32)

    # Its own reset looks for a GPU, and fails where there is none.
    state = dict(vars(driver))
    driver.set_active(NamedGpu())
    try:
        yield
    finally:
        vars(driver).update(state)


@contextmanager
def recorded(capability: int) -> Iterator[list[Launch]]:
    """Within, launches of Triton's kernels are noted as a GPU of this capability would compile them, and not carried out."""
    from triton import JITFunction, knobs

    launches: list[Launch] = []

    def note(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        options = json.loads(compile["specialization_data"])["options"]
        launch = Launch(
            fn.module,
            fn.name,
            tuple(compile["signature"].items()),
            tuple(compile["constants"].items()),
            tuple((place, _frozen(known)) for place, known in compile["configs"][0].items()),
            tuple((name, options[name]) for name in _OPTIONS if name in options),
        )
        if launch not in launches:
            launches.append(launch)
        return True  # compiled elsewhere: the launch ends here

    run = JITFunction.run

    def run_in_grid(self: Any, *args: Any, grid: Any, **kwargs: Any) -> Any:
        if not callable(grid) and any(
            size > limit for size, limit in zip(grid, _GRID_LIMIT, strict=False)
        ):
            raise ValueError(f"{self}: grid {grid}, limit {_GRID_LIMIT}")
        return run(self, *args, grid=grid, **kwargs)

    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = note
    JITFunction.run = run_in_grid
    try:
        with named_gpu(capability):
            yield launches
    finally:
        knobs.runtime.jit_cache_hook = before
        JITFunction.run = run


def _frozen(known: Any) -> Any:
    return tuple(_frozen(one) for one in known) if isinstance(known, list) else known


def _thawed(known: Any) -> Any:
    return [_thawed(one) for one in known] if isinstance(known, tuple) else known


def compile_launch(job: tuple[Launch, int]) -> aot.CompiledFacts:
    """Compiles a launch for a compute capability; nothing is promised of one but its limits, which need no disassembly."""
    launch, capability = job
    function = importlib.import_module(launch.module)
    for name in launch.function.split("."):
        function = getattr(function, name)
    return aot.compile_function(
        function,
        dict(launch.signature),
        dict(launch.constexprs),
        {place: _thawed(known) for place, known in launch.attributes},
        {name: value for name, value in launch.options if value is not None},
        capability,
        disassemble=False,
    )
