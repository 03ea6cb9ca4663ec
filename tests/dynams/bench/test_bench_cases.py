"""Peers must give the kernels' own answers, or a comparison means nothing."""

from __future__ import annotations

import pytest
import torch

from dynams.bench import BenchConfig
from dynams.bench.cases import Case, cases
from dynams.bench.config import KERNELS

CPU = torch.device("cpu")
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 0.1, "float16": 2e-2}


def small(**changes: object) -> BenchConfig:
    values = {"rows": 40, "classes": 7, "features": 16, "samples": 300, "device": "cpu"}
    return BenchConfig(**{**values, **changes})  # type: ignore[arg-type]


def of(kernel: str, **changes: object) -> list[Case]:
    return list(cases(small(kernel=kernel, **changes), CPU))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kernel", ["margin", "linear_margin"])
def test_margins_are_torch_s(kernel, dtype):
    for case in of(kernel, dtype=dtype):
        ours, peer = case.ours().float(), next(iter(case.peers.values()))().float()
        torch.testing.assert_close(ours, peer, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(("kernel", "kinds"), [("scores", 6), ("linear_scores", 3)])
def test_scores_are_torch_s(kernel, kinds, dtype):
    (case,) = of(kernel, dtype=dtype)
    ours, theirs = list(case.ours().values()), next(iter(case.peers.values()))()
    assert len(ours) == kinds
    # A product may round its logits to their type or keep them as they are.
    close = TOLERANCE[dtype] if kernel == "linear_scores" else 1e-4
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), other.double(), atol=close, rtol=close)


@pytest.mark.parametrize("kernel", ["smallest_k", "margin_topk", "linear_margin_topk"])
@pytest.mark.parametrize("budget", [0.001, 0.6, 1.0])
def test_selections_are_torch_s(kernel, budget):
    (case,) = of(kernel, budget=budget)
    (peer,) = case.peers.values()
    ours, theirs = case.ours(), peer()
    count = 300 if kernel == "smallest_k" else 40
    assert len(ours.values) == max(1, round(budget * count))
    assert sorted(theirs.indices.tolist()) == ours.indices.tolist()
    torch.testing.assert_close(ours.values.sort().values, theirs.values.sort().values)


def test_the_slim_head_reads_the_first_features_only():
    whole, slim = of("linear_margin", width=0.25)
    assert slim.kernel == "linear_margin, width 0.25"
    assert whole.flops == 2 * 40 * 7 * 16
    assert slim.flops == 2 * 40 * 7 * 4
    assert len(of("linear_margin", width=1.0)) == 1


def test_bytes_are_what_must_be_read_and_written():
    (margin,) = of("margin", dtype="bfloat16")
    assert margin.moved == 40 * 7 * 2 + 40 * 4
    (scores,) = of("scores")
    assert scores.moved == 40 * 7 * 4 + 6 * 40 * 4
    (smallest,) = of("smallest_k", budget=0.5)
    assert smallest.moved == 300 * 4 + 150 * (4 + 8)
    (both,) = of("margin_topk", budget=0.5)
    assert both.moved == 40 * 7 * 4 + 20 * (4 + 8)


def test_all_kernels_of_the_contract_are_there():
    names = [case.kernel.partition(",")[0] for case in cases(small(), CPU)]
    assert list(dict.fromkeys(names)) == list(KERNELS)


def test_inputs_are_the_seed_s():
    (first,) = of("margin", seed=1)
    (same,) = of("margin", seed=1)
    (other,) = of("margin", seed=2)
    assert torch.equal(first.ours(), same.ours())
    assert not torch.equal(first.ours(), other.ours())
