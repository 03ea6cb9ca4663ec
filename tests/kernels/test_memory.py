"""linear_* never hold the logits, a slim width copies no weight, repeated calls leak nothing."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
from dynams_kernels._backends import eager
from dynams_kernels._kinds import BIT

pytest.importorskip("resource", reason="peak memory is read from getrusage")

# The peak resident size can only grow: each measurement has a process of its own. A warm-up call of
# the same kind first pays for whatever libraries allocate once.
PRELUDE = """
import resource, sys
import torch
import dynams_kernels as dk
torch.set_num_threads(1)
UNIT = 1 if sys.platform == "darwin" else 1024

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**20
"""


def extra_mib(code: str) -> float:
    """Growth in MiB of the peak while `call()` of the code runs; `warm()` runs before it."""
    tail = "\nwarm()\nbefore = peak()\nresult = call()\nprint(peak() - before)\n"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code + tail],
        env=env, cwd=os.path.dirname(__file__), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


@pytest.mark.parametrize(
    ("call", "dtype"),
    [
        ("dk.linear_margin(f, w, b)", "float32"),
        ("dk.linear_margin(f, w, b, kind='probability')", "bfloat16"),
        ("dk.linear_margin_topk(f, w, 1000, b, kind='label', labels=y)", "float32"),
    ],
)
def test_a_linear_margin_never_holds_a_gigabyte_of_logits(call: str, dtype: str) -> None:
    rows, classes = 65_536, 4096  # float32 logits: 1024 MiB
    grown = extra_mib(f"""
f = torch.randn({rows}, 4).to(torch.{dtype})
w, b = torch.randn({classes}, 4).to(torch.{dtype}), torch.zeros({classes}, dtype=torch.{dtype})
y = torch.zeros({rows}, dtype=torch.int64)
def warm(): dk.linear_margin(f[:64], w, b)
def call(): return {call}
""")
    assert grown < 100


@pytest.mark.parametrize(
    "score", ["dk.linear_margin(f, w)", "dk.linear_scores(f, w, ['loss'], labels=y)['loss']"]
)
def test_nor_do_its_gradients(score: str) -> None:
    grown = extra_mib(f"""
f, w = torch.randn(32_768, 4, requires_grad=True), torch.randn(4096, 4, requires_grad=True)
y = torch.zeros(32_768, dtype=torch.int64)
def of(f, y): return {score}
def warm(): of(f[:64], y[:64]).sum().backward()
def call(): of(f, y).sum().backward()
""")
    assert grown < 150  # of 512 of logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_slim_width_copies_no_weight(dtype: str) -> None:
    size = 256 if dtype == "float32" else 128
    grown = extra_mib(f"""
w = torch.zeros(65_536, 1024, dtype=torch.{dtype})
w.fill_(0.5)
f = torch.ones(4, 1024, dtype=torch.{dtype})
def warm(): dk.linear_margin(f, w[:64], width=512)
def call(): return dk.linear_margin(f, w, width=512)
""")
    assert grown < size / 4, f"the slim part of the weight has {size // 2} MiB"


def test_margins_of_half_precision_logits_make_no_wider_copy() -> None:
    if dk.backends()["serves"]["cpu"] == "eager":
        pytest.skip("torch operators alone widen the logits as a whole")
    grown = extra_mib("""
x = torch.zeros(131_072, 1000, dtype=torch.bfloat16)
x.fill_(0.5)
def warm(): dk.margin(x[:64])
def call(): return dk.margin(x)
""")
    assert grown < 125, "the logits have 250 MiB"


@pytest.mark.parametrize(
    ("rows", "classes", "dtype", "blocks"),
    [
        (8192, 128_256, torch.bfloat16, 16),  # of 131 MB; as many as read its gigabyte of weight
        (8192, 128_256, torch.float32, 32),
        (64, 1_000_000, torch.bfloat16, 1),
        (65_536, 1000, torch.bfloat16, 16),
        (3, 100_000_000, torch.float32, 3),
    ],
    ids=str,
)
def test_off_the_cpu_plain_torch_holds_blocks_that_are_worth_reading_the_weight_for(
    rows: int, classes: int, dtype: torch.dtype, blocks: int
) -> None:
    held: list[Tensor] = []

    def score(logits: Tensor, *_: object) -> Tensor:
        held.append(logits)
        return logits[:, :1].T.float()

    features, weight = (torch.empty(n, 64, dtype=dtype, device="meta") for n in (rows, classes))
    scores, _ = eager.linear_by_blocks(
        score, features, weight, None, None, None, [64], BIT["gap"], False
    )
    assert scores.shape == (1, 1, rows)
    assert len(held) == blocks
    assert max(one.nbytes for one in held) <= 128 * MIB or all(len(one) == 1 for one in held)


def test_many_calls_leak_nothing() -> None:
    grown = extra_mib("""
x, f, w = torch.randn(512, 300), torch.randn(512, 64), torch.randn(300, 64)
v = torch.randn(200_000)
def once():
    dk.margin(x); dk.scores(x, ["entropy", "gap"]); dk.linear_margin(f, w, kind="distance")
    dk.smallest_k(v, 100_000); dk.margin_topk(x, 300)
    dk.linear_margin(f, w.requires_grad_()).sum().backward()
def warm():
    for _ in range(20): once()
def call():
    for _ in range(150): once()
""")
    # One leaked result a call would be some hundred MiB.
    assert grown < 30


# ------------------------------------------------------------------------------------ on a GPU

MIB = 2**20
# What a call may allocate for a row, its results included: a constant, whatever the classes.
BYTES_A_ROW = 1024


def need_gpu_kernel(primitive: str) -> None:
    """Skips where no GPU kernel serves it. Asked in the test, not on import: a module that cannot run then fails its tests alone."""
    serves: Any = dk.backends()["serves"]
    if serves["cuda"].get(primitive, "eager") == "eager":
        pytest.skip("needs a GPU and a kernel for it: torch operators alone hold blocks of logits")


def allocated(call: Callable[[], object]) -> int:
    """Growth in bytes of the peak of the GPU's memory in a second `call()`, the result included."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def gpu_head(
    rows: int, classes: int, size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    features = torch.randn(rows, size, device="cuda", dtype=dtype)
    weight = torch.randn(classes, size, device="cuda", dtype=dtype)
    return features, weight, torch.zeros(classes, device="cuda", dtype=dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["gap", "probability", "label"])
def test_on_a_gpu_a_linear_margin_takes_memory_for_its_rows_alone(
    kind: str, dtype: torch.dtype
) -> None:
    need_gpu_kernel("linear_scores")
    rows, classes = 65_536, 4096  # logits: 1024 MiB in float32
    f, w, b = gpu_head(rows, classes, 4, dtype)
    y = torch.zeros(rows, dtype=torch.int64, device="cuda")
    more: dict[str, Any] = {"labels": y} if kind == "label" else {}
    limit = rows * BYTES_A_ROW
    assert allocated(lambda: dk.linear_margin(f, w, b, kind=kind, **more)) <= limit
    assert allocated(lambda: dk.linear_margin_topk(f, w, 1000, b, kind=kind, **more)) <= limit


@pytest.mark.gpu
def test_on_a_gpu_so_do_its_gradients() -> None:
    need_gpu_kernel("linear_scores")
    f, w, _ = gpu_head(65_536, 4096, 4, torch.float32)
    f.requires_grad_()
    w.requires_grad_()

    def call() -> list[Tensor]:
        return list(torch.autograd.grad(dk.linear_margin(f, w).sum(), [f, w]))

    assert allocated(call) <= len(f) * BYTES_A_ROW


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [512, [256, 512]], ids=str)
def test_on_a_gpu_a_slim_width_copies_no_weight(width: Any, dtype: torch.dtype) -> None:
    need_gpu_kernel("linear_scores")
    f, w, _ = gpu_head(4, 65_536, 1024, dtype)
    grown = allocated(lambda: dk.linear_margin(f, w, width=width))
    # float32 goes through logits of some rows: here those of all four, a MiB for each width.
    blocks = len(f) * len(w) * 4 * (len(width) if isinstance(width, list) else 1)
    limit = blocks + MIB // 16 if dtype == torch.float32 else MIB
    assert grown < limit, f"the slim part of the weight has {w.nbytes // 2 // MIB} MiB"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_on_a_gpu_scores_of_half_precision_logits_make_no_wider_copy(dtype: torch.dtype) -> None:
    need_gpu_kernel("row_scores")
    x = torch.full((65_536, 1000), 0.5, dtype=dtype, device="cuda")
    kinds = ("gap", "probability", "entropy", "confidence")
    assert allocated(lambda: dk.margin(x)) <= len(x) * BYTES_A_ROW // 2
    assert allocated(lambda: dk.scores(x, kinds)) <= len(x) * BYTES_A_ROW // 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_many_calls_leak_nothing() -> None:
    x, f = torch.randn(512, 300, device="cuda"), torch.randn(512, 64, device="cuda")
    w = torch.randn(300, 64, device="cuda", requires_grad=True)
    v = torch.randn(200_000, device="cuda")
    selector = dk.MarginSelector(512, device="cuda")
    every = torch.arange(512, device="cuda")

    def once() -> None:
        dk.margin(x)
        dk.scores(x, ["entropy", "gap"])
        dk.linear_margin(f, w.detach(), kind="distance")
        dk.linear_margin(f, w.detach(), width=[8, 64])
        dk.smallest_k(v, 100_000)
        dk.margin_topk(x, 300, order="value")
        selector.update(every, f[:, 0])
        selector.smallest(100)
        dk.linear_margin(f, w).sum().backward()

    def held() -> int:
        gc.collect()
        return torch.cuda.memory_allocated()

    for _ in range(20):
        once()
    before = held()
    for _ in range(150):
        once()
    assert held() <= before
