"""At each width a slimmable ResNet equals a plain one; an independent functional ResNet says so."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dynams.models import (
    Architecture,
    SlimmableConv2d,
    SlimmableLinear,
    SlimmableResNet,
    SwitchableBatchNorm2d,
    build_model,
    slim_channels,
)

WIDTHS = (0.3, 0.5, 1.0)
BASIC = Architecture((1, 2), False, 6, "cifar", 3, 5)
BASIC_IMAGENET = Architecture((1, 1, 1), False, 4, "imagenet", 1, 3)
BOTTLENECK = Architecture((2, 1), True, 5, "cifar", 3, 4)
BOTTLENECK_IMAGENET = Architecture((1, 2, 1), True, 4, "imagenet", 3, 7)
ARCHITECTURES = [BASIC, BASIC_IMAGENET, BOTTLENECK, BOTTLENECK_IMAGENET]


def batch_for(architecture: Architecture, seed: int = 0, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        4, architecture.in_channels, size, size, generator=generator, dtype=torch.float64
    )


def trained(architecture: Architecture, seed: int = 0) -> SlimmableResNet:
    """A double precision network whose batch-norms are not at their initial values."""
    generator = torch.Generator().manual_seed(seed)
    model = SlimmableResNet(architecture, WIDTHS, generator=generator).double()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if ".norm." in name and value.is_floating_point():
                value.uniform_(0.5, 1.5, generator=generator)
    return model


def reference_logits(
    state: Mapping[str, Tensor], architecture: Architecture, width: float, images: Tensor
) -> Tensor:
    """A ResNet in eval mode written with functions, slicing the full weights for itself."""
    norm_name = "width_" + str(width).replace(".", "_")

    def conv_norm(prefix: str, batch: Tensor, stride: int) -> Tensor:
        full = state[f"{prefix}.conv.weight"]
        rows = max(1, int(full.shape[0] * width + 0.5))
        weight = full[:rows, : batch.shape[1]].contiguous()
        batch = functional.conv2d(batch, weight, stride=stride, padding=full.shape[2] // 2)
        mean, variance, gamma, beta = (
            state[f"{prefix}.norm.{norm_name}.{entry}"].view(1, -1, 1, 1)
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


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_equal_an_independent_resnet_on_sliced_weights(
    architecture: Architecture, width: float
) -> None:
    model = trained(architecture).eval()
    images = batch_for(architecture)
    expected = reference_logits(model.state_dict(), architecture, width, images)
    torch.testing.assert_close(model(images, width), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plain_gives_the_same_outputs_gradients_and_statistics(
    architecture: Architecture, width: float, training: bool
) -> None:
    model = trained(architecture).train(training)
    plain = model.plain(width)
    images = batch_for(architecture)
    for _ in range(2):
        logits, expected = model(images, width), plain(images)
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            model.features(images, width), plain.features(images), rtol=1e-10, atol=1e-10
        )
    logits.square().sum().backward()
    expected.square().sum().backward()

    # What plain would be made of now: running statistics moved on equally.
    again = model.plain(width).state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=1e-9, atol=1e-9)
    norm_name = ".width_" + str(width).replace(".", "_")
    gradients = {
        name.replace(norm_name, ""): parameter.grad
        for name, parameter in model.named_parameters()
        if ".width_" not in name or norm_name in name
    }
    for name, parameter in plain.named_parameters():
        gradient = gradients[name]
        assert gradient is not None
        block = gradient[tuple(slice(size) for size in parameter.shape)]
        torch.testing.assert_close(block, parameter.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("architecture", [BASIC, BOTTLENECK])
def test_slim_gradients_touch_only_the_leading_block_and_the_own_batch_norms(
    architecture: Architecture,
) -> None:
    model = trained(architecture)
    model(batch_for(architecture), 0.5).square().sum().backward()
    shapes = {name: value.shape for name, value in model.plain(0.5).named_parameters()}
    for name, parameter in model.named_parameters():
        if ".width_" in name:
            assert (parameter.grad is not None) == (".width_0_5." in name)
            continue
        assert parameter.grad is not None
        block = tuple(slice(size) for size in shapes[name])
        outside = torch.ones_like(parameter, dtype=torch.bool)
        outside[block] = False
        assert parameter.grad[outside].eq(0).all()
        assert parameter.grad[block].ne(0).any()


@pytest.mark.parametrize("architecture", [BASIC, BOTTLENECK_IMAGENET])
def test_several_widths_in_one_forward_equal_one_forward_each(architecture: Architecture) -> None:
    together, apart = trained(architecture), trained(architecture)
    images = batch_for(architecture)
    outputs = together(images, (1.0, 0.3, 0.5))
    assert isinstance(outputs, tuple)
    expected = tuple(apart(images, width) for width in (1.0, 0.3, 0.5))
    for output, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, other, rtol=1e-12, atol=1e-12)
    sum(output.square().sum() for output in outputs).backward()
    sum(output.square().sum() for output in expected).backward()
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-9)
    for one, other in zip(together.buffers(), apart.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_no_width_is_the_full_width() -> None:
    model = trained(BASIC).eval()
    images = batch_for(BASIC)
    assert torch.equal(model(images), model(images, 1.0))
    assert torch.equal(model.features(images), model.features(images, 1.0))


@pytest.mark.parametrize("width", WIDTHS)
def test_logits_are_the_head_on_the_leading_features(width: float) -> None:
    model = trained(BOTTLENECK).eval()
    features = model.features(batch_for(BOTTLENECK), width)
    assert features.shape == (4, slim_channels(40, width))
    expected = features @ model.head.weight[:, : features.shape[1]].T + model.head.bias
    torch.testing.assert_close(model(batch_for(BOTTLENECK), width), expected)


def test_plain_is_made_of_ordinary_layers_only() -> None:
    plain = trained(BOTTLENECK).plain(0.5)
    slimmable = (SlimmableConv2d, SlimmableLinear, SwitchableBatchNorm2d)
    assert not any(isinstance(module, slimmable) for module in plain.modules())
    leaves = {type(module) for module in plain.modules() if not list(module.children())}
    assert leaves == {nn.Conv2d, nn.BatchNorm2d, nn.Linear}


def test_plain_shares_no_memory_with_its_model() -> None:
    model = trained(BASIC)
    before = copy.deepcopy(model.state_dict())
    for width in WIDTHS:
        for value in model.plain(width).state_dict().values():
            value.fill_(7)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_plain_keeps_mode_dtype_and_memory_format(training: bool) -> None:
    model = trained(BASIC).train(training).to(memory_format=torch.channels_last)
    plain = model.plain(0.5)
    assert all(module.training == training for module in plain.modules())
    assert {value.dtype for value in plain.parameters()} == {torch.float64}
    assert all(value.requires_grad and value.is_leaf for value in plain.parameters())
    weight = plain.get_parameter("stages.1.0.body.0.conv.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_plain_draws_no_random_numbers() -> None:
    model = trained(BASIC)
    before = torch.get_rng_state()
    model.plain(0.5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("architecture", [BASIC, BOTTLENECK])
@pytest.mark.parametrize("width", [0.5, (1.0, 0.5)])
def test_channels_last_is_kept_from_images_to_weight_gradients(
    architecture: Architecture, width: Any
) -> None:
    model = trained(architecture).to(memory_format=torch.channels_last)
    images = batch_for(architecture).to(memory_format=torch.channels_last)
    formats: list[bool] = []

    def record(module: nn.Module, args: Any, output: Tensor) -> None:
        formats.append(output.is_contiguous(memory_format=torch.channels_last))

    for module in model.modules():
        if isinstance(module, (SlimmableConv2d, SwitchableBatchNorm2d)):
            module.register_forward_hook(record)
    outputs = model(images, width)
    sum(
        o.square().sum() for o in (outputs if isinstance(outputs, tuple) else (outputs,))
    ).backward()
    assert formats
    assert all(formats)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.dim() == 4:
            assert parameter.grad.is_contiguous(memory_format=torch.channels_last), name


def test_a_plain_network_has_the_shapes_of_one_built_thinner() -> None:
    slim = build_model("resnet18", 10).plain(0.5)
    thin = build_model("resnet18", 10, base_channels=32).plain(1.0)
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
    expected = {f"{unit}.{entry}" for unit in units for entry in ("conv.weight", *norm)}
    expected |= {"head.weight", "head.bias"}
    assert set(SlimmableResNet(architecture, (0.5, 1.0)).state_dict()) == expected


def test_a_checkpoint_of_other_widths_is_refused_by_name() -> None:
    state = SlimmableResNet(BASIC, (0.5, 1.0)).state_dict()
    with pytest.raises(RuntimeError, match="width_0_25"):
        SlimmableResNet(BASIC, (0.25, 1.0)).load_state_dict(state)


def test_a_saved_state_gives_the_same_outputs() -> None:
    model, other = trained(BASIC, seed=0), trained(BASIC, seed=1)
    other.load_state_dict(model.state_dict())
    images = batch_for(BASIC)
    for width in WIDTHS:
        assert torch.equal(model.eval()(images, width), other.eval()(images, width))


def test_a_generator_decides_the_initial_weights_and_spares_the_global_one() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        SlimmableResNet(BASIC, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.stem.conv.weight, other.stem.conv.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("width", WIDTHS)
def test_zero_init_residual_makes_unchanging_blocks_the_identity(width: float) -> None:
    model = SlimmableResNet(BASIC, WIDTHS, zero_init_residual=True)
    blocks = list(model.residuals())
    batch = torch.rand(2, slim_channels(6, width), 4, 4)
    assert torch.equal(blocks[0](batch, width), batch)
    assert all(
        block.get_submodule("body.0.norm").at(width).weight.eq(1).all()  # type: ignore[operator]
        for block in blocks
    )


@pytest.mark.parametrize("width", [0.75, 0.0, 2])
def test_an_unknown_width_is_refused_with_the_known_ones(width: float) -> None:
    model = SlimmableResNet(BASIC, WIDTHS)
    images = batch_for(BASIC).float()
    message = rf"width: got {width}, want one of 0.3, 0.5, 1.0"
    with pytest.raises(ValueError, match=message):
        model(images, width)
    with pytest.raises(ValueError, match=message):
        model(images, (1.0, width))
    with pytest.raises(ValueError, match=message):
        model.features(images, width)
    with pytest.raises(ValueError, match=message):
        model.plain(width)


def test_an_empty_sequence_of_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one width"):
        SlimmableResNet(BASIC)(batch_for(BASIC).float(), ())


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (2, 8, 8, 3)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    for width in (0.5, (1.0, 0.5)):
        with pytest.raises(ValueError, match=r"images: got shape .*, want \(B, 3, H, W\)"):
            SlimmableResNet(BASIC)(torch.zeros(shape), width)


def test_integer_images_are_refused() -> None:
    with pytest.raises(TypeError, match=r"images: got torch.uint8, want floating point"):
        SlimmableResNet(BASIC)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_a_batch_of_none_gives_no_logits() -> None:
    model = SlimmableResNet(BASIC).eval()
    assert model(torch.zeros(0, 3, 8, 8), 0.5).shape == (0, 5)


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


def test_a_copy_runs_by_itself() -> None:
    model = trained(BASIC).eval()
    clone = copy.deepcopy(model)
    images = batch_for(BASIC)
    expected = model(images, (1.0, 0.5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(clone(images, (1.0, 0.5)), expected)
