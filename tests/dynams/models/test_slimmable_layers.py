"""Slimmable layers equal ordinary ones of each width; their gradients stay in the leading block."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dynams.models import (
    SlimmableConv2d,
    SlimmableLinear,
    SwitchableBatchNorm2d,
    slim_channels,
)

WIDTHS = (0.25, 1 / 3, 0.5, 1.0)


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(st.integers(1, 4096), st.integers(1, 64))
def test_slim_channels_rounds_half_up_and_keeps_at_least_one(channels: int, parts: int) -> None:
    # Widths in 64ths are exact, so integer arithmetic is an oracle.
    assert slim_channels(channels, parts / 64) == max(1, (2 * channels * parts + 64) // 128)


@given(st.integers(1, 4096))
def test_full_width_keeps_every_channel(channels: int) -> None:
    assert slim_channels(channels, 1.0) == channels


@pytest.mark.parametrize("width", [0.0, -0.5, 1.01, float("nan")])
def test_slim_channels_refuses_a_width_outside_its_range(width: float) -> None:
    with pytest.raises(ValueError, match=r"width: got .*, want a number in"):
        slim_channels(8, width)


def test_slim_channels_refuses_no_channels() -> None:
    with pytest.raises(ValueError, match="channels: got 0, want at least 1"):
        slim_channels(0, 0.5)


@pytest.mark.parametrize(
    "widths", [(), (0.5,), (1.0, 0.5), (0.5, 0.5, 1.0), (0.0, 1.0), (-0.5, 1.0), (0.5, 1.5)]
)
@pytest.mark.parametrize(
    "build",
    [
        lambda widths: SlimmableConv2d(4, 4, 3, widths=widths),
        lambda widths: SlimmableLinear(4, 4, widths=widths),
        lambda widths: SwitchableBatchNorm2d(4, widths=widths),
    ],
    ids=["conv", "linear", "norm"],
)
def test_widths_that_do_not_ascend_to_one_are_refused(
    widths: tuple[float, ...], build: Callable[[tuple[float, ...]], nn.Module]
) -> None:
    with pytest.raises(ValueError, match=r"widths: got .*, want"):
        build(widths)


def test_an_unknown_width_is_refused_with_the_known_ones() -> None:
    batch = images(1, 2, 4, 4, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"width: got 0.75, want one of 0.5, 1.0"):
        SlimmableConv2d(4, 4, 3, widths=(0.5, 1.0))(batch, 0.75)
    with pytest.raises(ValueError, match=r"width: got 0.75, want one of 0.5, 1.0"):
        SlimmableLinear(4, 4, widths=(0.5, 1.0))(batch, 0.75)
    with pytest.raises(ValueError, match=r"width: got 0.75, want one of 0.5, 1.0"):
        SwitchableBatchNorm2d(4, widths=(0.5, 1.0))(batch, 0.75)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel_size: got .*, want an odd"):
        SlimmableConv2d(4, 4, 2, widths=(1.0,))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("slim_input", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_conv_and_its_gradient_equal_an_ordinary_conv_in_the_leading_block(
    width: float, kernel_size: int, slim_input: bool, channels_last: bool
) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    conv = SlimmableConv2d(
        6, 9, kernel_size, widths=WIDTHS, stride=2, slim_input=slim_input
    ).double()
    conv = conv.to(memory_format=memory_format)
    columns, rows = slim_channels(6, width if slim_input else 1.0), slim_channels(9, width)
    plain = nn.Conv2d(columns, rows, kernel_size, 2, padding=kernel_size // 2, bias=False).double()
    plain.load_state_dict({"weight": conv.weight.detach()[:rows, :columns]})
    batch = images(3, columns, 8, 8).to(memory_format=memory_format)

    output, expected = conv(batch, width), plain(batch)
    upstream = images(*expected.shape, seed=1)
    output.backward(upstream)
    expected.backward(upstream)

    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    assert conv.weight.grad is not None
    assert plain.weight.grad is not None
    torch.testing.assert_close(
        conv.weight.grad[:rows, :columns], plain.weight.grad, rtol=1e-12, atol=1e-12
    )
    outside = torch.ones_like(conv.weight, dtype=torch.bool)
    outside[:rows, :columns] = False
    assert conv.weight.grad[outside].eq(0).all()
    assert conv.weight.grad.stride() == conv.weight.stride()


def test_linear_and_its_gradient_equal_an_ordinary_linear_in_the_leading_columns() -> None:
    linear = SlimmableLinear(6, 5, widths=WIDTHS).double()
    for width, columns in zip(WIDTHS, (2, 2, 3, 6), strict=True):
        features, upstream = images(4, columns), images(4, 5, seed=1)
        linear.zero_grad()
        output = linear(features, width)
        output.backward(upstream)
        expected = features.numpy() @ linear.weight.detach().numpy()[:, :columns].T
        expected = expected + linear.bias.detach().numpy()
        torch.testing.assert_close(output.detach(), torch.from_numpy(expected))
        assert linear.weight.grad is not None
        torch.testing.assert_close(linear.weight.grad[:, :columns], upstream.T @ features)
        assert linear.weight.grad[:, columns:].eq(0).all()
        assert linear.bias.grad is not None
        torch.testing.assert_close(linear.bias.grad, upstream.sum(0))


@pytest.mark.parametrize("widths", [(1.0, 0.5), (0.5, 0.25), (0.25, 1.0, 0.5), (1.0, 1.0)])
def test_blocks_taken_together_give_the_sum_of_their_separate_gradients(
    widths: tuple[float, ...],
) -> None:
    conv = SlimmableConv2d(4, 6, 3, widths=(0.25, 0.5, 1.0)).double()
    factors = [
        images(slim_channels(6, width), slim_channels(4, width), 3, 3, seed=seed)
        for seed, width in enumerate(widths)
    ]
    expected = torch.zeros_like(conv.weight)
    for factor in factors:
        expected[: factor.shape[0], : factor.shape[1]] += factor

    blocks = conv.weights_at(widths)
    loss = sum((block * factor).sum() for block, factor in zip(blocks, factors, strict=True))
    assert isinstance(loss, Tensor)
    loss.backward(retain_graph=True)
    torch.testing.assert_close(conv.weight.grad, expected)
    loss.backward()
    torch.testing.assert_close(conv.weight.grad, 2 * expected)


def test_a_block_left_unused_contributes_nothing() -> None:
    conv = SlimmableConv2d(4, 6, 3, widths=(0.5, 1.0)).double()
    full, _ = conv.weights_at((1.0, 0.5))
    full.sum().backward()
    torch.testing.assert_close(conv.weight.grad, torch.ones_like(conv.weight))


def test_an_expanded_gradient_of_the_full_block_is_not_written_to() -> None:
    conv = SlimmableConv2d(4, 6, 3, widths=(0.5, 1.0)).double()
    full, slim = conv.weights_at((1.0, 0.5))
    (full.sum() + slim.sum()).backward()
    expected = torch.ones_like(conv.weight)
    expected[:3, :2] += 1
    torch.testing.assert_close(conv.weight.grad, expected)


def test_gradients_of_blocks_may_be_differentiated_again() -> None:
    conv = SlimmableConv2d(3, 4, 3, widths=(0.5, 1.0)).double()
    weight = conv.weight.detach().requires_grad_()
    batch = images(2, 3, 4, 4)

    def outputs(weight: Tensor) -> tuple[Tensor, ...]:
        del conv.weight
        conv.weight = weight  # type: ignore[assignment]
        full, slim = conv.weights_at((1.0, 0.5))
        conv2d = nn.functional.conv2d
        return conv2d(batch, full).square(), conv2d(batch[:, :2], slim).square()

    assert torch.autograd.gradcheck(outputs, (weight,))
    assert torch.autograd.gradgradcheck(outputs, (weight,))


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("width", [0.5, 1.0])
@pytest.mark.parametrize("channels_last", [True, False])
def test_conv_keeps_the_memory_format_of_its_input(
    kernel_size: int, width: float, channels_last: bool
) -> None:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    conv = SlimmableConv2d(8, 8, kernel_size, widths=(0.5, 1.0)).to(memory_format=memory_format)
    batch = images(2, int(8 * width), 6, 6, dtype=torch.float32).to(memory_format=memory_format)
    assert conv(batch, width).is_contiguous(memory_format=memory_format)


def test_training_at_one_width_leaves_the_statistics_of_the_others() -> None:
    norm = SwitchableBatchNorm2d(4, widths=(0.5, 1.0)).double()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    batch = images(8, 2, 3, 3)
    norm(batch, 0.5)
    after = norm.state_dict()
    assert all(
        torch.equal(before[name], after[name]) for name in before if name.startswith("width_1_0.")
    )
    torch.testing.assert_close(
        after["width_0_5.running_mean"], 0.1 * batch.mean((0, 2, 3)), rtol=1e-12, atol=1e-12
    )


def test_batch_norms_turn_into_synchronised_ones() -> None:
    norm = SwitchableBatchNorm2d(4, widths=(0.5, 1.0)).eval()
    batch = images(8, 2, 3, 3, dtype=torch.float32)
    expected = norm(batch, 0.5)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(norm).eval()
    assert all(isinstance(child, nn.SyncBatchNorm) for child in converted.children())
    torch.testing.assert_close(converted(batch, 0.5), expected)


def test_initial_weights_are_kaiming_fan_out() -> None:
    conv = SlimmableConv2d(64, 96, 3, widths=(1.0,), generator=torch.Generator().manual_seed(0))
    weight = conv.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (96 * 9)) ** 0.5, rel=0.02)
    assert abs(float(weight.mean())) < 1e-3
