"""Margins are differentiable, checked against autograd of the plain expression; selection is not."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional as F

import dynams_kernels as dk
import oracle
from kernel_inputs import LAYOUTS, labels_for, random_logits

INF, NAN = math.inf, math.nan


def plain_margin(z: Tensor, kind: str, labels: Tensor | None, apart: Tensor | None) -> Tensor:
    """The formula in torch operators that autograd knows."""
    rows = torch.arange(len(z), device=z.device)
    if kind in ("gap", "probability"):
        two = (z if kind == "gap" else z.softmax(1)).topk(2, dim=1).values
        return two[:, 0] - two[:, 1]
    if kind == "label":
        assert labels is not None
        own = F.one_hot(labels, z.shape[1]).bool()
        return z[rows, labels] - z.masked_fill(own, -INF).amax(1)
    assert apart is not None
    best = z.argmax(1)
    own = F.one_hot(best, z.shape[1]).bool()
    apart = apart.to(z.dtype)[best]
    quotient = (z[rows, best][:, None] - z) / apart.masked_fill(own, 1.0)
    return quotient.masked_fill(own, INF).amin(1)


def extras(x: Tensor, kind: str) -> dict[str, Any]:
    if kind == "label":
        return {"labels": labels_for(x).to(x.device)}
    if kind == "distance":
        return {
            "class_distances": dk.class_distances(random_logits(x.shape[1], 4, seed=9).to(x.device))
        }
    return {}


def plain(x: Tensor, kind: str, more: dict[str, Any]) -> Tensor:
    return plain_margin(x, kind, more.get("labels"), more.get("class_distances"))


@pytest.mark.parametrize("kinds", [("gap",), ("label", "el2n"), ("loss",), ("entropy", "gap")])
@pytest.mark.parametrize("head", [False, True], ids=["logits", "head"])
def test_scores_may_be_written_into_before_a_backward_pass(
    kinds: tuple[str, ...], head: bool, device: str
) -> None:
    x = random_logits(6, 5).to(device).requires_grad_()
    weight = torch.eye(5, device=device)
    labels = labels_for(x).to(device)

    def found() -> dict[str, Tensor]:
        if head:
            return dk.linear_scores(x, weight, kinds, labels=labels)
        return dk.scores(x, kinds, labels=labels)

    masked = torch.arange(6, device=device) % 2 == 0
    want = torch.autograd.grad(found()[kinds[0]].masked_fill(masked, 0.0).mul(2).sum(), x)[0]
    written = found()[kinds[0]]
    written[masked] = 0.0
    written *= 2
    assert torch.equal(torch.autograd.grad(written.sum(), x)[0], want)


def test_margins_may_be_written_into_before_a_backward_pass(device: str) -> None:
    x = random_logits(6, 5).to(device).requires_grad_()
    weight = torch.eye(5, device=device)
    for kind in ("gap", "probability"):
        for margins in (dk.margin(x, kind=kind), dk.linear_margin(x, weight, kind=kind)):
            want = torch.autograd.grad(margins.sum() * 2, x, retain_graph=True)[0]
            margins *= 2
            assert torch.equal(torch.autograd.grad(margins.sum(), x)[0], want), kind


def pull(out: Tensor, inputs: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Gradients of a random combination of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    return list(torch.autograd.grad(out, inputs, up))


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@given(rows=st.integers(0, 9), classes=st.integers(2, 40), seed=st.integers(0, 9999))
def test_gradient_of_margin_is_that_of_the_formula(
    kind: str, rows: int, classes: int, seed: int, device: str
) -> None:
    x = random_logits(rows, classes, torch.float64, seed=seed).to(device).requires_grad_()
    more = extras(x, kind)
    (got,) = pull(dk.margin(x, kind=kind, **more), [x], seed)
    (want,) = pull(plain(x, kind, more), [x], seed)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_gradient_has_the_dtype_of_the_logits(kind: str, dtype: torch.dtype, device: str) -> None:
    x = random_logits(30, 12, dtype).to(device).requires_grad_()
    more = extras(x, kind)
    out = dk.margin(x, kind=kind, **more)
    assert out.dtype == torch.float32
    (got,) = pull(out, [x])
    assert got.dtype == dtype
    wide = x.detach().double().requires_grad_()
    (want,) = pull(plain(wide, kind, more), [wide])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), want, rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_gradcheck_of_margin(kind: str, device: str) -> None:
    x = random_logits(4, 5, torch.float64, seed=3).to(device).requires_grad_()
    more = extras(x, kind)
    assert torch.autograd.gradcheck(lambda z: dk.margin(z, kind=kind, **more), (x,))


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("width", [None, 3])
@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_gradcheck_of_linear_margin(
    kind: str, width: int | None, biased: bool, device: str
) -> None:
    features = random_logits(4, 5, torch.float64, seed=1, scale=1).to(device).requires_grad_()
    weight = random_logits(6, 5, torch.float64, seed=2, scale=1).to(device).requires_grad_()
    bias = random_logits(1, 6, torch.float64, seed=3)[0].to(device).requires_grad_()
    more = extras(torch.empty(4, 6, device=device), kind)

    def call(f: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        out: Tensor = dk.linear_margin(f, w, b, width=width, kind=kind, **more)
        return out

    assert torch.autograd.gradcheck(
        call, (features, weight, bias) if biased else (features, weight)
    )


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@given(
    rows=st.integers(0, 20),
    size=st.integers(1, 20),
    classes=st.integers(2, 40),
    slim=st.booleans(),
    narrow=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_gradients_of_linear_margin_are_those_of_the_formula(
    kind: str,
    rows: int,
    size: int,
    classes: int,
    slim: bool,
    narrow: bool,
    biased: bool,
    seed: int,
    device: str,
) -> None:
    width = max(1, size // 2) if slim else size
    features = random_logits(rows, width if narrow else size, torch.float64, seed=seed, scale=1)
    weight = random_logits(classes, size, torch.float64, seed=seed + 1, scale=1)
    bias = random_logits(1, classes, torch.float64, seed=seed + 2)[0]
    features, weight, bias = (t.to(device).requires_grad_() for t in (features, weight, bias))
    inputs = [features, weight, bias][: 3 if biased else 2]
    more = extras(torch.empty(rows, classes, device=device), kind)
    b = bias if biased else None
    got = pull(dk.linear_margin(features, weight, b, width=width, kind=kind, **more), inputs, seed)
    z = F.linear(features[:, :width], weight[:, :width], b)
    want = pull(plain(z, kind, more), inputs, seed)
    for left, right in zip(got, want, strict=True):
        assert left.shape == right.shape
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
@pytest.mark.parametrize(("rows", "classes"), [(5, 1024), (70, 1025), (90, 3001), (6000, 900)])
def test_gradients_past_any_block_of_the_kernel(
    kind: str, rows: int, classes: int, device: str
) -> None:
    if kind == "distance" and rows * classes > 10**6:
        classes = 100
    features = random_logits(rows, 3, torch.float64, seed=1).to(device).requires_grad_()
    weight = random_logits(classes, 3, torch.float64, seed=2).to(device).requires_grad_()
    bias = random_logits(1, classes, torch.float64, seed=3)[0].to(device).requires_grad_()
    inputs = [features, weight, bias]
    more = extras(torch.empty(rows, classes, device=device), kind)
    got = pull(dk.linear_margin(*inputs, kind=kind, **more), inputs)
    want = pull(plain(F.linear(*inputs), kind, more), inputs)
    for left, right in zip(got, want, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_gradients_of_linear_margin_are_no_worse_than_torchs(
    kind: str, dtype: torch.dtype, device: str
) -> None:
    data = [
        random_logits(64, 24, dtype, seed=1, scale=1),
        random_logits(10, 24, dtype, seed=2, scale=0.3),
    ]
    data.append(random_logits(1, 10, dtype, seed=3)[0])
    data = [t.to(device) for t in data]
    more = extras(torch.empty(64, 10, device=device), kind)
    wide = [t.double().requires_grad_() for t in data]
    z = F.linear(*wide)
    # Rows where rounding the logits changes which classes compete are no fair comparison.
    two = z.topk(3, dim=1).values.diff(dim=1).abs().amin(1) > 0.1
    data[0], wide[0] = data[0][two], wide[0].detach()[two].requires_grad_()
    more = {k: (v[two] if k == "labels" else v) for k, v in more.items()}
    if kind in ("label", "distance"):
        z = F.linear(*wide)
        close = plain(z.detach() + 0.02 * torch.randn_like(z), kind, more)
        assert close.shape == z.shape[:1]
    low = [t.clone().requires_grad_() for t in data]
    theirs = [t.clone().requires_grad_() for t in data]
    want = pull(plain(F.linear(*wide), kind, more), wide)
    got = pull(dk.linear_margin(*low, kind=kind, **more), low)
    torchs = pull(plain(F.linear(*theirs).float(), kind, more), theirs)
    eps = torch.finfo(dtype).eps
    for mine, right, other in zip(got, want, torchs, strict=True):
        assert mine.dtype == dtype
        exact = oracle.array(right)
        size = float(abs(exact).max())
        assert oracle.worst(mine, exact) <= 2 * oracle.worst(other, exact) + 4 * eps * size


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_only_the_inputs_that_ask_get_a_gradient(kind: str, device: str) -> None:
    more = extras(torch.empty(7, 5, device=device), kind)
    for asked in range(1, 8):
        data = [random_logits(7, 4, seed=1), random_logits(5, 4, seed=2), random_logits(1, 5)[0]]
        inputs = [t.to(device) for t in data]
        for place, tensor in enumerate(inputs):
            tensor.requires_grad_(bool(asked >> place & 1))
        dk.linear_margin(*inputs, kind=kind, **more).sum().backward()
        assert [t.grad is not None for t in inputs] == [bool(asked >> p & 1) for p in range(3)]


def test_no_gradient_reaches_past_the_width(device: str) -> None:
    features = random_logits(9, 8).to(device).requires_grad_()
    weight = random_logits(5, 8, seed=1).to(device).requires_grad_()
    dk.linear_margin(features, weight, width=3).sum().backward()
    assert features.grad is not None
    assert weight.grad is not None
    assert features.grad[:, :3].any()
    assert not features.grad[:, 3:].any()
    assert not weight.grad[:, 3:].any()


def test_class_distances_are_constants(device: str) -> None:
    x = random_logits(5, 4).to(device).requires_grad_()
    apart = dk.class_distances(random_logits(4, 3).to(device)).requires_grad_()
    out = dk.margin(x, kind="distance", class_distances=apart)
    out.sum().backward()
    assert x.grad is not None
    assert apart.grad is None or not apart.grad.any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_through_any_strides(layout: str, device: str) -> None:
    base = random_logits(20, 9, torch.float64).to(device)
    for kind in oracle.MARGIN_KINDS:
        more = extras(base, kind)
        x = LAYOUTS[layout](base).detach().requires_grad_()
        (got,) = pull(dk.margin(x, kind=kind, **more), [x])
        y = base.clone().requires_grad_()
        (want,) = pull(dk.margin(y, kind=kind, **more), [y])
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_gradient_through_expanded_rows(device: str) -> None:
    row = random_logits(1, 7, torch.float64).to(device).requires_grad_()
    (got,) = pull(dk.margin(row.expand(6, 7), kind="probability"), [row])
    (want,) = pull(plain(row.expand(6, 7), "probability", {}), [row])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_gradient_of_an_expanded_output(device: str) -> None:
    # .sum() hands backward a gradient of stride zero.
    x = random_logits(6, 5).to(device).requires_grad_()
    dk.margin(x).sum().backward()
    assert x.grad is not None
    top = x.detach().topk(2).indices
    want = torch.zeros(6, 5, device=device).scatter(
        1, top, torch.tensor([[1.0, -1.0]] * 6, device=device)
    )
    assert torch.equal(x.grad, want)


@pytest.mark.parametrize("kind", ["gap", "probability", "label"])
def test_a_tie_gives_a_subgradient(kind: str, device: str) -> None:
    x = torch.tensor(
        [[2.0, 2.0, 2.0, 0.0], [1.0, 3.0, 3.0, -1.0]], device=device, requires_grad=True
    )
    more = {"labels": torch.tensor([1, 2], device=device)} if kind == "label" else {}
    (grad,) = torch.autograd.grad(dk.margin(x, kind=kind, **more).sum(), [x])
    assert grad.isfinite().all()
    torch.testing.assert_close(grad.sum(1), torch.zeros(2, device=device), atol=1e-6, rtol=0)
    assert (grad.abs() <= 1).all()
    if kind != "probability":
        assert not grad[x.detach() < x.detach().amax(1, keepdim=True)].any()


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_a_nan_or_infinite_row_spoils_no_other_rows_gradient(kind: str, device: str) -> None:
    clean = random_logits(6, 5, torch.float64).to(device)
    more = extras(clean, kind)
    x = clean.clone()
    x[1, 3], x[4, 0], x[4, 2] = NAN, INF, -INF
    good = [0, 2, 3, 5]
    x.requires_grad_()
    clean.requires_grad_()
    (got,) = pull(dk.margin(x, kind=kind, **more), [x])
    (want,) = pull(dk.margin(clean, kind=kind, **more), [clean])
    assert torch.equal(got[good], want[good])


def test_gradients_accumulate_and_flow_on(device: str) -> None:
    layer = torch.nn.Linear(6, 4, device=device)
    inputs = random_logits(10, 6, scale=1).to(device)
    dk.margin(layer(inputs)).mean().backward()
    dk.linear_margin(inputs, layer.weight, layer.bias).mean().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    twin = torch.nn.Linear(6, 4, device=device)
    twin.load_state_dict(layer.state_dict())
    (2 * plain(twin(inputs), "gap", {}).mean()).backward()
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad)
    torch.testing.assert_close(layer.bias.grad, twin.bias.grad)


@pytest.mark.parametrize("kind", oracle.MARGIN_KINDS)
def test_second_derivatives_are_right_or_refused(kind: str, device: str) -> None:
    x = random_logits(3, 4, torch.float64, seed=5).to(device).requires_grad_()
    more = extras(x, kind)
    (want1,) = torch.autograd.grad(plain(x, kind, more).sum(), [x], create_graph=True)
    target = (want1**2).sum() + (x**2).sum()
    (want,) = torch.autograd.grad(target, [x])
    (got1,) = torch.autograd.grad(dk.margin(x, kind=kind, **more).sum(), [x], create_graph=True)
    try:
        (got,) = torch.autograd.grad((got1**2).sum() + (x**2).sum(), [x])
    except RuntimeError:
        return
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", oracle.SCORE_KINDS)
def test_a_score_gives_the_right_gradient_or_none_but_never_a_wrong_one(
    kind: str, device: str
) -> None:
    x = random_logits(5, 6, torch.float64, seed=2).to(device).requires_grad_()
    y = labels_for(x).to(device)
    p = x.softmax(1)
    formulas = {
        "loss": lambda: F.cross_entropy(x, y, reduction="none"),
        "el2n": lambda: (p - F.one_hot(y, 6)).norm(dim=1),
        "entropy": lambda: -(p * p.log()).sum(1),
        "confidence": lambda: 1 - p.amax(1),
    }
    expression = formulas.get(kind, lambda: plain(x, kind, {"labels": y}))()
    (want,) = pull(expression, [x])
    score = dk.scores(x, [kind, "gap" if kind != "gap" else "label"], labels=y)[kind]
    if not score.requires_grad:
        return
    try:
        (got,) = pull(score, [x])
    except RuntimeError as error:
        assert "differentiable" in str(error)  # noqa: PT017
        return
    torch.testing.assert_close(got, want)


# ------------------------------------------------------------------------------------ selection


@pytest.mark.parametrize("order", ["index", "value"])
def test_selection_says_that_it_is_not_differentiable(order: str, device: str) -> None:
    x = random_logits(8, 5).to(device).requires_grad_()
    f, w = random_logits(8, 3).to(device).requires_grad_(), random_logits(5, 3, seed=1).to(device)
    for got in (
        dk.smallest_k(x[:, 0], 3, order=order),
        dk.margin_topk(x, 3, order=order),
        dk.linear_margin_topk(f, w, 3, order=order),
        dk.linear_margin_topk(f.detach(), w.clone().requires_grad_(), 3, order=order),
    ):
        assert not got.indices.requires_grad
        with pytest.raises(RuntimeError, match="not differentiable"):
            got.values.sum().backward()


def test_margins_at_the_selected_rows_are_differentiable(device: str) -> None:
    x = random_logits(8, 5, torch.float64).to(device).requires_grad_()
    margins = dk.margin(x)
    chosen = dk.smallest_k(margins.detach(), 3).indices
    (got,) = torch.autograd.grad(margins[chosen].sum(), [x])
    (want,) = torch.autograd.grad(plain(x, "gap", {})[chosen].sum(), [x])
    assert torch.equal(got, want)
