"""A slim width of single layers and operations, against weights sliced by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign_networks import Net, doing
from torch import Tensor, nn
from torch.nn import functional as F

from dynams import slimmable

State = dict[str, Tensor]


def pictures(count: int = 2, side: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def attended(self: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    qkv = self.qkv(tokens).reshape(*tokens.shape[:2], 3, 4, 2).permute(2, 0, 3, 1, 4)
    weights = (qkv[0] @ qkv[1].transpose(-2, -1) * 2**-0.5).softmax(-1)
    mixed = (weights @ qkv[2]).transpose(1, 2).reshape(tokens.shape)
    return self.out(mixed).transpose(1, 2).view(x.shape)


def attended_by_hand(state: State, x: Tensor) -> Tensor:
    """Two heads of four, and four channels of eight."""
    tokens = x.flatten(2).transpose(1, 2)
    query, key, value = (
        (tokens @ state["qkv.weight"][at : at + 4, :4].T + state["qkv.bias"][at : at + 4])
        .unflatten(-1, (2, 2))
        .transpose(1, 2)
        for at in (0, 8, 16)
    )
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    mixed = mixed @ state["out.weight"][:4, :4].T + state["out.bias"][:4]
    return mixed.transpose(1, 2).unflatten(-1, x.shape[2:])


def gated(self: Any, x: Tensor) -> Tensor:
    value, gate = self.wide(x).chunk(2, 1)
    return value * gate.sigmoid()


def gated_by_hand(state: State, x: Tensor) -> Tensor:
    value, gate = (
        F.conv2d(x, state["wide.weight"][at : at + 4, :4], state["wide.bias"][at : at + 4])
        for at in (0, 8)
    )
    return value * gate.sigmoid()


def standardised(self: Any, x: Tensor) -> Tensor:
    weight = self.one.weight
    return F.conv2d(x, weight - weight.mean((1, 2, 3), keepdim=True), self.one.bias)


def standardised_by_hand(state: State, x: Tensor) -> Tensor:
    weight = state["one.weight"][:4, :4]
    return F.conv2d(x, weight - weight.mean((1, 2, 3), keepdim=True), state["one.bias"][:4])


def normed(self: Any, x: Tensor) -> Tensor:
    return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * self.scale


def normed_by_hand(state: State, x: Tensor) -> Tensor:
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    gamma, beta, scale = (
        state[key].flatten()[:4].view(4, 1, 1) for key in ("norm.weight", "norm.bias", "scale")
    )
    return ((x - mean) / (variance + 1e-5).sqrt() * gamma + beta) * scale


def in_one_group_by_hand(state: State, x: Tensor) -> Tensor:
    every = (1, 2, 3)
    x = (x - x.mean(every, keepdim=True)) / (x.var(every, keepdim=True, correction=0) + 1e-5).sqrt()
    return x * state["norm.weight"][:4].view(4, 1, 1) + state["norm.bias"][:4].view(4, 1, 1)


def shuffled(self: Any, x: Tensor) -> Tensor:
    """Odd channels apart from even ones, and a convolution for each."""
    two = x.view(x.shape[0], 4, 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
    return torch.cat([self.one(two[:, :4]), two[:, 4:]], 1)


def shuffled_by_hand(state: State, x: Tensor) -> Tensor:
    even = F.conv2d(x[:, ::2], state["one.weight"][:2, :2], state["one.bias"][:2])
    return torch.cat([even, x[:, 1::2]], 1)


def twice_by_hand(state: State, x: Tensor) -> Tensor:
    for _ in range(2):
        x = F.conv2d(x, state["one.weight"][:4, :4], state["one.bias"][:4]).relu()
    return x


def dynamic(self: Any, x: Tensor) -> Tensor:
    """A convolution of its own for each sample."""
    mixed = self.mix(x.mean((2, 3))).softmax(-1) @ self.kernels.flatten(1)
    weight = mixed.view(x.shape[0] * 8, 8, 1, 1)
    images = x.reshape(1, -1, *x.shape[2:])
    return F.conv2d(images, weight, groups=x.shape[0]).view(x.shape)


def powers(self: Any, x: Tensor) -> Tensor:
    size = x.abs() ** 0.5
    size **= 2
    return x * ((x**2).mean(1, keepdim=True) + 1e-5) ** -0.5 + size


def weight_normed_by_hand(state: State, x: Tensor) -> Tensor:
    length, weight = (state[f"one.parametrizations.weight.original{at}"][:4, :4] for at in (0, 1))
    weight = weight * length / weight.square().sum((1, 2, 3), keepdim=True).sqrt()
    return F.conv2d(x, weight, state["one.bias"][:4])


CASES: dict[str, tuple[Callable[..., Any], Callable[[State, Tensor], Tensor], dict[str, Any]]] = {
    "attention": (
        attended,
        attended_by_hand,
        {"qkv": nn.Linear(8, 24), "out": nn.Linear(8, 8)},
    ),
    "chunks": (gated, gated_by_hand, {"wide": nn.Conv2d(8, 16, 1)}),
    "standardised weights": (standardised, standardised_by_hand, {"one": nn.Conv2d(8, 8, 1)}),
    "normed weights": (
        lambda self, x: self.one(x),
        weight_normed_by_hand,
        {"one": nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))},
    ),
    "layer norm": (normed, normed_by_hand, {"norm": nn.LayerNorm(8), "scale": parameter(8, 1, 1)}),
    "one group": (lambda self, x: self.norm(x), in_one_group_by_hand, {"norm": nn.GroupNorm(1, 8)}),
    "slopes": (
        lambda self, x: self.act(x),
        lambda state, x: torch.where(x > 0, x, x * state["act.weight"][:4].view(4, 1, 1)),
        {"act": nn.PReLU(8)},
    ),
    "shuffle": (shuffled, shuffled_by_hand, {"one": nn.Conv2d(4, 4, 1)}),
    "a layer called twice": (
        lambda self, x: self.one(self.one(x).relu()).relu(),
        twice_by_hand,
        {"one": nn.Conv2d(8, 8, 1)},
    ),
    "transposed": (
        lambda self, x: self.up(x),
        lambda state, x: F.conv_transpose2d(
            x, state["up.weight"][:4, :4], state["up.bias"][:4], stride=2
        ),
        {"up": nn.ConvTranspose2d(8, 8, 2, stride=2)},
    ),
    "einsum": (
        lambda self, x: torch.einsum(
            "bchw->bhwc", torch.einsum("bchw,dc->bdhw", x, self.w)
        ).movedim(3, 1),
        lambda state, x: F.conv2d(x, state["w"][:4, :4, None, None]),
        {"w": parameter(8, 8)},
    ),
    "sizes as numbers": (
        lambda self, x: x - x.sum((1, 2, 3), keepdim=True) / (x.shape[1] * x.shape[2] * x.shape[3]),
        lambda state, x: x - x.mean((1, 2, 3), keepdim=True),
        {},
    ),
    "norms": (
        lambda self, x: (
            x / torch.linalg.vector_norm(x, 2, (2, 3), keepdim=True)
            + torch.linalg.norm(x, dim=1, keepdim=True)
        ),
        lambda state, x: (
            x / x.square().sum((2, 3), keepdim=True).sqrt() + x.square().sum(1, keepdim=True).sqrt()
        ),
        {},
    ),
    "a filter repeated for each channel": (
        lambda self, x: F.conv2d(x, self.blur.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1]),
        lambda state, x: F.conv2d(x, state["blur"].expand(4, 1, 2, 2), groups=4),
        {"blur": parameter(1, 1, 2, 2)},
    ),
    "powers": (
        powers,
        lambda state, x: x * (x.square().mean(1, keepdim=True) + 1e-5).rsqrt() + x.abs(),
        {},
    ),
    "made of sizes": (
        lambda self, x: torch.maximum(x, x.new_zeros(x.shape[0], x.size(1), 1, 1)),
        lambda state, x: x.relu(),
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_slim_layer_equals_one_with_sliced_weights(name: str) -> None:
    function, by_hand, attributes = CASES[name]
    torch.manual_seed(0)
    model = Net(doing(function, **attributes)).double().eval()
    network = slimmable.convert(model)
    state = {key.removeprefix("middle."): value for key, value in model.state_dict().items()}
    for given in (pictures(), pictures(3, 8)):
        assert torch.equal(network(given), model(given))
        stem = F.conv2d(given, state["stem.weight"][:4], state["stem.bias"][:4], padding=1)
        features = by_hand(state, stem).mean((2, 3))
        columns = [0, 1, 4, 5] if name == "shuffle" else [0, 1, 2, 3]
        expected = features @ state["fc.weight"][:, columns].T + state["fc.bias"]
        torch.testing.assert_close(network(given, 0.5), expected)
        assert torch.equal(network.plain(0.5)(given), network(given, 0.5))


@pytest.mark.parametrize(
    "halves",
    [
        lambda x: (x.narrow(1, 4, 4), x.narrow(1, 0, 4)),
        lambda x: (x[:, 4:], x[:, :4]),
        lambda x: (x[:, -4:], x[:, :-4]),
    ],
    ids=["narrow", "from the start", "from the end"],
)
def test_a_part_of_a_tensor_keeps_its_own_first(halves: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model = Net(doing(lambda self, x: torch.cat(halves(x), 1))).double().eval()
    network = slimmable.convert(model)
    assert torch.equal(network(pictures()), model(pictures()))
    stem, kept = model.stem, [0, 1, 4, 5]
    slim = F.conv2d(pictures(), stem.weight[kept], stem.bias[kept], padding=1).mean((2, 3))
    expected = slim[:, [2, 3, 0, 1]] @ model.fc.weight[:, kept].T + model.fc.bias
    torch.testing.assert_close(network(pictures(), 0.5), expected)


def test_a_classifier_on_a_concatenation_takes_the_first_of_each_part() -> None:
    torch.manual_seed(0)
    model = Net(doing(lambda self, x: torch.cat([x, self.one(x)], 1), one=nn.Conv2d(8, 4, 1)), 12)
    network = slimmable.convert(model.double().eval())
    kept = [0, 1, 2, 3, 8, 9]
    assert torch.equal(network.head_at(0.5).weight, model.fc.weight[:, kept])
    features = network.features(pictures(), 0.5)
    expected = features @ model.fc.weight[:, kept].T + model.fc.bias
    torch.testing.assert_close(network(pictures(), 0.5), expected)


def test_a_convolution_of_its_own_for_each_sample_takes_any_batch() -> None:
    torch.manual_seed(0)
    model = Net(doing(dynamic, mix=nn.Linear(8, 3), kernels=parameter(3, 8, 8))).double().eval()
    network = slimmable.convert(model)
    for count in (2, 5):
        assert torch.equal(network(pictures(count)), model(pictures(count)))
        assert network(pictures(count), 0.5).shape == (count, 3)
