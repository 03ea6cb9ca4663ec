"""Gradients of `linear_scores`: those of the logits' formulas, from logits that are formed again tile by tile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_logits

ALL: tuple[dk.ScoreKind, ...] = (
    "gap", "probability", "distance", "label", "loss", "el2n", "entropy", "confidence",
)  # fmt: skip


def head(
    rows: int, size: int, classes: int, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> list[Tensor]:
    """Features, weight and bias that want gradients."""
    features = random_logits(rows, size, dtype, seed=1, scale=1)
    weight = random_logits(classes, size, dtype, seed=2, scale=1)
    bias = random_logits(1, classes, dtype, seed=3, scale=1)[0]
    return [t.to(device).requires_grad_() for t in (features, weight, bias)]


def formula(z: Tensor, kind: str, y: Tensor, apart: Tensor) -> Tensor:
    """A score in torch operators that autograd knows; 0 where the label is ignored."""
    p = z.softmax(1)
    known = y >= 0
    safe = y.clamp(min=0)
    own = F.one_hot(safe, z.shape[1]).to(z.dtype)
    if kind == "gap":
        return z.topk(2, dim=1).values.diff(dim=1)[:, 0].neg()
    if kind == "probability":
        return p.topk(2, dim=1).values.diff(dim=1)[:, 0].neg()
    if kind == "distance":
        best = z.argmax(1)
        mine = F.one_hot(best, z.shape[1]).bool()
        rise = z.gather(1, best[:, None]) - z
        quotient = rise / apart.to(z.dtype)[best].masked_fill(mine, 1.0)
        return quotient.masked_fill(mine, torch.inf).amin(1)
    if kind == "label":
        others = z.masked_fill(own.bool(), -torch.inf).amax(1)
        return torch.where(known, z.gather(1, safe[:, None])[:, 0] - others, 0.0)
    if kind == "loss":
        return F.cross_entropy(z, y, reduction="none", ignore_index=-100)
    if kind == "el2n":
        return torch.where(known, (p - own).norm(dim=1), 0.0)
    if kind == "entropy":
        return -(p * p.log()).sum(1)
    return 1 - p.amax(1)


def ups(count: int, like: Tensor) -> Tensor:
    """Gradients of scores, the same for the same count."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, len(like), generator=generator, dtype=torch.float64).to(like)


def pull(scores: list[Tensor], operands: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(scores, operands, list(ups(len(scores), scores[0]))))


@pytest.mark.parametrize("kinds", [*((kind,) for kind in ALL), ("loss", "entropy"), ALL], ids=str)
@pytest.mark.parametrize("width", [None, 3])
def test_gradients_are_those_of_the_formulas(
    kinds: tuple[dk.ScoreKind, ...], width: int | None, device: str
) -> None:
    operands = head(7, 5, 6, device=device)
    y = torch.tensor([0, 5, -100, 2, 2, -100, 1], device=device)
    scores = dk.linear_scores(operands[0], operands[1], kinds, operands[2], width=width, labels=y)
    got = pull([scores[kind] for kind in kinds], operands)
    slim = [operands[0][:, :width], operands[1][:, :width]]
    apart = torch.cdist(slim[1], slim[1]).detach()
    z = F.linear(*slim, operands[2])
    want = pull([formula(z, kind, y, apart) for kind in kinds], operands)
    # Class distances are float32.
    exact = "distance" not in kinds
    for left, right in zip(got, want, strict=True):
        tolerance = 1e-9 if exact else 1e-5
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)
    if kinds == ("loss",):
        assert (got[0][y == -100] == 0).all(), "a sample that is ignored pulls at nothing"


@pytest.mark.parametrize("kinds", [("loss",), ("loss", "entropy")], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_gradcheck(kinds: tuple[dk.ScoreKind, ...], biased: bool, device: str) -> None:
    operands = head(4, 5, 6, device=device)
    y = torch.tensor([3, 0, 5, 5], device=device)

    def call(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(dk.linear_scores(features, weight, kinds, bias, labels=y).values())

    assert torch.autograd.gradcheck(call, operands if biased else operands[:2])


@pytest.mark.parametrize("kinds", [("loss",), ("loss", "entropy"), ("el2n",)], ids=str)
def test_second_derivatives(kinds: tuple[dk.ScoreKind, ...], device: str) -> None:
    operands = head(4, 5, 6, device=device)
    y = torch.tensor([3, 0, -100, 5], device=device)

    def call(*some: Tensor) -> tuple[Tensor, ...]:
        found = dk.linear_scores(some[0], some[1], kinds, some[2], labels=y)
        return tuple(score[y >= 0] for score in found.values())

    assert torch.autograd.gradgradcheck(call, operands)


def test_the_mean_loss_trains_as_cross_entropy_does(device: str) -> None:
    """Ignored samples are NaN to the selection, and no part of `nanmean` nor of its gradient."""
    operands = head(40, 8, 11, torch.float32, device)
    y = labels_for(torch.empty(40, 11)).to(device)
    y[::3] = 7
    loss = dk.linear_scores(
        operands[0], operands[1], ["loss"], operands[2], labels=y, ignore_index=7
    )["loss"]
    assert loss.isnan().equal(y == 7)
    want = F.cross_entropy(F.linear(*operands), y, ignore_index=7)
    torch.testing.assert_close(loss.nanmean(), want)
    for left, right in zip(
        torch.autograd.grad(loss.nanmean(), operands),
        torch.autograd.grad(want, operands),
        strict=True,
    ):
        torch.testing.assert_close(left, right)


def test_tiles_of_rows_and_classes_add_up(device: str) -> None:
    """More rows and more classes than a tile has."""
    operands = head(4100, 3, 1100, torch.float32, device)
    y = labels_for(torch.empty(4100, 1100)).to(device)
    got = pull([dk.linear_scores(*operands[:2], ["loss"], operands[2], labels=y)["loss"]], operands)
    wide = [t.detach().double().requires_grad_() for t in operands]
    want = pull([F.cross_entropy(F.linear(*wide), y, reduction="none")], wide)
    for left, right in zip(got, want, strict=True):
        torch.testing.assert_close(left.double(), right, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gradients_are_no_worse_than_torchs(dtype: torch.dtype, device: str) -> None:
    data = head(96, 40, 30, dtype, device)
    y = labels_for(torch.empty(96, 30)).to(device)
    wide = [t.detach().double().requires_grad_() for t in data]
    want = pull([F.cross_entropy(F.linear(*wide), y, reduction="none")], wide)
    got = pull([dk.linear_scores(*data[:2], ["loss"], data[2], labels=y)["loss"]], data)
    loss = F.cross_entropy(F.linear(*data).float(), y, reduction="none")
    torchs = pull([loss], data)
    for mine, right, other in zip(got, want, torchs, strict=True):
        assert mine.dtype == dtype
        exact = oracle.array(right)
        epsilon = torch.finfo(dtype).eps * float(abs(exact).max())
        # A probability is exp(logit - logsumexp), both of which a GPU rounds where they are several times one.
        rounding = epsilon if device == "cpu" else 3 * epsilon
        assert oracle.worst(mine, exact) <= 2 * oracle.worst(other, exact) + rounding


@pytest.mark.parametrize(
    "asked", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_only_the_operands_that_ask_get_a_gradient(
    asked: tuple[bool, bool, bool], device: str
) -> None:
    operands = head(6, 4, 5, device=device)
    y = labels_for(torch.empty(6, 5)).to(device)
    want = pull(
        [dk.linear_scores(*operands[:2], ["loss"], operands[2], labels=y)["loss"]], operands
    )
    some = [t.detach().requires_grad_(wanted) for t, wanted in zip(operands, asked, strict=True)]
    loss = dk.linear_scores(*some[:2], ["loss"], some[2], labels=y)["loss"]
    (got,) = pull([loss], [t for t in some if t.requires_grad])
    torch.testing.assert_close(got, want[asked.index(True)])


@pytest.mark.parametrize("kinds", [("loss", "entropy"), ("gap",), ("el2n",)], ids=str)
def test_nothing_as_large_as_the_logits_is_kept(
    kinds: tuple[dk.ScoreKind, ...], device: str
) -> None:
    operands = head(64, 4, 128, torch.float32, device)
    y = labels_for(torch.empty(64, 128)).to(device)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    restore: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(note, restore):
        dk.linear_scores(*operands[:2], kinds, operands[2], labels=y)
    assert kept
    assert max(kept) <= 4 * 128, "the largest is the weight"


def test_several_widths_are_differentiable_too(device: str) -> None:
    operands = head(6, 8, 5, device=device)
    y = labels_for(torch.empty(6, 5)).to(device)
    both = dk.linear_scores(*operands[:2], ["loss"], operands[2], width=[8, 3], labels=y)["loss"]
    got = pull(list(both), operands)
    z = F.linear(*operands), F.linear(operands[0][:, :3], operands[1][:, :3], operands[2])
    want = pull([F.cross_entropy(logits, y, reduction="none") for logits in z], operands)
    for left, right in zip(got, want, strict=True):
        torch.testing.assert_close(left, right)


def test_leading_dimensions_and_autocast(device: str) -> None:
    operands = head(6, 8, 5, torch.float32, device)
    y = labels_for(torch.empty(6, 5)).to(device)
    features = operands[0].view(2, 3, 8)
    with torch.autocast(device, torch.bfloat16):
        found = dk.linear_scores(features, operands[1], ["loss"], operands[2], labels=y.view(2, 3))
    assert found["loss"].shape == (2, 3)
    assert found["loss"].dtype == torch.float32
    got = torch.autograd.grad(found["loss"].sum(), operands)
    want = torch.autograd.grad(F.cross_entropy(F.linear(*operands), y, reduction="sum"), operands)
    for left, right in zip(got, want, strict=True):
        assert left.dtype == torch.float32
        torch.testing.assert_close(left, right, rtol=0.05, atol=0.05)
