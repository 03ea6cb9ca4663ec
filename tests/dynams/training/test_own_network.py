"""A user's network at the door: taken as it is or converted, refused by name, given back as it was."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from own_networks import Scaled, TimmResNet, ViT
from torch import nn

from dynams.models import build_model
from dynams.slimmable import SlimmableNetwork, convert
from dynams.training import TrainConfig, train
from dynams.training.own_network import (
    OwnNetwork,
    admit,
    check_model,
    copy_for_holdout,
    layout,
    returned,
)

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def admitted(model: nn.Module, proxy_width: float | None = None, **options):
    return admit(model, IMAGES, classes=3, proxy_width=proxy_width, **options)


@pytest.mark.parametrize("make", [TimmResNet, ViT])
def test_the_head_is_found_and_takes_the_features(make) -> None:
    model = make()
    network = admitted(model)
    assert isinstance(network, OwnNetwork)
    assert network.network is model
    assert network.head is (model.fc if make is TimmResNet else model.head)
    with network.evaluating():
        logits = network(IMAGES)
        features = network.features(IMAGES)
        expected = model.eval()(IMAGES)
    assert torch.equal(logits, expected)
    assert torch.equal(network.head(features), logits)


def test_a_network_that_is_a_linear_layer_is_its_own_head() -> None:
    model = nn.Linear(64, 3)
    network = admit(model, IMAGES.flatten(1), classes=3, proxy_width=None)
    assert network.head is model
    assert torch.equal(network.features(IMAGES.flatten(1)), IMAGES.flatten(1))


def test_logits_that_no_layer_gives_have_no_head() -> None:
    network = admitted(Scaled())
    assert network.head is None
    with network.evaluating():
        assert torch.equal(network.features(IMAGES), network(IMAGES))
    hooked = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    hooked[1].register_forward_hook(lambda module, given, result: 2 * result)
    assert admitted(hooked).head is None
    for need in ("features", "validation.features", "grand", "distance"):
        with pytest.raises(
            ValueError, match=rf"model: got Scaled, .*: a strategy needs {need.split('.')[-1]}$"
        ):
            admitted(Scaled(), needs={"loss", need})


def test_hooks_and_modes_are_the_users() -> None:
    model = ViT()
    calls: list[str] = []
    model.head.register_forward_pre_hook(lambda *_: calls.append("hook"))
    model.norm2.eval()
    modes = {each: each.training for each in model.modules()}
    network = admitted(model)
    assert calls == ["hook"]
    with network.evaluating():
        assert not any(each.training for each in network.modules())
        assert not network(IMAGES).requires_grad
    assert {each: each.training for each in model.modules()} == modes
    network.features(IMAGES)
    assert len(model.head._forward_pre_hooks) == 1
    with returned(model, network):
        network.eval()
        assert not model.training
        network.train()
        assert {each: each.training for each in model.modules()} == modes
        network.eval()
    assert {each: each.training for each in model.modules()} == modes


def test_a_network_handed_over_in_eval_mode_is_trained_and_given_back_in_it() -> None:
    model = ViT().eval()
    network = admitted(model)
    with returned(model, network):
        network.train()
        assert all(each.training for each in model.modules())
    assert not any(each.training for each in model.modules())


def test_a_block_of_scoring_keeps_tensors_usable_in_training() -> None:
    class Cached(nn.Linear):
        table: torch.Tensor | None = None

        def forward(self, x):
            if self.table is None:
                self.table = torch.ones(64) * 2
            return super().forward(x * self.table)

    model = Cached(64, 3)
    network = admit(model, IMAGES.flatten(1), classes=3, proxy_width=None)
    network(IMAGES.flatten(1).requires_grad_()).sum().backward()
    assert model.weight.grad is not None


def test_where_a_proxy_is_wanted_the_network_is_converted_with_its_weights() -> None:
    model = TimmResNet(drop_rate=0.2)
    network = admitted(model, 0.5)
    assert isinstance(network, SlimmableNetwork)
    assert network.widths == (0.5, 1.0)
    with torch.no_grad():
        assert torch.equal(network.eval()(IMAGES), model.eval()(IMAGES))


def test_trained_weights_are_written_back_whatever_ends_the_training() -> None:
    model = TimmResNet()
    before = model.fc.weight.detach().clone()
    network = admitted(model, 0.5)

    def train() -> None:
        with returned(model, network):
            network.train()
            network(IMAGES)  # moves the statistics of batch-norms
            with torch.no_grad():
                network.head.weight.mul_(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert model.training
    assert torch.equal(model.fc.weight, 2 * before)
    with torch.no_grad():
        assert torch.equal(model.eval()(IMAGES), network.eval()(IMAGES))


def test_what_runs_at_the_width_already_is_taken_as_it_is() -> None:
    resnet = build_model("resnet8", 3, widths=(0.25, 0.5, 1.0), in_channels=1, base_channels=4)
    converted = convert(TimmResNet(), (0.5, 1.0))
    for model in (resnet, converted):
        assert admitted(model, 0.5) is model
        assert admitted(model) is model
        with pytest.raises(ValueError, match=r"model: got one of widths .*, want 0.75 among them"):
            admitted(model, 0.75)


def test_what_cannot_be_converted_is_refused_with_the_way_out() -> None:
    told = r"\(Scaled\) slimmable: it must return the logits of an nn\.Linear"
    with pytest.raises(ValueError, match=rf"^model: cannot make .*{told}.*; proxy\.recipe: none"):
        admitted(Scaled(), 0.5)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda x: x, TypeError, r"model: got function, want an nn\.Module"),
        (ViT, TypeError, r"model: got the class ViT, want an nn\.Module"),
        (
            nn.DataParallel(nn.Linear(1, 1)),
            ValueError,
            r"model: got a DataParallel, want the network inside it",
        ),
        (
            nn.Linear(1, 1, device="meta"),
            ValueError,
            r"model: got parameters .* on the meta device",
        ),
    ],
)
def test_what_is_no_network_is_refused_before_anything_starts(model, error, message: str) -> None:
    with pytest.raises(error, match=message):
        train(TrainConfig(), model=model)


@pytest.mark.parametrize("proxy_width", [None, 0.5])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            TimmResNet(num_classes=5),
            r"model: got logits \(4, 5\) of images \(4, 1, 8, 8\), want \(4, 3\): a column",
        ),
        (TimmResNet(in_chans=3), r"model: got an error on images \(4, 1, 8, 8\), want"),
        (TimmResNet().double(), r"an error on .*; it has parameters of float64: model\.float\(\)"),
        (Pair(), r"model: got tuple of images \(4, 1, 8, 8\), want logits \(B, C\), or an object"),
        (
            TimmResNet().requires_grad_(False),
            r"model: got \w+ with no parameter that requires gradients",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(model, proxy_width, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        admitted(model, proxy_width)


def test_a_network_compiled_already_is_not_converted() -> None:
    model = torch.compile(TimmResNet(), backend="eager")
    with pytest.raises(ValueError, match=r"got an OptimizedModule, want the network inside it"):
        admitted(model, 0.5)


def test_logits_may_come_in_an_object() -> None:
    class Output(NamedTuple):
        hidden: torch.Tensor
        logits: torch.Tensor

    class Held(ViT):
        def forward(self, x):
            return Output(x, super().forward(x))

    model = Held()
    network = admitted(model)
    assert network.head is model.head
    with network.evaluating():
        assert torch.equal(network(IMAGES), model(IMAGES).logits)
        assert torch.equal(network.head(network.features(IMAGES)), network(IMAGES))


def test_what_is_no_logits_in_training_alone_is_refused_when_it_comes() -> None:
    class Auxiliary(ViT):
        def forward(self, x):
            logits = super().forward(x)
            return (logits, logits) if self.training else logits

    network = admitted(Auxiliary())
    with pytest.raises(ValueError, match=r"got tuple of images \(4, 1, 8, 8\) in training mode"):
        network.train()(IMAGES)


def test_probabilities_are_told_from_logits(caplog: pytest.LogCaptureFixture) -> None:
    layers = nn.Flatten(), nn.Linear(64, 3)
    admitted(nn.Sequential(*layers))
    assert not caplog.text
    admitted(nn.Sequential(*layers, nn.Softmax(1)))
    assert "model: got outputs that sum to 1 (Sequential), want logits" in caplog.text


@pytest.mark.parametrize("proxy_width", [None, 0.5])
def test_lazy_layers_are_initialised(proxy_width) -> None:
    model = nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )
    check_model(model)
    assert layout(model) == torch.contiguous_format
    network = admitted(model, proxy_width)
    assert model[1].num_batches_tracked == 0
    assert network(IMAGES).shape == (4, 3)
    with returned(model, network), torch.no_grad():
        network.head.weight.fill_(2.0)
    assert (model[4].weight == 2.0).all()


@pytest.mark.parametrize("proxy_width", [None, 0.5])
def test_a_copy_for_the_holdout_shares_nothing(proxy_width) -> None:
    network = admitted(TimmResNet(), proxy_width)
    twin = copy_for_holdout(network)
    with torch.no_grad():
        assert torch.equal(twin.eval()(IMAGES), network.eval()(IMAGES))
        for each in twin.parameters():
            each.zero_()
        assert network(IMAGES).abs().sum() > 0


def test_the_memory_order_is_the_networks() -> None:
    model = TimmResNet()
    assert layout(model) == torch.contiguous_format
    assert layout(model.to(memory_format=torch.channels_last)) == torch.channels_last
    assert layout(nn.Linear(2, 2)) == torch.contiguous_format
