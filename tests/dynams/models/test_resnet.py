"""ResNets, plain and at each width, against one written with functions; their names and first weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dynams.models import Architecture, ResNet, build_model
from dynams.slimmable import SlimmableNetwork, convert

WIDTHS = (0.3, 0.5, 1.0)
BASIC = Architecture((1, 2), False, 6, "cifar", 3, 5)
BASIC_IMAGENET = Architecture((1, 1, 1), False, 4, "imagenet", 1, 3)
BOTTLENECK = Architecture((2, 1), True, 5, "cifar", 3, 4)
BOTTLENECK_IMAGENET = Architecture((1, 2, 1), True, 4, "imagenet", 3, 7)
ARCHITECTURES = [BASIC, BASIC_IMAGENET, BOTTLENECK, BOTTLENECK_IMAGENET]


def batch_for(architecture: Architecture, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (4, architecture.in_channels, 12, 12)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def trained(architecture: Architecture, seed: int = 0) -> SlimmableNetwork:
    """A double precision network whose batch-norms are not at their initial values."""
    generator = torch.Generator().manual_seed(seed)
    resnet = ResNet(architecture, generator=generator).double()
    model = convert(resnet, WIDTHS, example=batch_for(architecture))
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if ".norm." in name and value.is_floating_point():
                value.uniform_(0.5, 1.5, generator=generator)
    return model


def reference_logits(
    state: Mapping[str, Tensor], architecture: Architecture, norm: str, width: float, images: Tensor
) -> Tensor:
    """A ResNet in eval mode written with functions, slicing the full weights for itself."""

    def conv_norm(prefix: str, batch: Tensor, stride: int) -> Tensor:
        full = state[f"{prefix}.conv.weight"]
        rows = max(1, int(full.shape[0] * width + 0.5))
        weight = full[:rows, : batch.shape[1]].contiguous()
        batch = functional.conv2d(batch, weight, stride=stride, padding=full.shape[2] // 2)
        mean, variance, gamma, beta = (
            state[f"{prefix}.{norm}.{entry}"].view(1, -1, 1, 1)
            for entry in ("running_mean", "running_var", "weight", "bias")
        )
        return (batch - mean) / (variance + 1e-5).sqrt() * gamma + beta

    imagenet = architecture.stem == "imagenet"
    batch = conv_norm("stem", images, 2 if imagenet else 1).clamp(min=0)
    if imagenet:
        batch = functional.max_pool2d(batch, 3, 2, 1)
    for stage, count in enumerate(architecture.blocks):
        for block in range(count):
            prefix = f"stages.{stage}.{block}"
            stride = 2 if stage > 0 and block == 0 else 1
            identity = batch
            if f"{prefix}.shortcut.conv.weight" in state:
                identity = conv_norm(f"{prefix}.shortcut", batch, stride)
            if architecture.bottleneck:
                batch = conv_norm(f"{prefix}.body.0", batch, 1).clamp(min=0)
                batch = conv_norm(f"{prefix}.body.1", batch, stride).clamp(min=0)
                batch = conv_norm(f"{prefix}.body.2", batch, 1)
            else:
                batch = conv_norm(f"{prefix}.body.0", batch, stride).clamp(min=0)
                batch = conv_norm(f"{prefix}.body.1", batch, 1)
            batch = (batch + identity).clamp(min=0)
    features = batch.mean((2, 3))
    return features @ state["head.weight"][:, : features.shape[1]].T + state["head.bias"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_equal_an_independent_resnet_plain_and_at_every_width(
    architecture: Architecture,
) -> None:
    model = trained(architecture).eval()
    images = batch_for(architecture)
    state = model.network.state_dict()
    for width in WIDTHS:
        norm = "norm.width_" + str(width).replace(".", "_")
        expected = reference_logits(state, architecture, norm, width, images)
        torch.testing.assert_close(model(images, width), expected, rtol=1e-10, atol=1e-10)
    plain = model.plain(1.0).network
    assert type(plain) is ResNet
    expected = reference_logits(plain.state_dict(), architecture, "norm", 1.0, images)
    torch.testing.assert_close(plain(images), expected, rtol=1e-10, atol=1e-10)
    features = plain.features(images)
    assert features.shape == (4, architecture.num_features)
    assert torch.equal(plain.head(features), plain(images))


def test_the_heads_gradients_are_added_last_width_first() -> None:
    # Bit for bit, whatever else changes: seeded runs of before end with the same weights.
    model = trained(BOTTLENECK).float()
    images = batch_for(BOTTLENECK).float()

    def gradient(*widths: float) -> Tensor:
        model.zero_grad()
        sum(logits.square().sum() for logits in model(images, widths)).backward()
        return model.head.weight.grad.clone()

    full, half, third = (gradient(width) for width in (1.0, 0.5, 0.3))
    assert torch.equal(gradient(1.0, 0.5, 0.3), (third + half) + full)
    assert not torch.equal((third + half) + full, (full + half) + third)


@pytest.mark.parametrize("architecture", [BASIC, BOTTLENECK])
@pytest.mark.parametrize("width", [0.5, (1.0, 0.5)])
def test_channels_last_reaches_the_weight_gradients(architecture: Architecture, width: Any) -> None:
    model = trained(architecture).to(memory_format=torch.channels_last)
    outputs = model(batch_for(architecture).to(memory_format=torch.channels_last), width)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(each.square().sum() for each in outputs).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.dim() == 4:
            assert parameter.grad.is_contiguous(memory_format=torch.channels_last), name


def test_a_slim_width_has_the_shapes_of_a_network_built_thinner() -> None:
    slim = build_model("resnet18", 10, base_channels=16).plain(0.5)
    thin = build_model("resnet18", 10, base_channels=8).plain(1.0)
    assert {name: value.shape for name, value in slim.state_dict().items()} == {
        name: value.shape for name, value in thin.state_dict().items()
    }


def test_state_dict_keys_are_stable() -> None:
    architecture = Architecture((1, 1), False, 4, "cifar", 3, 2)
    norm = [
        f"norm.width_{width}.{entry}"
        for width in ("0_5", "1_0")
        for entry in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    units = [
        "stem",
        "stages.0.0.body.0",
        "stages.0.0.body.1",
        "stages.1.0.body.0",
        "stages.1.0.body.1",
        "stages.1.0.shortcut",
    ]
    expected = [f"network.{unit}.{entry}" for unit in units for entry in ("conv.weight", *norm)]
    expected += ["network.head.weight", "network.head.bias"]
    model = convert(ResNet(architecture), (0.5, 1.0), example=torch.zeros(2, 3, 8, 8))
    assert list(model.state_dict()) == expected


def test_a_state_under_the_names_of_before_loads() -> None:
    # Once the ResNets were slimmable by themselves, and their names had no prefix.
    model, other = trained(BASIC, seed=0), trained(BASIC, seed=1)
    state = {name.removeprefix("network."): value for name, value in model.state_dict().items()}
    other.load_state_dict(state)
    images = batch_for(BASIC)
    for width in WIDTHS:
        assert torch.equal(model.eval()(images, width), other.eval()(images, width))
    narrow = convert(ResNet(BASIC), (0.25, 1.0), example=torch.zeros(2, 3, 8, 8))
    with pytest.raises(RuntimeError, match="width_0_25"):
        narrow.load_state_dict(state)


def test_a_generator_decides_the_initial_weights_and_spares_the_global_one() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        ResNet(BASIC, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    build_model("resnet8", 3, base_channels=4, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.stem.conv.weight, other.stem.conv.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_initial_weights_are_kaiming_fan_out_and_norms_the_identity() -> None:
    architecture = Architecture((1,), False, 64, "cifar", 3, 10)
    resnet = ResNet(architecture, generator=torch.Generator().manual_seed(0))
    weight = resnet.get_parameter("stages.0.0.body.0.conv.weight").detach()
    assert float(weight.std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert abs(float(weight.mean())) < 1e-3
    assert 0.9 / 8 < float(resnet.head.weight.detach().abs().max()) <= 1 / 8
    for name, value in resnet.state_dict().items():
        if ".norm." in name:
            assert value.eq(name.endswith(("weight", "running_var"))).all(), name


def test_zero_init_residual_makes_unchanging_blocks_the_identity() -> None:
    resnet = ResNet(BASIC, zero_init_residual=True)
    batch = torch.rand(2, 6, 4, 4)
    assert torch.equal(next(resnet.residuals())(batch), batch)
    assert all(
        block.get_parameter("body.0.norm.weight").eq(1).all() for block in resnet.residuals()
    )
    model = build_model("resnet8", 3, zero_init_residual=True)
    last = {name: value for name, value in model.named_parameters() if ".body.1.norm." in name}
    scales = [value for name, value in last.items() if name.endswith("weight")]
    assert [len(value) for value in scales] == [8, 16, 16, 32, 32, 64]
    assert all(value.eq(0).all() for value in scales)


def test_a_batch_of_none_gives_no_logits() -> None:
    assert trained(BASIC).eval()(torch.zeros(0, 3, 8, 8).double(), 0.5).shape == (0, 5)


def test_compiles_whole_at_every_width() -> None:
    architecture = Architecture((1, 1), False, 4, "cifar", 3, 5)
    model = trained(architecture)
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    images = batch_for(architecture)
    for width in (0.5, (1.0, 0.5)):
        outputs, expected = compiled(images, width), reference(images, width)
        torch.testing.assert_close(outputs, expected)
        if isinstance(width, tuple):
            sum(output.square().sum() for output in outputs).backward()
            sum(output.square().sum() for output in expected).backward()
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
