"""The sprint network against one in NumPy; its sizes, its first weights, its slim widths."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from dynams.models import Sprint, build_model
from dynams.models.sprint import _pass_through
from dynams.slimmable import SlimmableNetwork
from dynams.slimmable.moulds import filled
from dynams.slimmable.widths import slim_channels
from dynams.training.network import frozen

_erf = np.vectorize(math.erf, otypes=[float])


def gelu(values: np.ndarray) -> np.ndarray:
    return values * 0.5 * (1 + _erf(values / math.sqrt(2)))


def convolved(images: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, weight)


def reference_logits(
    state: Mapping[str, torch.Tensor], images: np.ndarray, depth: int, training: bool
) -> np.ndarray:
    """The network of its description: the first convolution of a group, then its pool, then its norm."""

    def value(name: str) -> np.ndarray:
        return state[name].numpy()

    def norm(values: np.ndarray, name: str) -> np.ndarray:
        mean, variance = value(f"{name}.running_mean"), value(f"{name}.running_var")
        if training:
            mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))
        scaled = (values - mean[:, None, None]) / np.sqrt(variance + 1e-12)[:, None, None]
        return scaled + value(f"{name}.bias")[:, None, None]

    output = gelu(convolved(images, value("first.weight"), 0) + value("first.bias")[:, None, None])
    for group in range(sum(name.endswith("convs.0.weight") for name in state)):
        prefix = f"groups.{group}"
        output = convolved(output, value(f"{prefix}.convs.0.weight"), 1)
        high, wide = (size // 2 for size in output.shape[2:])
        output = output[:, :, : 2 * high, : 2 * wide]
        output = output.reshape(*output.shape[:2], high, 2, wide, 2).max((3, 5))
        output = first = gelu(norm(output, f"{prefix}.norms.0"))
        output = norm(convolved(output, value(f"{prefix}.convs.1.weight"), 1), f"{prefix}.norms.1")
        output = gelu(output)
        if depth == 3:
            output = convolved(output, value(f"{prefix}.convs.2.weight"), 1)
            output = gelu(norm(output, f"{prefix}.norms.2") + first)
    return output.max((2, 3)) / 9 @ value("head.weight").T


def seen(network: nn.Module) -> nn.Module:
    """Norms as after some training, though their scale is not trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if "norms." in name and not name.endswith(".weight") and value.is_floating_point():
                value.uniform_(0.5, 1.5, generator=generator)
    return network


def images_of(side: int, channels: int = 3, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("channels", "depth", "in_channels", "side"),
    [((6, 8, 10), 2, 3, 17), ((6, 8, 10), 3, 1, 32), ((5, 4), 3, 3, 12)],
)
def test_logits_equal_numpys(
    channels: tuple[int, ...], depth: int, in_channels: int, side: int, training: bool
) -> None:
    network = Sprint(channels, depth, in_channels=in_channels, num_classes=7).double()
    images = images_of(side, in_channels)
    network.whiten(images)
    seen(network).train(training)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    expected = reference_logits(state, images.numpy(), depth, training)
    with torch.no_grad():
        np.testing.assert_allclose(network(images).numpy(), expected, rtol=1e-9, atol=1e-9)
        assert network.features(images).shape == (4, channels[-1])


@pytest.mark.parametrize(
    ("channels", "depth", "convolutions"),
    [
        ((64, 256, 256), 2, 24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256),
        (
            (128, 384, 512),
            3,
            24 * 128 + 2 * 128**2 + 128 * 384 + 2 * 384**2 + 384 * 512 + 2 * 512**2,
        ),
    ],
)
def test_the_records_sizes(channels: tuple[int, ...], depth: int, convolutions: int) -> None:
    with torch.device("meta"):
        network = Sprint(channels, depth)
    trained = sum(each.numel() for each in network.parameters() if each.requires_grad)
    assert trained == 24 + 9 * convolutions + depth * sum(channels) + 10 * channels[-1]
    frozen_ones = {name for name, each in network.named_parameters() if not each.requires_grad}
    scales = {f"groups.{g}.norms.{n}.weight" for g in range(3) for n in range(depth)}
    assert frozen_ones == {"first.weight"} | scales


def test_a_generator_decides_the_initial_weights_and_spares_the_global_one() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        Sprint((4, 6), 2, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    pairs = [list(each.state_dict().values()) for each in (one, same, other)]
    assert all(map(torch.equal, pairs[0], pairs[1]))
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize(("outputs", "inputs"), [(16, 6), (9, 9), (5, 8)])
def test_outputs_begin_as_copies_of_the_inputs_beside_noise(outputs: int, inputs: int) -> None:
    network = Sprint((inputs, outputs), 2, generator=torch.Generator().manual_seed(0))
    weight = network.groups[1].convs[0].weight.detach()
    images = torch.randn(2, inputs, 5, 5)
    result = nn.functional.conv2d(images, weight, padding=1)
    copies = [output for output in range(outputs) if int(weight[output].count_nonzero()) == 1]
    assert len(copies) == min(outputs, inputs)
    for at, output in enumerate(copies):
        torch.testing.assert_close(result[:, output], images[:, at])
    bound = 1 / math.sqrt(9 * inputs)
    noise = [output for output in range(outputs) if output not in copies]
    assert weight[noise].abs().max() <= bound if noise else True


@settings(derandomize=True, deadline=None, max_examples=200, database=None)
@given(
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 40),
    width=st.floats(0.01, 1.0),
)
def test_no_width_keeps_an_output_without_inputs(outputs: int, inputs: int, width: float) -> None:
    # It would be constant, and its norm would divide by nothing.
    weight = torch.ones(outputs, inputs, 1, 1)
    _pass_through(weight)
    kept = weight[: slim_channels(outputs, width), : slim_channels(inputs, width)]
    assert kept.flatten(1).any(1).all()
    assert int((weight.flatten(1).count_nonzero(1) == 1).sum()) >= min(outputs, inputs)


def slimmable(depth: int = 3) -> SlimmableNetwork:
    model = build_model(
        "sprint",
        5,
        widths=(0.4, 1.0),
        channels=(8, 12, 10),
        depth=depth,
        generator=torch.Generator().manual_seed(0),
    )
    model.network.whiten(images_of(16))
    seen(model)
    return model.double()


@pytest.mark.parametrize("depth", [2, 3])
def test_a_slim_width_is_the_network_of_its_leading_channels(depth: int) -> None:
    model, images = slimmable(depth), images_of(20)
    for training in (False, True):
        for width in model.widths:
            plain = model.train(training).plain(width).network
            state = {name: value.detach().clone() for name, value in plain.state_dict().items()}
            expected = reference_logits(state, images.numpy(), depth, training)
            with torch.no_grad():
                ours = model(images, width).numpy()
            np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [0.4, 1.0])
def test_a_frozen_copy_folds_every_norm_and_is_filled_again(width: float) -> None:
    model, images = slimmable().eval(), images_of(20)
    copy = frozen(model, width)
    torch.testing.assert_close(copy(images), model(images, width))
    assert not model.changes_itself
    for _ in range(2):
        with filled(model, width, torch.contiguous_format, None) as again, torch.no_grad():
            torch.testing.assert_close(again(images), model(images, width))
            for value in model.parameters():
                value.add_(0.01)
    (mould,) = model.moulds.values()
    assert mould.serves(model)


@pytest.mark.parametrize("side", [9, 24, 64])
def test_takes_images_of_any_size_from_the_smallest(side: int) -> None:
    assert Sprint.smallest_side(3) == 9
    model = slimmable()
    for width in model.widths:
        assert model(images_of(side), width).isfinite().all()
    with pytest.raises(RuntimeError):
        model(images_of(8))


@pytest.mark.parametrize("width", [0.4, (1.0, 0.4)])
def test_every_trained_parameter_of_a_width_has_a_gradient_within_bounds(width: object) -> None:
    model = slimmable().float().train()
    outputs = model(images_of(16, count=16).float(), width)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(each.square().sum() for each in outputs).backward()
    for name, each in model.named_parameters():
        if each.requires_grad and (isinstance(width, tuple) or "width_1_0" not in name):
            assert each.grad is not None, name
            assert each.grad.abs().max() < 1e3, name


def test_the_largest_of_what_is_left_is_taken_by_its_place() -> None:
    """As compiled code must: of values that it compares anew none may be the largest, and 0 / 0 be the gradient."""
    network = Sprint((4, 6), 2)
    with torch.no_grad():
        for group in network.groups:
            for conv in group.convs:
                conv.weight.zero_()  # all places of a channel are the same
    left: list[torch.Tensor] = []
    network.groups[-1].register_forward_hook(lambda *call: left.append(call[2]))
    features = network.features(torch.randn(2, 3, 16, 16))
    (gradient,) = torch.autograd.grad(features.sum(), left)
    assert (gradient != 0).sum((2, 3)).eq(1).all()
