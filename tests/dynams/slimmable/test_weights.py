"""The part of a weight that a width uses: how many channels, compact in its memory format, gradients added up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dynams.slimmable import slim_channels
from dynams.slimmable.axes import Axis
from dynams.slimmable.norms import SwitchableBatchNorm
from dynams.slimmable.weights import Slices
from dynams.slimmable.widths import check_widths

WIDTHS = (0.25, 0.5, 1.0)


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def slices(*shape: int, slim: int = 2) -> Slices:
    """Of a weight whose first axes slim."""
    return Slices.of([Axis(size, fixed=at >= slim) for at, size in enumerate(shape)], WIDTHS)


@given(st.integers(1, 4096), st.integers(1, 64))
def test_slim_channels_rounds_half_up_and_keeps_at_least_one(channels: int, parts: int) -> None:
    # Widths in 64ths are exact, so integer arithmetic is an oracle.
    assert slim_channels(channels, parts / 64) == max(1, (2 * channels * parts + 64) // 128)


@pytest.mark.parametrize("width", [0.0, -0.5, 1.01, float("nan")])
def test_slim_channels_refuses_a_width_outside_its_range(width: float) -> None:
    with pytest.raises(ValueError, match=r"width: got .*, want a number in"):
        slim_channels(8, width)
    with pytest.raises(ValueError, match="channels: got 0, want at least 1"):
        slim_channels(0, 0.5)


@pytest.mark.parametrize(
    "widths", [(), (0.5,), (1.0, 0.5), (0.5, 0.5, 1.0), (0.0, 1.0), (-0.5, 1.0), (0.5, 1.5)]
)
def test_widths_that_do_not_ascend_to_one_are_refused(widths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"widths: got .*, want"):
        check_widths(widths)


@pytest.mark.parametrize("widths", [(1.0, 0.5), (0.5, 0.25), (0.25, 1.0, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_parts_taken_together_give_the_sum_of_their_separate_gradients(
    widths: tuple[float, ...], channels_last: bool
) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    weight = images(6, 4, 3, 3, seed=9).to(memory_format=memory_format).requires_grad_()
    factors = [
        images(slim_channels(6, width), slim_channels(4, width), 3, 3, seed=seed)
        for seed, width in enumerate(widths)
    ]
    expected = torch.zeros_like(weight)
    for factor in factors:
        expected[: factor.shape[0], : factor.shape[1]] += factor
    parts = slices(6, 4, 3, 3).parts(weight, widths)
    for part, factor in zip(parts, factors, strict=True):
        assert torch.equal(part, weight[: factor.shape[0], : factor.shape[1]])
        assert part.is_contiguous(memory_format=memory_format)
    loss = sum((part * factor).sum() for part, factor in zip(parts, factors, strict=True))
    assert isinstance(loss, Tensor)
    loss.backward(retain_graph=True)
    torch.testing.assert_close(weight.grad, expected)
    loss.backward()
    torch.testing.assert_close(weight.grad, 2 * expected)


def test_a_part_left_unused_contributes_nothing_and_an_expanded_gradient_is_not_written_to() -> (
    None
):
    weight = images(6, 4, 3, 3).requires_grad_()
    expected = torch.ones_like(weight)
    full, slim = slices(6, 4, 3, 3).parts(weight, (1.0, 0.5))
    full.sum().backward(retain_graph=True)
    torch.testing.assert_close(weight.grad, expected)
    weight.grad = None
    (full.sum() + slim.sum()).backward()
    expected[:3, :2] += 1
    torch.testing.assert_close(weight.grad, expected)


def test_sparse_gradients_of_parts_are_added_too() -> None:
    table, rows = images(5, 4).requires_grad_(), torch.tensor([3, 1, 3])
    parts = Slices.of([Axis(5, fixed=True), Axis(4)], WIDTHS).parts(table, (0.5, 1.0))
    for part in parts:
        nn.functional.embedding(rows, part, sparse=True).sum().backward(retain_graph=True)
    torch.stack(
        [nn.functional.embedding(rows, part, sparse=True).sum() for part in parts]
    ).sum().backward()
    expected = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0])[:, None] * torch.tensor([2.0, 2.0, 1.0, 1.0])
    torch.testing.assert_close(table.grad, 2 * expected.to(table))


def test_gradients_of_parts_may_be_differentiated_again() -> None:
    batch, conv2d = images(2, 3, 4, 4), nn.functional.conv2d

    def outputs(weight: Tensor) -> tuple[Tensor, ...]:
        full, slim = slices(4, 3, 3, 3).parts(weight, (1.0, 0.5))
        return conv2d(batch, full).square(), conv2d(batch[:, :2], slim).square()

    weight = images(4, 3, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(outputs, (weight,))
    assert torch.autograd.gradgradcheck(outputs, (weight,))


def test_batch_norms_turn_into_synchronised_ones() -> None:
    norm = SwitchableBatchNorm.of(nn.BatchNorm2d(4), Axis(4), (0.5, 1.0)).eval()
    batch = images(8, 2, 3, 3).float()
    expected = norm(batch, 0.5)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(norm).eval()
    assert all(isinstance(child, nn.SyncBatchNorm) for child in converted.children())
    torch.testing.assert_close(converted(batch, 0.5), expected)
