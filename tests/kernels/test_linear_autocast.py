"""Autocast: a head is computed at its dtype, and logits are taken as they are."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_head, random_logits


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_at_the_autocast_dtype(
    dtype: torch.dtype, kind: str, device: str
) -> None:
    features, weight, bias = (t.to(device) for t in random_head(40, 30, 9))
    low = [t.to(dtype) for t in (features, weight, bias)]
    more = {"labels": labels_for(torch.empty(40, 9)).to(device)} if kind == "label" else {}
    if kind == "distance":
        # Whether the distances are those of the given weight or of the cast one is left open.
        more = {"class_distances": dk.class_distances(weight)}
    with torch.autocast(device, dtype=dtype):
        assert F.linear(features, weight, bias).dtype == dtype
        got = dk.linear_margin(features, weight, bias, kind=kind, **more)
        top = dk.linear_margin_topk(features, weight, 7, bias, kind=kind, **more)
    assert got.dtype == torch.float32
    assert oracle.same_bits(got, dk.linear_margin(*low, kind=kind, **more))
    oracle.check_selection(top, got, 7)


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_takes_low_precision_features_and_a_float32_head(
    dtype: torch.dtype, kind: str, device: str
) -> None:
    # What a network under autocast hands to its last layer.
    features, weight, bias = (t.to(device) for t in random_head(40, 30, 9))
    low = [t.to(dtype) for t in (features, weight, bias)]
    more = {"labels": labels_for(torch.empty(40, 9)).to(device)} if kind == "label" else {}
    if kind == "distance":
        more = {"class_distances": dk.class_distances(weight)}
    want = dk.linear_margin(*low, kind=kind, **more)
    with torch.autocast(device, dtype=dtype):
        for width in (None, 12):
            got = dk.linear_margin(low[0], weight, bias, width=width, kind=kind, **more)
            assert oracle.same_bits(got, dk.linear_margin(*low, width=width, kind=kind, **more))
        got = dk.linear_margin(low[0], weight, bias, kind=kind, **more)
        top = dk.linear_margin_topk(low[0], weight, 7, bias, kind=kind, **more)
    assert oracle.same_bits(got, want)
    oracle.check_selection(top, got, 7)


def test_autocast_distances_come_from_the_weight(device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(40, 30, 9))
    with torch.autocast(device, dtype=torch.bfloat16):
        got = dk.linear_margin(features, weight, bias, kind="distance")
        apart = dk.class_distances(weight)
    low = [t.bfloat16() for t in (features, weight, bias)]
    wide = [oracle.array(t) for t in low]
    want = oracle.margin(oracle.linear(*wide), "distance", None, oracle.class_distances(wide[1]))
    assert oracle.worst(got, want) <= 0.05
    assert oracle.same_bits(apart, dk.class_distances(weight))


def test_autocast_leaves_float64_alone(device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(10, 8, 4, torch.float64))
    with torch.autocast(device, dtype=torch.bfloat16):
        got = dk.linear_margin(features, weight, bias)
    assert oracle.same_bits(got, dk.linear_margin(features, weight, bias))


def test_autocast_does_not_touch_logits(device: str) -> None:
    x = random_logits(10, 8).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert oracle.same_bits(dk.margin(x), dk.margin(x.clone()))
        got = dk.margin(x)
    oracle.check(got, oracle.margin(oracle.array(x)))


def test_disabled_autocast_inside_autocast(device: str) -> None:
    features, weight, bias = (t.to(device) for t in random_head(10, 8, 4))
    with torch.autocast(device, dtype=torch.bfloat16), torch.autocast(device, enabled=False):
        got = dk.linear_margin(features, weight, bias)
    assert oracle.same_bits(got, dk.linear_margin(features, weight, bias))
