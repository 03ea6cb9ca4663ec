"""What `convert` makes: the same network at full width, an ordinary slim one at every other."""

from __future__ import annotations

import copy
import functools
import io
from typing import cast

import pytest
import torch
from foreign_networks import NETWORKS, Inception, images, made, stir
from torch import Tensor, nn
from torch.nn import functional as F

import dynams_kernels as dk
from dynams import slimmable
from dynams.selection import SubsetSampler, score_batches

WIDTHS = (0.3, 0.5, 1.0)

every_network = pytest.mark.parametrize("name", NETWORKS)
# With grouped convolutions, batch-norms of features and concatenations: what copies must get right.
some_networks = pytest.mark.parametrize("name", ["mobilenet", "mlp", "inception"])
every_width = pytest.mark.parametrize("width", WIDTHS)


@functools.cache
def original(name: str) -> slimmable.SlimmableNetwork:
    return slimmable.convert(made(name), WIDTHS)


def converted(name: str) -> slimmable.SlimmableNetwork:
    """Converted, with norms of every width different."""
    network = copy.deepcopy(original(name))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        stir(network)
    return network


@every_network
@pytest.mark.parametrize("training", [False, True])
def test_full_width_gives_the_same_outputs_and_gradients_bit_for_bit(
    name: str, training: bool
) -> None:
    model = made(name).train(training)
    network = copy.deepcopy(original(name)).train(training)
    outputs, gradients = [], []
    for each in (model, network):
        with torch.random.fork_rng():
            torch.manual_seed(3)  # for dropout
            outputs.append(each(images()))
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)
    gradients = {key: value.grad for key, value in model.named_parameters()}
    for key, value in network.network.named_parameters():
        if "width_0" not in key:
            assert torch.equal(cast(Tensor, value.grad), gradients[key.replace(".width_1_0", "")])
    for key, buffer in model.named_buffers():
        assert torch.equal(network.plain(1.0).network.get_buffer(key), buffer)


@some_networks
def test_the_callers_model_is_left_as_it_is(name: str) -> None:
    model = made(name)
    model.train()
    list(model.modules())[-1].eval()
    modes = [module.training for module in model.modules()]
    before, tensors = copy.deepcopy(model.state_dict()), dict(model.named_parameters())
    network = slimmable.convert(model, WIDTHS)
    network.eval()
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(7)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(value is tensors[key] for key, value in model.named_parameters())
    assert [module.training for module in model.modules()] == modes


@some_networks
def test_full_width_state_goes_back_into_the_original_class(name: str) -> None:
    network, model = converted(name), made(name, seed=5)
    state = network.plain(1.0).network.state_dict()
    assert list(state) == list(model.state_dict())
    model.load_state_dict(state)
    assert torch.equal(model(images()), network(images()))


def slim_resnet(state: dict[str, Tensor], batch: Tensor, width: float) -> Tensor:
    """The residual network at one width, in eval mode, slicing weights for itself."""
    norm_name = "width_" + str(width).replace(".", "_")

    def conv(key: str, batch: Tensor, stride: int) -> Tensor:
        weight = state[f"{key}.weight"]
        rows = int(weight.shape[0] * width + 0.5)
        weight = weight[:rows, : batch.shape[1]]
        return F.conv2d(batch, weight, stride=stride, padding=weight.shape[2] // 2)

    def norm(key: str, batch: Tensor) -> Tensor:
        mean, variance, gamma, beta = (
            state[f"{key}.{norm_name}.{entry}"].view(1, -1, 1, 1)
            for entry in ("running_mean", "running_var", "weight", "bias")
        )
        return (batch - mean) / (variance + 1e-5).sqrt() * gamma + beta

    batch = norm("bn1", conv("conv1", batch, 2)).clamp(min=0)
    batch = F.max_pool2d(batch, 3, 2, 1)
    for key, stride in (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2)):
        inner = norm(f"{key}.bn1", conv(f"{key}.conv1", batch, stride)).clamp(min=0)
        inner = norm(f"{key}.bn2", conv(f"{key}.conv2", inner, 1))
        if f"{key}.downsample.0.weight" in state:
            batch = norm(f"{key}.downsample.1", conv(f"{key}.downsample.0", batch, stride))
        batch = (batch + inner).clamp(min=0)
    features = batch.mean((2, 3))
    return features @ state["fc.weight"][:, : features.shape[1]].T + state["fc.bias"]


@every_width
def test_a_residual_network_equals_one_written_by_hand(width: float) -> None:
    network = converted("resnet")
    expected = slim_resnet(network.network.state_dict(), images(), width)
    torch.testing.assert_close(network(images(), width), expected, rtol=1e-10, atol=1e-10)


@every_width
def test_a_vgg_equals_an_ordinary_network_with_sliced_weights(width: float) -> None:
    network = converted("vgg")
    state = network.network.state_dict()
    six, seven, nine = {0.3: (2, 2, 3), 0.5: (3, 4, 5), 1.0: (6, 7, 9)}[width]
    # As torch's modules, sized by hand: a pixel's six features of a channel stay together.
    slim = nn.Sequential(
        nn.Conv2d(3, six, 3, padding=1),
        nn.BatchNorm2d(six),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(six, seven, 3, padding=1),
        nn.BatchNorm2d(seven),
        nn.ReLU(),
        nn.Conv2d(seven, seven, 3, padding=1),
        nn.BatchNorm2d(seven),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Flatten(),
        nn.Linear(6 * seven, nine),
        nn.ReLU(),
        nn.Linear(nine, 4),
    ).double()
    names = {13: "classifier.0", 15: "classifier.3"}
    for index, layer in enumerate(slim):
        key = names.get(index, f"features.{index}")
        if isinstance(layer, nn.BatchNorm2d):
            key += ".width_" + str(width).replace(".", "_")
        for entry, value in layer.state_dict().items():
            whole = state[f"{key}.{entry}"]
            value.copy_(whole[tuple(slice(size) for size in value.shape)])
    torch.testing.assert_close(network(images(), width), slim.eval()(images()))


@every_width
def test_a_concatenation_keeps_the_first_channels_of_each_part(width: float) -> None:
    network = converted("inception")
    state = network.network.state_dict()
    # GroupNorm has four groups of two channels and keeps whole ones.
    one, three, five, six = {0.3: (1, 2, 2, 2), 0.5: (2, 4, 3, 3), 1.0: (3, 8, 5, 6)}[width]
    kept = [*range(one), *range(3, 3 + three), *range(11, 11 + five)]
    x = F.pad(images(), (1, 1, 1, 1), mode="reflect")
    x = F.conv2d(x, state["stem.weight"][:five], state["stem.bias"][:five]).relu()
    narrow = F.conv2d(x, state["one.weight"][:one, :five], state["one.bias"][:one])
    broad = F.conv2d(
        x, state["three.0.weight"][:three, :five], state["three.0.bias"][:three], padding=1
    )
    scale, shift = state["three.1.weight"][:three], state["three.1.bias"][:three]
    broad = F.group_norm(broad, three // 2, scale, shift)
    x = torch.cat([narrow, broad, x], 1)
    norm = "norm.width_" + str(width).replace(".", "_")
    mean, variance, gamma, beta = (
        state[f"{norm}.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias")
    )
    x = F.batch_norm(x, mean, variance, gamma, beta).relu()
    x = F.conv2d(x, state["mix.weight"][:six][:, kept], state["mix.bias"][:six])
    x = F.max_pool2d(x, 2).flatten(1)
    expected = x @ state["fc.weight"][:, : 36 * six].T + state["fc.bias"]
    torch.testing.assert_close(network(images(), width), expected)


def test_slim_norms_begin_as_the_channels_they_keep() -> None:
    model = made("inception")
    network = slimmable.convert(model, (0.5, 1.0)).network
    kept = [0, 1, 3, 4, 5, 6, 11, 12, 13]
    for entry, value in cast(Inception, model).norm.state_dict().items():
        slim = network.state_dict()[f"norm.width_0_5.{entry}"]
        assert torch.equal(slim, value[kept] if value.dim() else value)


@some_networks
@pytest.mark.parametrize(("width", "training"), [(0.3, False), (0.5, True), (1.0, False)])
def test_plain_gives_the_same_outputs_gradients_and_statistics(
    name: str, width: float, training: bool
) -> None:
    network = converted(name).train(training)
    plain = network.plain(width)
    outputs = []
    for run in (lambda: network(images(), width), lambda: plain(images())):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            outputs.append(run())
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)
    again = network.plain(width)
    for key, value in plain.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    # Gradients of the same tensors, the slim ones as the plain ones' place in them.
    total = sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None)
    expected = sum(float(p.grad.square().sum()) for p in plain.parameters() if p.grad is not None)
    assert total == pytest.approx(expected, rel=1e-9)
    assert network.features(images(), width).shape[1] == plain.head.weight.shape[1]


@some_networks
def test_plain_is_made_of_torchs_own_layers_and_shares_no_memory(name: str) -> None:
    network = converted(name)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    plain = network.plain(0.5)
    assert torch.equal(torch.get_rng_state(), state)
    theirs, ours = dict(made(name).named_modules()), dict(plain.network.named_modules())
    assert {key: type(each) for key, each in theirs.items()} == {
        key: type(each) for key, each in ours.items()
    }
    for value in plain.state_dict().values():
        value.fill_(7)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["resnet", "vgg", "mobilenet", "wide"])
def test_slim_gradients_stay_in_the_leading_block_and_the_own_batch_norms(name: str) -> None:
    network = converted(name)
    network(images(), 0.5).square().sum().backward()
    shapes = {key: value.shape for key, value in network.plain(0.5).named_parameters()}
    for key, parameter in network.named_parameters():
        if ".width_" in key:
            assert (parameter.grad is not None) == (".width_0_5." in key)
            continue
        assert parameter.grad is not None
        block = tuple(slice(size) for size in shapes[key])
        outside = torch.ones_like(parameter, dtype=torch.bool)
        outside[block] = False
        assert parameter.grad[outside].eq(0).all()
        assert parameter.grad[block].ne(0).any()


@some_networks
def test_several_widths_in_one_forward_equal_one_forward_each(name: str) -> None:
    together, apart = converted(name), converted(name)
    outputs = together(images(), (1.0, 0.3))
    expected = tuple(apart(images(), width) for width in (1.0, 0.3))
    assert all(torch.equal(one, other) for one, other in zip(outputs, expected, strict=True))
    sum(output.square().sum() for output in outputs).backward()
    sum(output.square().sum() for output in expected).backward()
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-9)


def test_training_two_widths_keeps_statistics_for_each() -> None:
    network, alone = converted("resnet").train(), converted("resnet").train()
    stem = network.network.get_submodule("bn1.width_0_5")
    before = cast(Tensor, stem.running_mean).clone()
    network(images())
    alone(images())
    assert torch.equal(cast(Tensor, stem.running_mean), before)  # it was not its turn
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
    labels = torch.arange(4)
    losses = []
    for _ in range(4):
        logits = network(images(), (1.0, 0.5))
        loss = torch.stack([F.cross_entropy(each, labels) for each in logits]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert int(cast(Tensor, stem.num_batches_tracked)) == 4
    assert not torch.equal(cast(Tensor, stem.running_mean), before)
    full = network.network.get_submodule("bn1.width_1_0")
    assert int(cast(Tensor, full.num_batches_tracked)) == 5


@some_networks
def test_saved_and_copied_networks_give_the_same_outputs(name: str) -> None:
    network = converted(name)
    other = converted(name)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.fill_(1)
    other.load_state_dict(network.state_dict())
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for width in (0.3, 1.0):
        expected = network(images(), width)
        for same in (other, loaded, copy.deepcopy(network)):
            assert torch.equal(same(images(), width), expected)
    clone = copy.deepcopy(network)
    with torch.no_grad():
        clone.head.weight.zero_()
    assert network.head.weight.abs().sum() > 0


@every_network
def test_folded_batch_norms_give_the_same_outputs(name: str) -> None:
    network = converted(name)
    plain = network.plain(0.5)
    plain.fold_batch_norms()
    torch.testing.assert_close(plain(images()), network(images(), 0.5))
    ran: list[nn.Module] = []
    for each in plain.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            each.register_forward_hook(lambda norm, *_: ran.append(norm))
    plain(images())
    # Those that follow a sum or a concatenation stay.
    assert len(ran) == {"wide": 3, "inception": 1}.get(name, 0)
    with pytest.raises(ValueError, match="eval mode"):
        network.train().plain(0.5).fold_batch_norms()


@pytest.mark.parametrize(("name", "width"), [("resnet", 0.3), ("vgg", 0.5), ("mlp", 1.0)])
def test_margins_of_features_and_head_are_those_of_the_logits(name: str, width: float) -> None:
    network = converted(name)
    features, head = network.features(images(), width), network.head
    margins = dk.linear_margin(features, head.weight, head.bias, width=features.shape[1])
    torch.testing.assert_close(margins, dk.margin(network(images(), width)))
    plain = network.plain(width)
    frozen = dk.linear_margin(plain.features(images()), plain.head.weight, plain.head.bias)
    torch.testing.assert_close(frozen, margins)
    torch.testing.assert_close(network.head_at(width)(features), network(images(), width))


def test_a_sampler_selects_by_a_slim_width() -> None:
    network, batch = converted("mlp"), images(count=10)
    sampler = SubsetSampler(10, budget=0.3)
    sampler.begin_epoch(0, lambda: score_batches(network, [batch], width=0.5))
    margins = dk.margin(network(batch, 0.5))
    assert torch.equal(sampler.indices, dk.smallest_k(margins, 3).indices)


def test_modes_dtypes_and_what_is_frozen_are_kept() -> None:
    model = made("resnet").train()
    model.get_submodule("layer1").eval()
    model.get_submodule("conv1").requires_grad_(False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = slimmable.convert(model, WIDTHS)
    for made_of in (network, copy.deepcopy(network)):
        inner = made_of.network
        assert made_of.training
        assert inner.get_submodule("bn1.width_0_5").training
        assert not inner.get_submodule("layer1.0.bn1.width_0_5").training
        assert not inner.get_parameter("conv1.weight").requires_grad
    assert not network.plain(0.5).network.get_parameter("conv1.weight").requires_grad
    for each in (network, network.plain(0.5)):
        weight = each.get_parameter("network.layer2.0.conv1.weight")
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert weight.dtype == torch.float64


def test_functional_dropout_follows_the_mode() -> None:
    network = converted("wide")
    expected = network(images(), 0.5)
    network.train()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    assert not torch.equal(network(images(), 0.5), expected)
    assert not torch.equal(network.plain(0.5)(images()), expected)
    assert torch.equal(network.eval()(images(), 0.5), expected)


def test_an_unknown_width_is_refused_and_none_is_the_full_one() -> None:
    network = converted("mlp")
    assert torch.equal(network(images()), network(images(), 1.0))
    assert network.widths == WIDTHS
    for call in (network, network.features):
        with pytest.raises(ValueError, match=r"width: got 0\.4, want one of 0\.3, 0\.5, 1\.0"):
            call(images(), 0.4)
    with pytest.raises(ValueError, match=r"got 0\.4"):
        network.plain(0.4)
    with pytest.raises(ValueError, match="empty sequence"):
        network(images(), ())


def test_it_compiles_into_one_graph() -> None:
    network = converted("mlp")
    fast = torch.compile(network, backend="eager", fullgraph=True, dynamic=True)
    outputs = fast(images(count=3), (1.0, 0.5))
    for output, width in zip(outputs, (1.0, 0.5), strict=True):
        torch.testing.assert_close(output, network(images(count=3), width))
    plain = torch.compile(network.plain(0.5), backend="eager", fullgraph=True)
    torch.testing.assert_close(plain(images(count=3)), outputs[1])
