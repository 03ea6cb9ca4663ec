"""The backends and instruction sets that this machine has give the same answer, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest

# gap and label margins are one rounding and a selection has none: their bits may not differ.
# What passes through exp, a quotient or a matrix product is compared by value elsewhere.
CODE = """
import hashlib, json
import torch
try:
    import dynams_kernels as dk
except (ImportError, RuntimeError, ValueError) as error:
    print(json.dumps({"unavailable": str(error)})); raise SystemExit
from kernel_inputs import labels_for, random_logits, special_values, with_specials
torch.set_num_threads(1)

def digest(*tensors):
    h = hashlib.sha256()
    for t in tensors:
        if t.is_floating_point():
            t = torch.where(t.isnan(), torch.full_like(t, float("nan")).abs(), t)
        h.update(t.contiguous().view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return h.hexdigest()

out = {}
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    name = str(dtype)
    for classes in (2, 9, 16, 33, 100, 1000):
        x = with_specials(random_logits(257, classes, dtype, seed=classes), seed=1, share=0.01)
        y = labels_for(x)
        out[f"gap {name} {classes}"] = digest(dk.margin(x))
        out[f"label {name} {classes}"] = digest(dk.margin(x, kind="label", labels=y))
        got = dk.scores(x, ["label", "gap", "loss"], labels=y)
        out[f"scores {name} {classes}"] = digest(got["gap"], got["label"])
        for order in ("index", "value"):
            out[f"topk {name} {classes} {order}"] = digest(*dk.margin_topk(x, 150, order=order))
    for size in (0, 1, 70, 5000, 200_003):
        v = with_specials(random_logits(1, size, dtype, seed=size)[0], seed=2)
        v = torch.where(torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.4, v.round(), v)
        for k in sorted({0, min(1, size), size // 3, size * 6 // 10, size}):
            for order in ("index", "value"):
                got = dk.smallest_k(v, k, order=order)
                out[f"smallest {name} {size} {k} {order}"] = digest(*got)
                out[f"payload {name} {size} {k} {order}"] = hashlib.sha256(
                    got.values.view(torch.uint8).numpy().tobytes() if k else b"").hexdigest()
print(json.dumps(out))
"""

CONFIGURATIONS = [
    ("eager", None),
    ("native", "baseline"),
    ("native", "avx2"),
    ("native", "avx512"),
    ("auto", None),
]


@cache
def digests(backend: str, isa: str | None) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("DYNAMS_KERNELS_")}
    env["DYNAMS_KERNELS_BACKEND"] = backend
    env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    if isa is not None:
        env["DYNAMS_KERNELS_ISA"] = isa
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=env,
        cwd=os.path.dirname(__file__),  # not the source tree, whose package has no compiled module
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return out


@pytest.mark.parametrize(("backend", "isa"), CONFIGURATIONS[1:])
def test_backends_agree_bit_for_bit(backend: str, isa: str | None) -> None:
    want, got = digests("eager", None), digests(backend, isa)
    assert "unavailable" not in want
    if "unavailable" in got:
        pytest.skip(got["unavailable"])
    assert len(want) > 200
    assert {name for name in want if got[name] != want[name]} == set()


def test_auto_is_always_available() -> None:
    assert "unavailable" not in digests("auto", None)
