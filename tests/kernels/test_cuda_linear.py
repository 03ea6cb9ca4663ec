"""Linear margins on a GPU: as accurate as torch's own product, for every tile, split and width; gradients as on the CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_head, random_logits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

DEVICE = "cuda"
INF, NAN = math.inf, math.nan
# Rows of a batch whose reference is computed: the first and the last of tiles, and some between.
CHECKED_ROWS = 48
# Batch, width, classes: about every tile's edges; skinny heads; few rows against classes split over programs; a language model's.
SHAPES = (
    (1, 1, 2),
    (65, 64, 2),
    (130, 127, 10),
    (4099, 200, 10),
    (300, 257, 16),
    (257, 96, 33),
    (129, 513, 65),
    (1025, 72, 100),
    (127, 64, 127),
    (128, 64, 128),
    (129, 65, 129),
    (255, 123, 257),
    (513, 1024, 1000),
    (9000, 64, 1000),
    (33, 40, 32_003),
    (2, 256, 128_256),
    (1, 24, 1_000_003),
)


def head(
    shape: tuple[int, int, int], dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weight and bias whose logits are of the order of one."""
    features, weight, bias = random_head(*shape, dtype, seed=seed)
    return features.to(DEVICE), weight.to(DEVICE), bias.to(DEVICE)


def some_rows(batch: int) -> Tensor:
    if batch <= CHECKED_ROWS:
        return torch.arange(batch)
    generator = torch.Generator().manual_seed(batch)
    some = torch.randperm(batch, generator=generator)[: CHECKED_ROWS - 6]
    return torch.cat([some, torch.tensor([0, 1, 63, batch - 2, batch - 1])])


def exact_logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> np.ndarray:
    """The logits, rounded to float64 once. torch's own float64 product serves all but float64: NumPy's takes the test's time."""
    wide = [None if operand is None else operand.double() for operand in (features, weight, bias)]
    if features.dtype != torch.float64:
        return oracle.array(F.linear(*wide))
    f, w = (operand.cpu().numpy().astype(np.longdouble) for operand in wide[:2])
    product = np.matmul(f, w.T)
    return (product if bias is None else product + oracle.array(bias)).astype(np.float64)


def check_margin(
    got: Tensor,
    head_: tuple[Tensor, Tensor, Tensor | None],
    kind: str = "gap",
    more: dict[str, Any] | None = None,
) -> None:
    """Asserts that margins err no more than those of torch's own product, and a rounding."""
    features, weight, bias = head_
    rows = some_rows(len(features)).to(features.device)
    picked = features[rows]
    labels = apart = None
    if more and "labels" in more:
        labels = more["labels"][rows].cpu().numpy()
    if kind == "distance":
        apart = oracle.array(dk.class_distances(weight))
    exact = exact_logits(picked, weight, bias)
    want = oracle.margin(exact, kind, labels, apart)
    torchs = oracle.margin(oracle.array(F.linear(picked, weight, bias)), kind, labels, apart)
    # A margin is rounded where its logits are, which are larger: of a sum in the accumulation's precision that is a walk of
    # `width` roundings, by another route here than in torch's product.
    size = max(1.0, *(float(np.abs(of[np.isfinite(of)]).max(initial=0.0)) for of in (exact, want)))
    rounding = 2**-21 if kind == "distance" else 0.0
    walk = math.sqrt(features.shape[1]) * torch.finfo(got.dtype).eps
    allowed = 1.5 * oracle.worst(torchs, want) + (rounding + walk) * size
    assert got.dtype == oracle.result_dtype(features.dtype)
    error = oracle.worst(got[rows], want)
    assert error <= allowed, f"error {error:.3g}, torch's own (with slack) {allowed:.3g}"


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_margins_are_as_accurate_as_torchs_product(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    features, weight, bias = head(shape, dtype)
    check_margin(dk.linear_margin(features, weight, bias), (features, weight, bias))
    check_margin(dk.linear_margin(features, weight), (features, weight, None))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["probability", "distance", "label"])
@pytest.mark.parametrize(
    "shape", [(130, 65, 10), (257, 96, 129), (300, 72, 1000), (3, 40, 5003)], ids=str
)
def test_every_kind(shape: tuple[int, int, int], kind: str, dtype: torch.dtype) -> None:
    features, weight, bias = head(shape, dtype)
    more = {"labels": labels_for(torch.empty(shape[0], shape[2])).to(DEVICE)}
    used = more if kind == "label" else {}
    got = dk.linear_margin(features, weight, bias, kind=kind, **used)
    check_margin(got, (features, weight, bias), kind, used)


@pytest.fixture(params=["high", "highest"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    "shape",
    [(700, 2048, 300), (4096, 1024, 600)],  # the second's weight is rounded for tf32 first
    ids=str,
)
def test_float32_follows_torchs_precision(shape: tuple[int, int, int], precision: str) -> None:
    features, weight, bias = head(shape, torch.float32)
    got = dk.linear_margin(features, weight, bias)
    check_margin(got, (features, weight, bias))
    for _, elsewhere in strided(weight):
        check_margin(dk.linear_margin(features, elsewhere, bias), (features, weight, bias))
    exact = dk.linear_margin(features.double(), weight.double(), bias.double())
    error = float((got.double() - exact).abs().max())
    # tf32 keeps 10 bits of an operand; ieee must not fall back to that.
    assert error < (1e-5 if precision == "highest" else 2e-2)


def strided(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    rows, columns = tensor.shape
    wide = tensor.new_full((rows, columns + 5), NAN)
    yield "apart", wide[:, 2:-3].copy_(tensor)
    flat = tensor.new_full((tensor.numel() + 1,), NAN)
    yield "one element past", flat[1:].view(rows, columns).copy_(tensor)
    yield "transposed", tensor.t().contiguous().t()
    yield "every third row", tensor.new_full((rows * 3, columns), NAN)[1::3].copy_(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(130, 80, 10), (129, 72, 301)], ids=str)
def test_operands_lie_anywhere(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    features, weight, bias = head(shape, dtype)
    for (_, f), (_, w) in zip(strided(features), reversed(list(strided(weight))), strict=True):
        check_margin(dk.linear_margin(f, w, bias), (features, weight, bias))
        check_margin(dk.linear_margin(f, weight, bias), (features, weight, bias))
        check_margin(dk.linear_margin(features, w, bias), (features, weight, bias))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
def test_nothing_past_the_width_is_read(dtype: torch.dtype) -> None:
    features, weight, bias = head((130, 80, 129), dtype)
    for width in (1, 16, 33, 64, 79):
        spoilt = weight.clone()
        spoilt[:, width:] = NAN
        spoilt_features = features.clone()
        spoilt_features[:, width:] = INF
        got = dk.linear_margin(spoilt_features, spoilt, bias, width=width)
        check_margin(got, (features[:, :width], weight[:, :width], bias))


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["gap", "probability", "label"])
@pytest.mark.parametrize("shape", [(70, 32, 10), (300, 96, 129), (4, 64, 20_011)], ids=str)
def test_several_widths_are_several_heads(
    shape: tuple[int, int, int], kind: str, dtype: torch.dtype
) -> None:
    features, weight, bias = head(shape, dtype)
    more = {"labels": labels_for(torch.empty(shape[0], shape[2])).to(DEVICE)}
    used = more if kind == "label" else {}
    widths = [8, 16, 32]
    got = dk.linear_margin(features, weight, bias, width=widths, kind=kind, **used)
    assert got.shape == (3, shape[0])
    for row, width in zip(got, widths, strict=True):
        check_margin(row, (features[:, :width], weight[:, :width], bias), kind, used)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [2, 10, 100, 129, 1000, 40_003])
def test_logits_that_come_out_exactly_give_exact_margins(classes: int, dtype: torch.dtype) -> None:
    # One feature a row is 1, the others 0: the logits are the weight's columns, ties, infinities and NaN and all.
    rows = 24
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randint(-9, 9, (classes, rows), generator=generator).to(dtype)
    bias = torch.zeros(classes, dtype=dtype)
    for place, value in ((0, -INF), (classes // 2, INF), (classes - 1, INF), (classes // 3, NAN)):
        for used in (False, True):
            bias[place] = value if used else 0.0
            z = oracle.array(weight.T) + oracle.array(bias)
            features = torch.eye(rows, dtype=dtype, device=DEVICE)
            got = dk.linear_margin(features, weight.to(DEVICE), bias.to(DEVICE))
            oracle.check(got, oracle.margin(z))


@pytest.mark.parametrize("kind", ["gap", "probability"])
def test_a_row_that_is_not_finite_spoils_no_other(kind: str) -> None:
    features, weight, bias = head((300, 64, 129), torch.bfloat16)
    want = dk.linear_margin(features, weight, bias, kind=kind)
    features[[5, 64, 299]] = NAN
    features[100] = INF
    got = dk.linear_margin(features, weight, bias, kind=kind)
    spoilt = torch.zeros(300, dtype=torch.bool, device=DEVICE)
    spoilt[[5, 64, 100, 299]] = True
    assert torch.equal(got.isnan(), spoilt)
    assert oracle.same_bits(got[~spoilt], want[~spoilt])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_at_the_autocast_dtype(dtype: torch.dtype) -> None:
    features, weight, bias = head((300, 96, 100), torch.float32)
    low = [t.to(dtype) for t in (features, weight, bias)]
    with torch.autocast("cuda", dtype=dtype):
        got = dk.linear_margin(features, weight, bias)
        several = dk.linear_margin(features, weight, bias, width=[32, 96])
    assert oracle.same_bits(got, dk.linear_margin(low[0], low[1], low[2]))
    assert oracle.same_bits(several, dk.linear_margin(low[0], low[1], low[2], width=[32, 96]))


def test_inference_mode() -> None:
    features, weight, bias = head((130, 64, 100), torch.bfloat16)
    want = dk.linear_margin(features, weight, bias)
    with torch.inference_mode():
        assert oracle.same_bits(dk.linear_margin(features, weight, bias), want)


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@pytest.mark.parametrize("shape", [(130, 48, 10), (200, 64, 333)], ids=str)
def test_gradients_are_the_cpus(shape: tuple[int, int, int], kind: str) -> None:
    operands = head(shape, torch.float32)
    labels = labels_for(torch.empty(shape[0], shape[2]))
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(shape[0], generator=generator)
    grads = []
    for device in (DEVICE, "cpu"):
        leaves = [t.detach().to(device).requires_grad_() for t in operands]
        more = {"labels": labels.to(device)} if kind == "label" else {}
        out = dk.linear_margin(*leaves, kind=kind, **more)  # type: ignore[misc]
        grads.append(torch.autograd.grad(out, leaves, upstream.to(device)))
    for there, here in zip(*grads, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_of_logits_margins_are_the_cpus(kind: str, dtype: torch.dtype) -> None:
    x = random_logits(129, 100, dtype)
    points = random_logits(100, 4, seed=1)
    extras = {
        "label": {"labels": labels_for(x)},
        "distance": {"class_distances": torch.cdist(points, points)},
    }
    upstream = random_logits(1, 129, dtype, seed=2)[0]
    grads = []
    for device in (DEVICE, "cpu"):
        leaf = x.to(device).requires_grad_()
        more: dict[str, Any] = {name: t.to(device) for name, t in extras.get(kind, {}).items()}
        out = dk.margin(leaf, kind=kind, **more)
        grads.append(torch.autograd.grad(out, leaf, upstream.to(device))[0])
    torch.testing.assert_close(grads[0].cpu(), grads[1], rtol=1e-5, atol=1e-6)


def test_no_logits_are_stored() -> None:
    features, weight, bias = head((4096, 64, 20_000), torch.bfloat16)
    dk.linear_margin(features, weight, bias)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    dk.linear_margin(features, weight, bias)
    dk.linear_margin(features, weight, bias, width=[16, 64])
    torch.cuda.synchronize()
    # The logits would be 164 MB; a kibibyte a row is 4 MB.
    assert torch.cuda.max_memory_allocated() - before <= 4096 * 1024
