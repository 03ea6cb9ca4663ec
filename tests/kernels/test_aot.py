"""The checker of compiled kernels notices every broken promise, and reads the disassembler's output right."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

import aot

SAMPLES = "aot_samples"

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1",
    reason="Triton is not installed, or interprets its kernels",
)


def _sample(name: str, capability: int) -> Any:
    return pytest.param((SAMPLES, name, capability), id=f"{name}-sm_{capability}")


@needs_triton
@pytest.mark.parametrize("job", [_sample("wide", 80), _sample("wgmma", 90), _sample("wgmma", 100)])
def test_a_kernel_that_keeps_its_promises_is_found_to(
    job: aot.Job, compiled: aot.Compilations
) -> None:
    module, name, capability = job
    facts = compiled[job]
    assert aot.violations(aot.shipped_kernel(module, name), facts, capability) == []
    assert 8 <= facts.registers <= 255
    assert facts.uses_wide_loads
    assert ".visible .entry" in facts.ptx
    assert bool(facts.opcodes) == (capability == aot.DISASSEMBLED)
    assert not facts.opcodes or facts.opcodes["EXIT"] >= 1


@needs_triton
@pytest.mark.parametrize(
    ("job", "broken"),
    [
        pytest.param((SAMPLES, "spills", 90), "local memory a thread", id="spills"),
        pytest.param((SAMPLES, "spills", 80), "local memory a thread", id="spills, not read"),
        pytest.param((SAMPLES, "narrow", 90), "no 16-byte load", id="narrow loads"),
        pytest.param((SAMPLES, "narrow", 80), "no 16-byte load", id="narrow in intermediate code"),
        pytest.param((SAMPLES, "no wgmma", 90), "no wgmma", id="no wgmma"),
        pytest.param((SAMPLES, "no bulk loads", 90), "no TMA load", id="no bulk loads"),
        pytest.param((SAMPLES, "too much shared memory", 90), "shared memory, limit", id="shared"),
    ],
)
def test_a_broken_promise_is_noticed(job: aot.Job, broken: str, compiled: aot.Compilations) -> None:
    module, name, capability = job
    found = aot.violations(aot.shipped_kernel(module, name), compiled[job], capability)
    assert any(broken in violation for violation in found), found


@needs_triton
def test_a_signature_that_is_not_the_functions_is_refused() -> None:
    kernel = aot.shipped_kernel(SAMPLES, "wide")
    with pytest.raises(ValueError, match="are not those of the arguments"):
        aot.compile_shipped(replace(kernel, constexprs={}), 80)


# ------------------------------------------------------------------------------------ reading the disassembler

RESOURCE_USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function spilling:
  REG:255 STACK:128 SHARED:0 LOCAL:8 CONSTANT[0]:384 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function other$1:
  REG:24 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:400 CONSTANT[2]:8 TEXTURE:0 SURFACE:0 SAMPLER:0
"""

SASS = """
\t\tFunction : first
\t.headerflags\t@"EF_CUDA_TEXMODE_UNIFIED EF_CUDA_64BIT_ADDRESS EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                 /* 0x00000a00ff017b82 */
                                                                          /* 0x000fe20000000800 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/             @!UP1 UIADD3 UR4, UR4, 0x1, URZ ;
        /*0030*/                   STL.64 [R1], R4 ;
\t\tFunction : second
        /*0000*/               @P1 LDG.E.U16 R4, desc[UR4][R2.64] ;
        /*0010*/                   EXIT ;
"""


def test_resource_usage_is_read_by_function() -> None:
    usage = aot.parse_resource_usage(RESOURCE_USAGE)
    assert list(usage) == ["spilling", "other$1"]
    assert (usage["spilling"]["REG"], usage["spilling"]["STACK"]) == (255, 128)
    assert (usage["spilling"]["LOCAL"], usage["other$1"]["SHARED"]) == (8, 1024)


def test_instructions_are_counted_by_function() -> None:
    functions = aot.functions_of(SASS)
    assert functions == {
        "first": {"LDC": 1, "LDG.E.128.CONSTANT": 1, "UIADD3": 1, "STL.64": 1},
        "second": {"LDG.E.U16": 1, "EXIT": 1},
    }
    assert aot.local_accesses(functions["first"]) == 1
    assert aot.local_accesses(functions["second"]) == 0


@pytest.mark.parametrize(
    ("opcode", "wide"),
    [
        ("LDG.E.128", True),
        ("LDG.E.128.CONSTANT", True),
        ("LDGSTS.E.BYPASS.LTC128B.128", True),
        ("LDG.E.ENL2.256", True),
        ("UTMALDG.2D", True),
        ("LDG.E.64", False),
        ("LDGSTS.E.LTC128B", False),
        ("LDS.128", False),
        ("STG.E.128", False),
    ],
)
def test_wide_loads_of_global_memory_are_told_from_others(opcode: str, wide: bool) -> None:
    assert aot.is_wide_load(opcode) is wide


@pytest.mark.parametrize(
    ("opcodes", "serialised"),
    [
        ({"HGMMA.64x128x16.F32.BF16": 8, "WARPGROUP.ARRIVE": 1, "WARPGROUP.DEPBAR.LE": 2}, False),
        ({"HGMMA.64x128x16.F32.BF16": 8, "WARPGROUP.ARRIVE": 8, "WARPGROUP.DEPBAR.LE": 8}, True),
        ({"HGMMA.64x16x8.F32.TF32": 1, "WARPGROUP.ARRIVE": 1}, False),
        ({"HMMA.16816.F32": 8}, False),
    ],
)
def test_products_that_wait_for_each_other_are_noticed(
    opcodes: dict[str, int], serialised: bool
) -> None:
    facts = aot.CompiledFacts(32, 0, 0, 0, "", opcodes)
    assert facts.serialises_wgmma is serialised
