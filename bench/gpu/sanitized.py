"""Every operation on shapes that take every path, on every GPU backend: compared with plain torch, or under compute-sanitizer.

python bench/gpu/sanitized.py [--unchecked] [--part I/N] [--only PREFIX]...

Every result is compared with plain torch's on the same device. --unchecked runs ours alone and leaves the large shapes out: under
a sanitizer a kernel runs a hundred times slower, and torch's sorts would take most of the time. --part takes every N-th case, so
that N processes share the compilation of Triton's kernels; --only the cases whose names begin so, of any size.

Each case is named before it runs and its outcome goes to the ledger (ledger.py); those that an earlier process of the suite began are not
begun again. A case that is wrong or raises does not stop the others, unless the device is beyond use (exit code 70) or the case
hangs. Exit code 3 where one was wrong. Under a sanitizer run it with PYTORCH_NO_CUDA_MEMORY_CACHING=1: within one cached block
of memory an access out of bounds is none.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from dynams_kernels._backends import eager, registry
from dynams_kernels._kinds import BIT, LABELLED_KINDS, SCORE_KINDS, mask_of
from gpu import candidates, ledger
from gpu.backends import gpu_backends
from gpu.device_guard import DEAD_DEVICE, device_is_dead

# A compilation, a launch and a comparison take a few seconds; what takes so long hangs.
SECONDS_A_CASE = 40.0
# The same of kernels that need no compilation; of many that hang each costs its process so long.
SECONDS_COMPILED = 10.0
WRONG = 3  # the exit code; 1 is what a process ends with that died or hung

WITHOUT_DISTANCES = tuple(kind for kind in SCORE_KINDS if kind != "distance")
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
# A thread, a warp, a block, several blocks a row; none a multiple of a vector.
CLASSES = (2, 10, 33, 1000, 5003, 70_001)
COUNTS = (1, 31, 1025, 20_001, 300_007)
# Slices of more than 48 KB of shared memory on any GPU with up to 170 multiprocessors, and slices that no block can hold.
LARGE_COUNTS = (1_280_000, 3_000_000, 8_000_000)

Results = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """A call of a backend, and the same answer from plain torch. `inputs` makes both's arguments when the case runs."""

    name: str
    inputs: Callable[[], tuple[Any, ...]]
    call: Callable[..., Results]  # of the backend and the inputs
    want: Callable[..., Results]  # of the inputs
    tolerance: float = 0.0  # 0: the same bits
    large: bool = False


def row_cases() -> Iterator[Case]:
    """Row scores: each path alone, all kinds together, and rows that start anywhere."""

    def inputs(classes: int, dtype: torch.dtype, mask: int) -> tuple[Any, ...]:
        logits = torch.randn(5, classes + 1, device="cuda").to(dtype)[:, 1:]
        labels = torch.randint(classes, (5,), device="cuda") if mask != BIT["gap"] else None
        return logits, labels, None, mask

    def distance() -> tuple[Any, ...]:
        points = torch.randn(33, 4, device="cuda")
        logits = torch.randn(7, 33, device="cuda")
        return logits, None, torch.cdist(points, points), BIT["distance"]

    def call(backend: Any, *arguments: Any) -> Results:
        return (backend.row_scores(*arguments),)

    def want(*arguments: Any) -> Results:
        return (eager.row_scores(*arguments),)

    for classes in CLASSES:
        for dtype in DTYPES:
            for mask in (BIT["gap"], mask_of(WITHOUT_DISTANCES)):
                yield Case(
                    f"row_scores {classes} {dtype} kinds {mask}",
                    lambda c=classes, d=dtype, m=mask: inputs(c, d, m),
                    call,
                    want,
                    tolerance=1e-3,
                )
    yield Case("row_scores distance", distance, call, want, tolerance=1e-3)


def keys(count: int, name: str) -> Tensor:
    """Values to select from."""
    values = torch.randn(count, device="cuda")
    if name == "random":
        return values
    ties = values.mul(2).round()
    return ties if name == "ties" else ties.bfloat16()


def sorted_first(values: Tensor, k: int) -> Tensor:
    """The indices of the k smallest, ascending, by a stable sort; adding 0 makes one zero of two."""
    return torch.sort(values + 0.0, stable=True).indices[:k].sort().values


def select(backend: Any, values: Tensor, k: int) -> Results:
    """The selection, and the same as a mask where the backend has one."""
    found: Results = backend.smallest_k(values, k, False)
    return (
        (*found, backend.smallest_mask(values, k)) if hasattr(backend, "smallest_mask") else found
    )


def selected(values: Tensor, k: int) -> Results:
    """The same by a sort."""
    first = sorted_first(values, k)
    mask = torch.zeros(values.shape[0], dtype=torch.bool, device=values.device)
    return values[first], first, mask.scatter(0, first, True)


def selection_cases() -> Iterator[Case]:
    """Selections: one block, several, held in shared memory or streamed, and ties across blocks."""
    for count in COUNTS + LARGE_COUNTS:
        for name in ("random", "ties", "half"):
            for k in sorted({1, 6 * count // 10, count} - {0}):
                yield Case(
                    f"smallest_k {k} of {count} {name}",
                    lambda c=count, n=name, k=k: (keys(c, n), k),
                    select,
                    selected,
                    large=count in LARGE_COUNTS,
                )


def linear_cases() -> Iterator[Case]:
    """Linear scores: skinny, ordinary and split classes, each kind, slim and ragged widths."""

    def head(batch: int, width: int, classes: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        features = torch.randn(batch, width, device="cuda").to(dtype)
        weight = torch.randn(classes, width + 3, device="cuda").mul(width**-0.5)
        bias = torch.randn(classes, device="cuda").to(dtype)
        return features, weight.to(dtype)[:, :width], bias

    def inputs(
        shape: tuple[int, int, int], dtype: torch.dtype, kinds: Sequence[str], widths: int = 1
    ) -> tuple[Any, ...]:
        batch, width, classes = shape
        labels = torch.randint(classes, (batch,), device="cuda")
        used = labels if LABELLED_KINDS.intersection(kinds) else None
        several = [width // part for part in range(widths, 0, -1)]
        pairs = kinds in (("gap",), ("label",)) and widths == 1
        return (*head(*shape, dtype), used, None, several, mask_of(kinds), pairs)

    def distance() -> tuple[Any, ...]:
        features, weight = torch.randn(40, 24, device="cuda"), torch.randn(50, 24, device="cuda")
        distances = torch.cdist(weight, weight)
        return features, weight, None, None, distances, [24], BIT["distance"], True

    def call(backend: Any, *arguments: Any) -> Results:
        return (backend.linear_scores(*arguments)[0],)

    def want(*arguments: Any) -> Results:
        return (eager.linear_scores(*arguments)[0],)

    for shape in ((70, 40, 10), (133, 72, 100), (130, 65, 301), (3, 48, 20_011)):
        said = "{}x{}-{}".format(*shape)
        for dtype in (torch.float32, torch.bfloat16):
            for kinds in (("gap",), ("label",), WITHOUT_DISTANCES):
                for widths in (1, 3):
                    yield Case(
                        f"linear_scores {said} {dtype} {'+'.join(kinds)} widths {widths}",
                        lambda s=shape, d=dtype, k=kinds, w=widths: inputs(s, d, k, w),
                        call,
                        want,
                        tolerance=0.1,  # plain torch rounds logits to half precision
                    )
    yield Case("linear_scores distance", distance, call, want, tolerance=0.1)


# Rows, width and classes of heads that every candidate can serve: 16-byte aligned, one tile or many, ragged or not; the widest is slim.
CANDIDATES_HEADS = (
    (1, 64, 300),
    (130, 256, 1000),
    (1000, 72, 257),
    (515, 1024, 1100),
    (2049, 250, 5000),
)


def candidate_head(shape: tuple[int, int, int], dtype: torch.dtype) -> candidates.Head:
    """Features, weight, bias, and labels of which every fifth is ignored; the width is the head's leading columns."""
    batch, width, classes = shape
    columns = -(-width // 64) * 64
    features = torch.randn(batch, columns, device="cuda").to(dtype)[:, :width]
    weight = torch.randn(classes, columns, device="cuda").mul(width**-0.5).to(dtype)[:, :width]
    labels = torch.randint(classes, (batch,), device="cuda")
    labels[::5] = -100
    return features, weight, torch.randn(classes, device="cuda").to(dtype), labels


def candidate_cases(name: str, kinds: Sequence[str]) -> Iterator[Case]:
    """One of the kernels that could serve a linear head, whatever the table of choices says."""

    def call(backend: Any, *arguments: Any) -> Results:
        return (backend.linear_scores(*arguments, by=name)[0],)

    def want(*arguments: Any) -> Results:
        return (eager.linear_scores(*arguments)[0],)

    def inputs(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Any, ...]:
        features, weight, bias, labels = candidate_head(shape, dtype)
        used = labels if LABELLED_KINDS.intersection(kinds) else None
        return candidates.operands((features, weight, bias, used), kinds)

    for shape in CANDIDATES_HEADS:
        for dtype in (torch.bfloat16, torch.float16):
            yield Case(
                f"linear_scores {'{}x{}-{}'.format(*shape)} {dtype} {'+'.join(kinds)}",
                lambda s=shape, d=dtype: inputs(s, d),
                call,
                want,
                tolerance=0.1,
            )


def able(kinds: Sequence[str]) -> tuple[str, ...]:
    """The candidates that can serve a head made for all of them, but those that the cases above stand for."""
    found = candidates.able(candidate_head(CANDIDATES_HEADS[1], torch.bfloat16), kinds)
    return tuple(name for name in found if name not in ("triton pointers", "eager"))


def plan(backends: dict[str, Any]) -> Iterator[tuple[str, Any, Case]]:
    """Every case by its full name, with the backend that serves it; rows and selections on each."""
    for name, backend in backends.items():
        for case in (*row_cases(), *selection_cases()):
            yield f"{name}: {case.name}", backend, case
    if "triton" in backends:
        for case in linear_cases():
            yield f"triton: {case.name}", backends["triton"], case
    # Last, as they are the likeliest to hang.
    for kinds in (("gap",), WITHOUT_DISTANCES):
        for candidate, case in (
            (name, c) for name in able(kinds) for c in candidate_cases(name, kinds)
        ):
            yield ledger.trial(candidate, case.name), registry.gpu, case


def difference(got: Results, want: Results, tolerance: float) -> str:
    """How results differ: where, or by how much; empty where they do not."""
    for place, (ours, theirs) in enumerate(
        zip(got, want, strict=False)
    ):  # not every backend has a mask
        if tolerance == 0:
            if not torch.equal(ours, theirs):
                what = ("values", "indices", "mask")[place]
                return f"{what} differ in {(ours != theirs).sum().item()} places"
        elif not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True):
            nan = int((ours.isnan() != theirs.isnan()).sum())
            worst = (ours - theirs).abs().nan_to_num(0).max().item()
            return f"off by {worst:.3g}" + (f", NaN differs in {nan} places" if nan else "")
    return ""


def run(name: str, backend: Any, case: Case, checked: bool) -> str:
    """Runs a case; what is wrong with it, or nothing."""
    try:
        torch.manual_seed(0)
        arguments = case.inputs()
        got = case.call(backend, *arguments)
        torch.cuda.synchronize()
        return difference(got, case.want(*arguments), case.tolerance) if checked else ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--unchecked", action="store_true")
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args(arguments)
    part, parts = map(int, options.part.split("/"))
    backends = gpu_backends()
    if not backends:
        raise SystemExit("no GPU backend can run here")
    cases = [
        (name, backend, case)
        for name, backend, case in plan(backends)
        if any(map(name.startswith, options.only))
        or not (options.only or (options.unchecked and case.large))
    ]
    kept = ledger.path()
    begun = set(ledger.read(kept).suite(ledger.suite()).begun) if kept else set()
    # A sanitizer is to look at just these.
    dead = ledger.dead_candidates() if ledger.suite() == ledger.CASES else frozenset()
    ledger.write_of_suite(collected=len(cases))
    wrong = 0
    for name, backend, case in cases[part - 1 :: parts]:
        if name in begun:
            continue
        if time.time() > ledger.deadline():
            print("sanitized.py: no time was left", flush=True)
            return 124
        print(name, flush=True)
        ledger.write_of_suite(begin=name)
        if name.partition(": ")[0] in dead:
            why = "a process died or hung in this kernel"
            ledger.write_of_suite(end=name, outcome="skipped", why=why)
            continue
        compiled = name.startswith("hopper")
        faulthandler.dump_traceback_later(
            SECONDS_COMPILED if compiled else SECONDS_A_CASE, exit=True
        )
        why = run(name, backend, case, not options.unchecked)
        faulthandler.cancel_dump_traceback_later()
        ledger.write_of_suite(end=name, outcome="failed" if why else "passed", why=why)
        if why:
            wrong += 1
            print(f"WRONG: {name}: {why}", flush=True)
            if device_is_dead():
                print(f"sanitized.py: the device is dead after {name}", flush=True)
                return DEAD_DEVICE
    print(f"sanitized.py: {wrong} wrong results", flush=True)
    return WRONG if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
