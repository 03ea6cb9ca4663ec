"""linear_* never hold the logits, a slim width copies no weight, repeated calls leak nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import dynams_kernels as dk

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


def test_nor_do_its_gradients() -> None:
    grown = extra_mib("""
f, w = torch.randn(65_536, 4, requires_grad=True), torch.randn(4096, 4, requires_grad=True)
def warm(): dk.linear_margin(f[:64], w).sum().backward()
def call(): dk.linear_margin(f, w).sum().backward()
""")
    assert grown < 150


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


@pytest.mark.skipif(
    dk.backends()["serves"]["cpu"] == "eager",
    reason="torch operators alone widen the logits as a whole",
)
def test_margins_of_half_precision_logits_make_no_wider_copy() -> None:
    grown = extra_mib("""
x = torch.zeros(131_072, 1000, dtype=torch.bfloat16)
x.fill_(0.5)
def warm(): dk.margin(x[:64])
def call(): return dk.margin(x)
""")
    assert grown < 125, "the logits have 250 MiB"


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
