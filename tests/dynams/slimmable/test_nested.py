"""Nested widths: one pass gives what a block-triangular network gives, in values and in gradients."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import foreign_networks
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dynams.models import build_model
from dynams.slimmable import SlimmableNetwork, convert, slim_channels
from dynams.slimmable.moulds import filled
from dynams.slimmable.network import SlimHead


class Small(nn.Module):
    """Two convolutions with norms, a sum of both, and a hidden linear layer; C classes."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.two = nn.Conv2d(channels, channels, 1, bias=False)
        self.hidden = nn.Linear(channels, hidden)
        self.head = nn.Linear(hidden, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.one(images)))
        x = (x + self.two(x)).mean((2, 3))
        return self.head(F.relu(self.hidden(x)))


def small(channels: int = 6, hidden: int = 5, width: float = 0.5) -> SlimmableNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(channels + 10 * hidden)
        model = Small(channels, hidden)
        for value in (*model.parameters(), model.norm.running_mean):
            nn.init.normal_(value, std=0.5)
        return convert(model, (width, 1.0), nested=True).eval()


def pictures(count: int = 4, channels: int = 2, side: int = 5) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(count))


def oracle(
    network: SlimmableNetwork, images: Tensor, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the full and of the slim width by NumPy in float64, from the state alone."""
    state = {k: v.double().numpy() for k, v in network.plain(1.0).network.state_dict().items()}
    c, h = (slim_channels(len(state[k]), width) for k in ("two.weight", "hidden.weight"))
    two, hidden = state["two.weight"][:, :, 0, 0].copy(), state["hidden.weight"].copy()
    # What makes it block-triangular, whatever the weights are.
    two[:c, c:] = 0.0
    hidden[:h, c:] = 0.0
    x = np.pad(images.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    x = np.einsum("bihwkl,oikl->bohw", windows, state["one.weight"])
    x += state["one.bias"][:, None, None]
    mean, var, scale, shift = (
        state[f"norm.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
    )
    x = np.maximum((x - mean) / np.sqrt(var + 1e-5) * scale + shift, 0.0)
    x = (x + np.einsum("bihw,oi->bohw", x, two)).mean((2, 3))
    x = np.maximum(x @ hidden.T + state["hidden.bias"], 0.0)
    weight, bias = state["head.weight"], state["head.bias"]
    return x @ weight.T + bias, x[:, :h] @ weight[:, :h].T + bias


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(2, 9), st.integers(2, 7), st.sampled_from([0.25, 0.5, 0.7]))
def test_one_pass_gives_both_widths_of_the_block_triangular_network(
    channels: int, hidden: int, width: float
) -> None:
    network, images = small(channels, hidden, width), pictures()
    full, slim = network(images, (1.0, width))
    want_full, want_slim = oracle(network, images, width)
    np.testing.assert_allclose(full.detach().numpy(), want_full, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(slim.detach().numpy(), want_slim, rtol=2e-5, atol=2e-5)


def test_the_slim_width_alone_and_its_ordinary_network_give_the_same() -> None:
    network, images = small(), pictures()
    slim, full = network(images, (0.5, 1.0))
    assert not torch.equal(slim, full)
    for other in (network(images, 0.5), network.plain(0.5)(images)):
        torch.testing.assert_close(other, slim)
    torch.testing.assert_close(network.plain(1.0)(images), full)
    folded = network.plain(0.5)
    folded.fold_batch_norms()
    torch.testing.assert_close(folded(images), slim)
    head = network.head_at(0.5)
    torch.testing.assert_close(head(network.features(images, 0.5)), slim)


def masked(network: SlimmableNetwork) -> tuple[nn.Module, dict[str, Tensor]]:
    """The full width as an ordinary module in float64, and masks of its weights."""
    model = copy.deepcopy(network.plain(1.0).network).double()
    masks = {"two.weight": torch.ones(6, 6, 1, 1), "hidden.weight": torch.ones(5, 6)}
    masks["two.weight"][:3, 3:] = 0
    masks["hidden.weight"][:3, 3:] = 0
    return model, {name: mask.double() for name, mask in masks.items()}


def joint_loss(full: Tensor, slim: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(full, labels) + 0.7 * F.cross_entropy(slim, labels)


def test_gradients_are_those_of_masked_weights_in_training_mode() -> None:
    network = small().train()
    images, labels = pictures(6), torch.tensor([0, 1, 2, 0, 1, 2])
    model, masks = masked(network)
    joint_loss(*network(images, (1.0, 0.5)), labels).backward()
    given = dict(model.named_parameters())
    used = {name: given[name] * mask for name, mask in masks.items()}
    weights, x = {**given, **used}, images.double()
    x = F.conv2d(x, weights["one.weight"], weights["one.bias"], padding=1)
    x = F.relu(F.batch_norm(x, None, None, weights["norm.weight"], weights["norm.bias"], True))
    x = (x + F.conv2d(x, weights["two.weight"])).mean((2, 3))
    x = F.relu(F.linear(x, weights["hidden.weight"], weights["hidden.bias"]))
    head = weights["head.weight"]
    logits = [F.linear(x[:, :n], head[:, :n], weights["head.bias"]) for n in (5, 3)]
    joint_loss(logits[0], logits[1], labels).backward()
    for name, want in given.items():
        plain = network.network.get_parameter(name.replace("norm.", "norm.width_1_0."))
        torch.testing.assert_close(plain.grad.double(), want.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_absent_weights_stay_zero_under_momentum_and_decay(optimizer: str) -> None:
    network = small().train()
    absent = network.network.two.weight, network.network.hidden.weight
    before = [each.detach().clone() for each in absent]
    step = (
        torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
        if optimizer == "sgd"
        else torch.optim.AdamW(network.parameters(), 0.1)
    )
    for _ in range(3):
        step.zero_grad()
        joint_loss(*network(pictures(), (1.0, 0.5)), torch.tensor([0, 1, 2, 0])).backward()
        step.step()
    for weight, old in zip(absent, before, strict=True):
        assert not weight[:3, 3:].any()
        # All others are trained.
        changed = weight != old
        assert changed[3:].all()
        assert changed[:3, :3].all()
    network.eval()
    full, slim = network(pictures(), (1.0, 0.5))
    want = oracle(network, pictures(), 0.5)
    np.testing.assert_allclose(full.detach().numpy(), want[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(slim.detach().numpy(), want[1], rtol=1e-4, atol=1e-4)


def test_both_widths_share_one_batch_norm_and_what_it_saw() -> None:
    network = small().train()
    norm = network.network.norm
    network(pictures(), (1.0, 0.5))
    assert [name for name, _ in norm.named_children()] == ["width_1_0"]
    assert norm.at(1.0).num_batches_tracked == 1
    assert torch.equal(norm.at(0.5).running_mean, norm.at(1.0).running_mean[:3])
    assert norm.at(0.5).running_mean.data_ptr() == norm.at(1.0).running_mean.data_ptr()


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "inception", "vgg"])
def test_networks_of_other_styles_nest(name: str) -> None:
    """Grouped convolutions, concatenations whose parts keep their own, flattened pixels."""
    network = convert(foreign_networks.made(name), (0.5, 1.0), nested=True)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        foreign_networks.stir(network)
    network.eval()
    images = foreign_networks.images()
    full, slim = network(images, (1.0, 0.5))
    torch.testing.assert_close(network.plain(0.5)(images), slim)
    torch.testing.assert_close(network.plain(1.0)(images), full)


class Normalised(nn.Module):
    """A LayerNorm between layers: every channel depends on all."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.one(values))))


class Returning(nn.Module):
    """Adds to its input, whose channels all stay."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 4)
        self.last, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.last(values + self.two(F.relu(self.one(values)))))


@pytest.mark.parametrize(
    ("model", "told"),
    [(Normalised, r"module 'norm' \(LayerNorm"), (Returning, r"module 'two' \(Linear")],
)
def test_what_mixes_all_channels_is_refused_by_name(model: type[nn.Module], told: str) -> None:
    with pytest.raises(ValueError, match=f"cannot make {told}.*nested=False"):
        convert(model(), (0.5, 1.0), example=torch.randn(2, 4), nested=True)
    with pytest.raises(ValueError, match=f"cannot make {told}.*nested=False"):
        convert(model(), (0.5, 1.0), example=torch.zeros(2, 4), nested=True)
    convert(model(), (0.5, 1.0), example=torch.randn(2, 4))


def test_one_slim_width_is_wanted() -> None:
    with pytest.raises(ValueError, match=r"widths: got \(0.25, 0.5, 1.0\), want one slim width"):
        convert(Small(6, 5), (0.25, 0.5, 1.0), nested=True)


def test_a_slim_width_alone_is_no_training_pass() -> None:
    network = small().train()
    for call in (network, network.features):
        with pytest.raises(
            ValueError, match=r"width: got 0\.5 alone in training mode, want 1.0 with"
        ):
            call(pictures(), 0.5)


def test_a_state_that_is_not_nested_is_refused() -> None:
    network = small()
    loaded = small()
    loaded.load_state_dict(network.state_dict())
    state = convert(Small(6, 5), (1.0,)).state_dict()
    with pytest.raises(
        RuntimeError, match=r"network\.two\.weight: got weights from other channels"
    ):
        loaded.load_state_dict(state)


def test_compiled_it_has_the_same_gradients_and_stays_nested() -> None:
    networks = [small().train() for _ in range(2)]
    calls = [networks[0], torch.compile(networks[1], backend="aot_eager", fullgraph=True)]
    for call in calls:
        joint_loss(*call(pictures(), width=(1.0, 0.5)), torch.tensor([0, 1, 2, 0])).backward()
    for one, other in zip(*(each.parameters() for each in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert not networks[1].network.two.weight.grad[:3, 3:].any()


def test_copies_and_pickles_stay_nested() -> None:
    network, images = small(), pictures()
    want = network(images, (1.0, 0.5))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.nested
        assert all(map(torch.equal, other(images, (1.0, 0.5)), want))


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet8", {"base_channels": 4}), ("sprint", {"channels": (8, 12), "depth": 3})],
)
def test_built_networks_nest(name: str, options: dict[str, Any]) -> None:
    network = build_model(name, 4, widths=(0.5, 1.0), nested=True, head="own", **options).eval()
    assert (network.nested, network.slim_head) == (True, "own")
    images = pictures(2, 3, 16)
    full, slim = network(images, (1.0, 0.5))
    torch.testing.assert_close(network.plain(0.5)(images), slim)
    torch.testing.assert_close(network.plain(1.0)(images), full)


every_own_head = pytest.mark.parametrize("head", ["own", "probe"])


def with_own_head(head: SlimHead) -> SlimmableNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = convert(Small(6, 5), (0.5, 1.0), nested=True, head=head).eval()
        columns = network.network.head.weight[:, :3]
        assert torch.equal(network.own_head["weight"], columns)
        for parameter in network.own_head.values():
            nn.init.normal_(parameter)
    return network


@every_own_head
def test_an_own_head_is_the_slim_widths_everywhere(head: SlimHead) -> None:
    network, images = with_own_head(head), pictures()
    full, slim = network(images, (1.0, 0.5))
    features = network.features(images)[:, :3].detach()
    want = features.numpy() @ network.own_head["weight"].detach().numpy().T
    want += network.own_head["bias"].detach().numpy()
    np.testing.assert_allclose(slim.detach().numpy(), want, rtol=1e-5, atol=1e-6)
    classify = network.head_at(0.5)
    for other in (network(images, 0.5), network.plain(0.5)(images), classify(features)):
        torch.testing.assert_close(other, slim)
    torch.testing.assert_close(network.plain(1.0)(images), full)
    loaded = with_own_head(head)
    loaded.own_head["weight"].data.zero_()
    loaded.load_state_dict(network.state_dict())
    assert torch.equal(loaded(images, 0.5), network(images, 0.5))


@every_own_head
def test_a_probes_loss_trains_the_probe_alone(head: SlimHead) -> None:
    network = with_own_head(head).train()
    _, slim = network(pictures(), (1.0, 0.5))
    slim.square().sum().backward()
    trained = {name for name, value in network.named_parameters() if value.grad is not None}
    assert {"own_head.weight", "own_head.bias"} <= trained
    assert ("network.one.weight" in trained) == (head == "own")
    assert "network.head.weight" not in trained


def test_frozen_copies_follow_an_own_head() -> None:
    network, images = with_own_head("own"), pictures()
    for _ in range(2):  # the second fills what the first made
        with filled(network, 0.5, torch.contiguous_format, None) as frozen, torch.no_grad():
            torch.testing.assert_close(frozen(images), network(images, 0.5))
        nn.init.normal_(network.own_head["weight"])


def test_an_own_head_wants_a_nested_width() -> None:
    with pytest.raises(ValueError, match="head: got own, want shared without nested=True"):
        convert(Small(6, 5), head="own")
