"""Every call in inference mode, without gradients, on what is frozen and under autocast."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_logits

INF, NAN = math.inf, math.nan


def every_call(x: Tensor, f: Tensor, w: Tensor) -> list[Tensor]:
    y = labels_for(x).to(x.device)
    return [
        dk.margin(x),
        *dk.scores(x, ["gap", "loss"], labels=y).values(),
        dk.linear_margin(f, w, width=2),
        *dk.smallest_k(x[:, 0], 2),
        *dk.margin_topk(x, 2),
        *dk.linear_margin_topk(f, w, 2),
        dk.class_distances(w),
    ]


def test_inference_mode_and_no_grad(device: str) -> None:
    x, f, w = random_logits(6, 5), random_logits(6, 3), random_logits(5, 3, seed=1)
    x, f, w = (t.to(device).requires_grad_() for t in (x, f, w))
    want = every_call(x.detach(), f.detach(), w.detach())
    with torch.no_grad():
        quiet = every_call(x, f, w)
    with torch.inference_mode():
        inferred = every_call(x, f, w)
        born_inside = every_call(x + 0, f + 0, w + 0)
        kept = (x + 0, f + 0, w + 0)
    outside = every_call(*kept)
    for results in (quiet, inferred, born_inside, outside):
        for got, right in zip(results, want, strict=True):
            assert not got.requires_grad
            assert oracle.same_bits(got, right)
    assert all(t.is_inference() for t in inferred)


def test_frozen_inputs_cost_no_graph(device: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = dk.margin(random_logits(6, 5).to(device))
        got2 = dk.linear_margin(random_logits(6, 5).to(device), random_logits(4, 5).to(device))
    assert got.grad_fn is None
    assert got2.grad_fn is None


def test_autocast_gradients_reach_the_float32_parameters(device: str) -> None:
    layer = torch.nn.Linear(6, 4, device=device)
    inputs = random_logits(10, 6, scale=1).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = dk.linear_margin(inputs, layer.weight, layer.bias)
    out.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    low = [t.detach().bfloat16().requires_grad_() for t in (inputs, layer.weight, layer.bias)]
    dk.linear_margin(*low).sum().backward()
    assert low[1].grad is not None
    torch.testing.assert_close(layer.weight.grad, low[1].grad.float(), rtol=2e-2, atol=2e-2)
