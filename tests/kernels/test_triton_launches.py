"""Every launch a GPU would see compiles for it: the callers' own shapes, types and options, bound by Triton itself, with no GPU.

An interpreted kernel never meets the compiler, and a shipped one is compiled as its list says; here is what calls really make of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import aot
import launches
from dynams_kernels._kinds import BIT, KINDS, mask_of

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)

import aot_samples
from dynams_kernels import _device
from dynams_kernels._triton import linear, row_scores, smallest_k

CAPABILITY, MULTIPROCESSORS = 90, 132
FP32, FP16, BF16, FP64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
ALL = mask_of(KINDS)


class OnGpu(Tensor):
    """A tensor that says it is on a GPU, as callers ask."""

    is_cuda = True


def tensor(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    """Of any size, at address 0: there is no memory behind it."""
    return torch.empty(shape, dtype=dtype, device="meta").as_subclass(OnGpu)


def unaligned(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(rows, columns + 1, dtype=dtype)[:, 1:]


def ask_rows(logits: Tensor, kinds: int) -> Callable[[], object]:
    classes = logits.shape[1]
    labels = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    apart = torch.empty(classes, classes, device=logits.device)
    return lambda: row_scores.row_scores(
        logits, labels, apart if kinds & BIT["distance"] else None, kinds
    )


def ask_linear(
    batch: int,
    depth: int,
    classes: int,
    dtype: torch.dtype,
    kinds: str = "gap",
    *,
    bias: bool = False,
    pairs: bool = False,
    width: int | None = None,
    loads: Literal["pointers", "descriptors"] = "pointers",
) -> Callable[[], object]:
    width = depth if width is None else width
    features, weight = (tensor(rows, depth, dtype=dtype)[:, :width] for rows in (batch, classes))
    mask = mask_of(kinds.split("+"))
    return lambda: linear.linear_scores(
        features,
        weight,
        tensor(classes, dtype=dtype) if bias else None,
        tensor(batch, dtype=torch.int64),
        tensor(classes, classes) if mask & BIT["distance"] else None,
        [width],
        mask,
        pairs,
        loads=loads,
    )


def ask_widths(depth: int, classes: int, dtype: torch.dtype, kinds: str) -> Callable[[], object]:
    features, weight = tensor(4096, depth, dtype=dtype), tensor(classes, depth, dtype=dtype)
    labels = tensor(4096, dtype=torch.int64)
    widths = [depth // 4, depth // 2, depth]
    mask = mask_of(kinds.split("+"))
    return lambda: linear.linear_scores(features, weight, None, labels, None, widths, mask, False)


EVERY = "+".join(KINDS)
SCORES = "+".join(kind for kind in KINDS if kind != "distance")
CALLS: dict[str, Callable[[], object]] = {
    "row scores, one row": ask_rows(tensor(1, 10), ALL),
    "row scores, two classes": ask_rows(tensor(65536, 2, dtype=BF16), BIT["gap"]),
    "row scores, ragged": ask_rows(tensor(517, 33, dtype=FP16), ALL),
    "row scores, 1000 classes": ask_rows(tensor(65536, 1000, dtype=BF16), BIT["gap"]),
    "row scores, 1000 classes, fp64": ask_rows(tensor(65536, 1000, dtype=FP64), ALL),
    "row scores, 1001 classes": ask_rows(tensor(65536, 1001, dtype=FP16), ALL),
    "row scores, unaligned": ask_rows(unaligned(33, 1000, FP32), ALL),
    "row scores, expanded": ask_rows(tensor(1, 1000).expand(4096, 1000), BIT["entropy"]),
    "row scores, few long rows": ask_rows(tensor(3, 128_256, dtype=BF16), ALL),
    "row scores, few long rows, gap": ask_rows(tensor(3, 128_256), BIT["gap"]),
    "row scores, over 2^31 logits": ask_rows(tensor(3_000_000, 1000, dtype=BF16), BIT["loss"]),
    "row scores, over 2^31 rows": ask_rows(tensor(3_000_000_000, 2, dtype=BF16), BIT["gap"]),
    "linear, one row": ask_linear(1, 64, 10, BF16),
    "linear, skinny head": ask_linear(65536, 1024, 10, BF16),
    "linear, 100 classes": ask_linear(65536, 512, 100, FP16, "probability", bias=True),
    "linear, 1000 classes": ask_linear(65536, 1024, 1000, BF16),
    "linear, 1000 classes, fp32": ask_linear(65536, 1024, 1000, FP32, "label", bias=True),
    "linear, ragged": ask_linear(517, 37, 33, FP16, "distance", pairs=True),
    "linear, pairs": ask_linear(4096, 768, 1000, BF16, "label", pairs=True, bias=True),
    "linear, width": ask_linear(4096, 1024, 1000, BF16, width=100),
    "linear, language model": ask_linear(8192, 4096, 128_256, BF16),
    "linear, language model, few rows": ask_linear(8, 4096, 128_256, BF16, "probability"),
    "linear, loss of a language model": ask_linear(8192, 4096, 128_256, BF16, "loss"),
    "linear, training of a language model": ask_linear(
        8192, 4096, 128_256, BF16, "gap+loss+entropy"
    ),
    "linear, training": ask_linear(4096, 1024, 1000, BF16, "gap+loss+entropy"),
    "linear, every kind": ask_linear(65536, 1024, 1000, BF16, EVERY, bias=True),
    "linear, every kind, few classes": ask_linear(65536, 512, 100, FP16, EVERY),
    "linear, every kind, fp32": ask_linear(4096, 768, 1000, FP32, EVERY, bias=True),
    "described, 1000 classes": ask_linear(65536, 1024, 1000, BF16, bias=True, loads="descriptors"),
    "described, training of a language model": ask_linear(
        8192, 4096, 128_256, BF16, "gap+loss+entropy", loads="descriptors"
    ),
    "widths, every kind": ask_widths(1024, 1000, BF16, SCORES),
    "widths, loss, fp32": ask_widths(512, 100, FP32, "loss"),
    "widths, gap": ask_widths(512, 10, BF16, "gap"),
    "widths, probability": ask_widths(1024, 1000, BF16, "probability"),
    "widths, gap, fp32": ask_widths(512, 100, FP32, "gap"),
    "widths, label": ask_widths(512, 100, FP32, "label"),
    "smallest, one": lambda: smallest_k.smallest_k(tensor(1), 1),
    "smallest, few": lambda: smallest_k.smallest_k(tensor(1000), 600),
    "smallest, ImageNet": lambda: smallest_k.smallest_k(tensor(1_281_167), 768_700),
    "smallest, bf16": lambda: smallest_k.smallest_k(tensor(1_281_167, dtype=BF16), 1000),
    "smallest, fp16": lambda: smallest_k.smallest_k(tensor(50_000, dtype=FP16), 30_000),
    "smallest, fp64": lambda: smallest_k.smallest_k(tensor(1_281_167, dtype=FP64), 768_700),
    "smallest, over 2^31": lambda: smallest_k.smallest_k(tensor(3_000_000_000), 1_800_000_000),
}

Launched = dict[str, "list[launches.Launch] | Exception"]


def _record(name: str, patch: pytest.MonkeyPatch) -> list[launches.Launch] | Exception:
    patch.setattr(_device, "multiprocessors", lambda _: MULTIPROCESSORS)
    patch.setattr(_device, "capability", lambda _: divmod(CAPABILITY, 10))
    try:
        with launches.recorded(CAPABILITY) as made:
            CALLS[name]()
    except Exception as error:
        return error
    return made


@pytest.fixture(scope="module")
def launched(request: pytest.FixtureRequest) -> Iterator[tuple[Launched, aot.Compilations]]:
    """The launches of every call that the tests about to run make, all compiled side by side; a call's own error for its test."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    names = {call.params["call"] for call in calls if call is not None and "call" in call.params}
    with pytest.MonkeyPatch.context() as patch:
        made = {name: _record(name, patch) for name in CALLS if name in names}
    jobs = [
        (one, CAPABILITY)
        for found in made.values()
        if not isinstance(found, Exception)
        for one in found
    ]
    compilations = aot.Compilations(launches.compile_launch, jobs)
    yield made, compilations
    compilations.close()


@pytest.mark.parametrize("call", CALLS)
def test_it_compiles_without_spills(call: str, launched: tuple[Launched, aot.Compilations]) -> None:
    made, compiled = launched
    found = made[call]
    if isinstance(found, Exception):
        raise found
    assert found, "nothing was launched"
    broken = [
        f"{one}: {', '.join(wrong)}"
        for one in found
        if (wrong := aot.broken_limits(compiled[one, CAPABILITY], CAPABILITY))
    ]
    assert not broken, "\n".join(broken)


# Calls of shapes that `shipped()` stands for: what they launch must be on its list, to the last type and constant.
STOOD_FOR = (
    "row scores, 1000 classes",
    "row scores, 1000 classes, fp64",
    "linear, skinny head",
    "linear, language model",
    "linear, loss of a language model",
    "linear, training of a language model",
    "linear, training",
    "described, 1000 classes",
    "described, training of a language model",
    "smallest, ImageNet",
    "smallest, bf16",
)


def _as_shipped(kernel: Any) -> tuple[Any, ...]:
    places = kernel.fn.arg_names.index
    constants = {(places(name),): value for name, value in kernel.constexprs.items()}
    given = getattr(kernel, "options", {})
    options = given.get("enable_fp_fusion", True), given.get("maxnreg")
    sizes = kernel.num_warps, kernel.num_stages
    return kernel.fn.__name__, tuple(kernel.signature.items()), constants, (*sizes, *options)


def _as_launched(one: launches.Launch) -> tuple[Any, ...]:
    options = dict(one.options)
    names = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")
    wanted = tuple(options[name] for name in names)
    return one.function, one.signature, dict(one.constexprs), wanted


@pytest.mark.parametrize("name", STOOD_FOR)
def test_shipped_lists_what_calls_launch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _record(name, monkeypatch)
    if isinstance(found, Exception):
        raise found
    shipped = [
        _as_shipped(kernel)
        for module in (row_scores, smallest_k, linear)
        for kernel in module.shipped()
    ]
    assert found
    assert [str(one) for one in found if _as_launched(one) not in shipped] == []


# ------------------------------------------------------------------------------------ the recorder itself


def test_a_launch_is_recorded_as_it_was_made() -> None:
    source = torch.empty(64)
    with launches.recorded(80) as made:
        for _ in range(2):
            aot_samples.copy_rows[(3,)](source, source[1:], 1024, columns=64, num_warps=2)
    (one,) = made
    assert (one.module, one.function) == ("aot_samples", "copy_rows")
    assert dict(one.signature) == {
        "source": "*fp32",
        "target": "*fp32",
        "stride": "i32",
        "columns": "constexpr",
    }
    assert one.constexprs == (((3,), 64),)
    assert one.divisible == ("source", "stride")
    assert dict(one.options)["num_warps"] == 2


def test_a_call_that_a_launch_would_refuse_is_an_error() -> None:
    source = torch.empty(64)
    with launches.recorded(80) as made:
        with pytest.raises(TypeError, match="columns"):
            aot_samples.copy_rows[(3,)](source, source, 64)
        with pytest.raises(ValueError, match="limit"):
            aot_samples.copy_rows[(3, 70_000)](source, source, 64, columns=64)
    assert made == []
