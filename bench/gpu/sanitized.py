"""Every operation on small shapes that take every path, for compute-sanitizer, under which a kernel runs a hundred times slower.

python bench/gpu/sanitized.py                compares every result with plain torch's; exit code 1 where one is wrong
python bench/gpu/sanitized.py --unchecked    runs ours alone: under the tools torch's sorts would take most of the time

Each case is named before it runs, so that a report or a cut-off run tells where it stood. Run it with PYTORCH_NO_CUDA_MEMORY_CACHING=1: within one
cached block of memory an access out of bounds is none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from dynams_kernels._backends import eager
from dynams_kernels._kinds import BIT, LABELLED_KINDS, SCORE_KINDS, mask_of
from gpu.backends import gpu_backends

Case = tuple[str, Callable[[Any], Any]]

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
# A thread, a warp, a block, several blocks a row; none a multiple of a vector.
CLASSES = (2, 10, 33, 1000, 5003, 70_001)
COUNTS = (1, 31, 1025, 20_001, 300_007)


def row_cases() -> Iterator[Case]:
    """Row scores: each path alone, all kinds together, and rows that start anywhere."""
    for classes in CLASSES:
        for dtype in DTYPES:
            logits = torch.randn(5, classes + 1, device="cuda").to(dtype)[:, 1:]
            labels = torch.randint(classes, (5,), device="cuda")
            for mask in (BIT["gap"], mask_of(SCORE_KINDS)):
                used = labels if mask != BIT["gap"] else None
                yield (
                    f"row_scores {classes} {dtype} kinds {mask}",
                    lambda b, x=logits, y=used, m=mask: b.row_scores(x, y, None, m),
                )
    logits = torch.randn(7, 33, device="cuda")
    points = torch.randn(33, 4, device="cuda")
    distances = torch.cdist(points, points)
    yield (
        "row_scores distance",
        lambda b: b.row_scores(logits, None, distances, BIT["distance"]),
    )


def selection_cases() -> Iterator[Case]:
    """Selections: one block, several, and ties across them."""
    for count in COUNTS:
        values = torch.randn(count, device="cuda")
        ties = values.mul(2).round()
        for name, keys in (("random", values), ("ties", ties), ("half", ties.bfloat16())):
            for k in sorted({1, count // 2, count}):
                if k:
                    yield (
                        f"smallest_k {k} of {count} {name}",
                        lambda b, v=keys, n=k: b.smallest_k(v, n, False),
                    )


def linear_cases() -> Iterator[Case]:
    """Linear scores: skinny, ordinary and split classes, each kind, slim and ragged widths."""
    for batch, width, classes in ((70, 40, 10), (133, 72, 100), (130, 65, 301), (3, 48, 20_011)):
        for dtype in (torch.float32, torch.bfloat16):
            features = torch.randn(batch, width, device="cuda").to(dtype)
            weight = torch.randn(classes, width + 3, device="cuda").mul(width**-0.5)
            weight = weight.to(dtype)[:, :width]
            bias = torch.randn(classes, device="cuda").to(dtype)
            labels = torch.randint(classes, (batch,), device="cuda")
            for kind in ("gap", "probability", "label"):
                used = labels if kind in LABELLED_KINDS else None
                yield (
                    f"linear_row_scores {batch}x{width}-{classes} {dtype} {kind}",
                    lambda b, f=features, w=weight, v=bias, y=used, m=BIT[kind]: (
                        b.linear_row_scores(f, w, v, y, None, m, True)[0]
                    ),
                )
            yield (
                f"linear_width_scores {batch}x{width}-{classes} {dtype}",
                lambda b, f=features, w=weight, n=width: b.linear_width_scores(
                    f, w, None, None, [n // 3, n // 2, n], BIT["gap"]
                ),
            )
    features, weight = torch.randn(40, 24, device="cuda"), torch.randn(50, 24, device="cuda")
    distances = torch.cdist(weight, weight)
    yield (
        "linear_row_scores distance",
        lambda b: b.linear_row_scores(
            features, weight, None, None, distances, BIT["distance"], True
        )[0],
    )


def plan() -> Iterator[tuple[str, Any, Case]]:
    """Every case, with the backend that serves it; rows and selections on both."""
    usable = gpu_backends()
    if not usable:
        raise SystemExit("no GPU backend can run here")
    for name, backend in usable.items():
        for cases in (row_cases, selection_cases):
            for case in cases():
                yield name, backend, case
    if "triton" in usable:
        for case in linear_cases():
            yield "triton", usable["triton"], case


def close(got: Any, want: Any) -> bool:
    """Equal selections; scores within what half-precision products leave."""
    if isinstance(got, tuple):
        return all(torch.equal(left, right) for left, right in zip(got, want, strict=True))
    return bool(torch.allclose(got, want, rtol=0.03, atol=0.1))


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--unchecked"]):
        print(__doc__, file=sys.stderr)
        return 2
    torch.manual_seed(0)
    wrong = 0
    for name, backend, (case, call) in plan():
        print(f"{name}: {case}", flush=True)
        got: Tensor | tuple[Tensor, ...] = call(backend)
        torch.cuda.synchronize()
        if not arguments and not close(got, call(eager)):
            wrong += 1
            print(f"WRONG: {name}: {case}", flush=True)
    print(f"sanitized.py: {wrong} wrong results", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
