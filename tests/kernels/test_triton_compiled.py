"""Every Triton kernel that ships compiles for each GPU architecture and keeps its promises there. No GPU is needed.

The promises: no register is spilled, shared memory fits, tensor cores and wide loads are used where the kernel is built on them. Machine code
is read for sm_90, intermediate code for the others.
"""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any

import pytest

import aot

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)

MODULES = (
    "dynams_kernels._triton.row_scores",
    "dynams_kernels._triton.smallest_k",
    "dynams_kernels._triton.linear",
)
ARCHITECTURES = (80, 90, 100)


def _kernels(module: str) -> list[Any]:
    return list(importlib.import_module(module).shipped())


def _jobs() -> list[Any]:
    return [
        pytest.param(
            (module, kernel.name, capability),
            id=f"{module.rpartition('.')[2]}: {kernel.name}-sm_{capability}",
        )
        for module in MODULES
        for kernel in _kernels(module)
        for capability in getattr(kernel, "architectures", ARCHITECTURES)
    ]


@pytest.mark.parametrize("job", _jobs())
def test_it_keeps_its_promises(job: aot.Job, compiled: aot.Compilations) -> None:
    module, name, capability = job
    facts = compiled[job]
    assert aot.violations(aot.shipped_kernel(module, name), facts, capability) == [], facts


@pytest.mark.parametrize("module", MODULES)
def test_every_shipped_kernel_has_a_name_of_its_own(module: str) -> None:
    names = [kernel.name for kernel in _kernels(module)]
    assert names
    assert len(names) == len(set(names))
