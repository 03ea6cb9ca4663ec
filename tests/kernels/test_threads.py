"""Any number of torch threads gives the same bits; so do several Python threads, and a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_logits, sampled_places

COUNTS = (1, 2, 3, 4, 5, 6, 7, 8)


def _ties(size: int, distinct: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(-distinct, distinct, (size,), generator=generator).float()


X, SMALL = random_logits(4099, 513), random_logits(20_011, 10, torch.bfloat16, seed=4)
F, W, B = (
    random_logits(1027, 130, seed=1),
    random_logits(301, 130, seed=2),
    random_logits(1, 301)[0],
)
V, TIED = random_logits(1, 260_003, seed=5)[0], _ties(260_003, 40)
HOLED = torch.where(TIED > 30, torch.full_like(TIED, float("nan")), V)
MISLEADING = V.index_fill(0, torch.from_numpy(sampled_places(len(V))), -9.0)
Y, YF = labels_for(X), labels_for(torch.empty(1027, 301))
APART = dk.class_distances(random_logits(513, 5, seed=8))

CALLS: dict[str, Callable[[], list[Tensor]]] = {
    "margin gap": lambda: [dk.margin(X)],
    "margin probability": lambda: [dk.margin(X, kind="probability")],
    "margin label": lambda: [dk.margin(X, kind="label", labels=Y)],
    "margin distance": lambda: [dk.margin(X, kind="distance", class_distances=APART)],
    "margin of few classes": lambda: [dk.margin(SMALL)],
    "margin of columns": lambda: [dk.margin(SMALL.t().contiguous().t(), kind="probability")],
    "scores": lambda: list(dk.scores(X[:1500], oracle.SCORE_KINDS, labels=Y[:1500]).values()),
    "scores of few classes": lambda: list(
        dk.scores(SMALL, oracle.SCORE_KINDS, labels=labels_for(SMALL)).values()
    ),
    "smallest_k": lambda: [t for k in (5, 100_000, 200_000) for t in dk.smallest_k(V, k)],
    "smallest_k of ties": lambda: [t for k in (5, 156_001) for t in dk.smallest_k(TIED, k)],
    "smallest_k with nan": lambda: [t for k in (5, 250_001) for t in dk.smallest_k(HOLED, k)],
    "smallest_k misled": lambda: [
        t for k in (50_000, 156_001) for t in dk.smallest_k(MISLEADING, k)
    ],
    "smallest_k by value": lambda: list(dk.smallest_k(TIED, 120_000, order="value")),
    "smallest_k strided": lambda: list(dk.smallest_k(V[1::2], 80_000)),
    "margin_topk": lambda: list(dk.margin_topk(SMALL, 12_000)),
    "margin_topk by value": lambda: list(
        dk.margin_topk(X, 2000, kind="probability", order="value")
    ),
    "linear_margin": lambda: [dk.linear_margin(F, W, B)],
    "linear_margin bfloat16": lambda: [dk.linear_margin(F.bfloat16(), W.bfloat16(), B.bfloat16())],
    "linear_margin double": lambda: [dk.linear_margin(F.double(), W.double())],
    "linear_margin slim": lambda: [dk.linear_margin(F, W, B, width=33, kind="probability")],
    "linear_margin label": lambda: [dk.linear_margin(F, W, B, kind="label", labels=YF)],
    "linear_margin distance": lambda: [dk.linear_margin(F, W, B, kind="distance")],
    "linear_margin of few classes": lambda: [dk.linear_margin(F, W[:10], B[:10])],
    "linear_margin_topk": lambda: list(dk.linear_margin_topk(F, W, 600, B)),
    "class_distances": lambda: [dk.class_distances(W)],
}


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(oracle.same_bits(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", CALLS)
def test_any_number_of_threads_gives_the_same_bits(
    name: str, threads: Callable[[int], None]
) -> None:
    threads(1)
    want = CALLS[name]()
    differing = []
    for count in COUNTS[1:]:
        threads(count)
        if not same(CALLS[name](), want):
            differing.append(count)
    assert differing == []


@pytest.mark.parametrize("count", COUNTS)
def test_threaded_selection_is_exact(count: int, threads: Callable[[int], None]) -> None:
    threads(count)
    for values in (V, TIED, HOLED, MISLEADING):
        oracle.check_selection(dk.smallest_k(values, 156_001), values, 156_001)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 8, 9, 4099])
def test_fewer_rows_than_threads(rows: int, threads: Callable[[int], None]) -> None:
    threads(8)
    oracle.check(dk.margin(X[:rows]), oracle.margin(oracle.array(X[:rows])))
    got = dk.linear_margin(F[:rows], W, B)
    z = oracle.linear(oracle.array(F[:rows]), oracle.array(W), oracle.array(B))
    oracle.check(got, oracle.margin(z), ulps=8, floor=float(abs(z).max()))


@pytest.mark.parametrize("count", [1, 4])
def test_concurrent_calls_do_not_disturb_each_other(
    count: int, threads: Callable[[int], None]
) -> None:
    threads(count)
    names = ["margin gap", "scores", "smallest_k of ties", "smallest_k with nan", "margin_topk",
             "linear_margin", "linear_margin distance", "smallest_k by value"]  # fmt: skip
    want = {name: CALLS[name]() for name in names}

    def call(name: str) -> bool:
        torch.set_num_threads(count)
        return same(CALLS[name](), want[name])

    with ThreadPoolExecutor(6) as pool:
        jobs = [(name, pool.submit(call, name)) for _ in range(3) for name in names]
    assert [name for name, job in jobs if not job.result()] == []


def test_concurrent_selectors_are_independent() -> None:
    def fill(seed: int) -> list[int]:
        selector = dk.MarginSelector(3000)
        for part in range(10):
            margins = random_logits(1, 300, seed=seed * 100 + part)[0]
            selector.update(torch.arange(part * 300, part * 300 + 300), margins)
        indices: list[int] = selector.smallest(1000).indices.tolist()
        return indices

    want = [fill(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(fill, range(6))) == want


FORK = """
import os, signal, sys
import torch
import dynams_kernels as dk
from kernel_inputs import random_logits

torch.set_num_threads(int(sys.argv[1]))
x, f, w = random_logits(3000, 200), random_logits(600, 64, seed=1), random_logits(90, 64, seed=2)
v = random_logits(1, 300_000, seed=3)[0]

def answers():
    return [dk.margin(x), dk.linear_margin(f, w), *dk.smallest_k(v, 180_000),
            *dk.margin_topk(x, 999), dk.scores(x, ["entropy"])["entropy"], dk.class_distances(w)]

want = answers()
child = os.fork()
if child == 0:
    signal.alarm(60)
    # torch's own thread pool does not survive a fork with more than one thread; its DataLoader
    # workers, the usual forked children, run with one.
    torch.set_num_threads(1)
    os._exit(0 if all(torch.equal(a, b) for a, b in zip(answers(), want)) else 3)
_, status = os.waitpid(child, 0)
ok = os.waitstatus_to_exitcode(status) == 0 and all(map(torch.equal, answers(), want))
print("fine" if ok else f"child ended with {status}")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("count", [1, 4])
def test_a_forked_child_computes_the_same(count: int) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(count)],
        env=env, cwd=os.path.dirname(__file__), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "fine", done.stdout + done.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux")
def test_small_work_wakes_no_thread() -> None:
    code = """
import os, torch
import dynams_kernels as dk
torch.set_num_threads(8)
x = torch.arange(80.0).view(8, 10) % 7
before = len(os.listdir("/proc/self/task"))
dk.margin(x); dk.scores(x, ["loss", "entropy"], labels=torch.zeros(8, dtype=torch.int64)); dk.margin_topk(x, 3)
print(len(os.listdir("/proc/self/task")) - before)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=os.path.dirname(__file__),  # not the source tree, whose package has no compiled module
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "0", done.stderr
