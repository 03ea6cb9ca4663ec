"""What cannot be slimmed is refused by path, type and line, with what is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign_networks import BasicBlock, images
from torch import Tensor, nn
from torch.nn import functional as F

from dynams import slimmable


class Net(nn.Module):
    """A stem, something in the middle, and a classifier."""

    def __init__(self, middle: nn.Module | None = None, out: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Identity() if middle is None else middle
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(out, 3)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.pool(self.middle(self.stem(x))).flatten(1))


def doing(function: Callable[[nn.Module, Tensor], Any], **layers: nn.Module) -> nn.Module:
    """A module `Doing` that runs `function` on itself and its input."""

    class Doing(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(self, x)

    module = Doing()
    for name, layer in layers.items():
        module.add_module(name, layer)
    return module


def refused(model: nn.Module, *parts: str) -> str:
    with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
        slimmable.convert(model)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    return message


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(8, 8, 3, padding=1),
        nn.LayerNorm([8, 12, 12]),
        nn.InstanceNorm2d(8, affine=True),
        nn.LocalResponseNorm(2),
        nn.Softmax(1),
        nn.MultiheadAttention(8, 2),
        nn.PixelShuffle(1),
        nn.LazyConv2d(8, 3, padding=1),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_an_unknown_layer_is_named_with_its_path_and_type(layer: nn.Module) -> None:
    model = Net(nn.Sequential(nn.ReLU(), layer))
    kind = type(layer).__name__
    refused(
        model,
        f"cannot make module 'middle.1' ({kind}",
        f"{kind} is not supported; known are Conv2d",
    )


def test_control_flow_that_depends_on_the_input_is_refused_with_its_line() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    line = forward.__code__.co_firstlineno + 1
    refused(
        Net(nn.Sequential(doing(forward))),
        f"module 'middle.0' (Doing, at test_convert_refusals.py:{line}) slimmable",
        "its forward cannot be traced",
    )


def test_a_layer_made_on_the_fly_is_refused() -> None:
    refused(
        Net(doing(lambda self, x: nn.Conv2d(8, 8, 1)(x))),
        "module 'middle' (Doing",
        "cannot be traced",
    )


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda self, x: torch.softmax(x, 1), "softmax is not supported"),
        (lambda self, x: x.permute(0, 2, 3, 1), "permute is not supported"),
        (lambda self, x: x.chunk(2, 1)[0], "chunk is not supported"),
        (lambda self, x: x[:, :4], "only height and width may be indexed"),
        (lambda self, x: x.view(-1, 4, 2, 12, 12), "view may only flatten all but the batch"),
        (lambda self, x: x.view(x.size(0), 8, -1), "view may only flatten all but the batch"),
        (lambda self, x: x * x.size(1), "mul must combine results of layers"),
        (lambda self, x: F.pad(x, (0, x.size(1))), "pad must take one tensor"),
        (lambda self, x: F.interpolate(x, x.shape[2:]), "only those of axes 0 and 1"),
        (lambda self, x: x.mean(1, keepdim=True), "a mean must be over height and width"),
        (lambda self, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)), "it pads the channels"),
        (lambda self, x: torch.cat([x, x], 2), "axis of a concatenation: got 2, want 1"),
        (
            lambda self, x: torch.cat([x.flatten(1), x.flatten(1)], 1),
            "a flattened tensor of unknown",
        ),
        (lambda self, x: torch.flatten(x, 2), "got start_dim=2, end_dim=-1, want flatten(1)"),
        (lambda self, x: x + torch.ones(8, 1, 1), "neither a parameter nor a buffer"),
        (
            lambda self, x: F.max_pool2d(x, 2, return_indices=True)[0],
            "max_pool2d_with_indices is not",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_an_operation_across_channels_is_refused_where_it_stands(
    function: Callable[[nn.Module, Tensor], Any], told: str
) -> None:
    line = function.__code__.co_firstlineno
    refused(
        Net(doing(function)), f"module 'middle' (Doing, at test_convert_refusals.py:{line})", told
    )


def test_a_parameter_for_each_channel_is_refused() -> None:
    middle = doing(lambda self, x: x * self.gamma)
    middle.gamma = nn.Parameter(torch.ones(8, 1, 1))
    refused(Net(middle), "module 'middle' (Doing", "a parameter or buffer of several elements")


def test_prelu_for_each_channel_is_refused() -> None:
    refused(Net(nn.PReLU(8)), "module 'middle' (PReLU", "num_parameters: got 8, want 1")
    slimmable.convert(Net(nn.PReLU()))


def test_pooling_that_returns_indices_is_refused() -> None:
    refused(
        Net(nn.MaxPool2d(2, return_indices=True)),
        "(MaxPool2d",
        "return_indices: got True, want False",
    )


def test_a_layer_called_twice_is_refused() -> None:
    middle = doing(lambda self, x: self.conv(self.conv(x)), conv=nn.Conv2d(8, 8, 1))
    refused(Net(middle), "module 'middle.conv' (Conv2d", "called more than once")


def test_layers_that_share_a_weight_are_refused() -> None:
    middle = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    middle[1].weight = middle[0].weight
    refused(Net(middle), "module 'middle.1' (Conv2d", "shares a parameter with 'middle.0'")


def test_a_layers_parameter_used_besides_the_layer_is_refused() -> None:
    middle = doing(lambda self, x: self.conv(x) * self.conv.bias, conv=nn.Conv2d(8, 8, 1))
    refused(Net(middle), "module 'middle' (Doing", "it uses bias of the layer 'middle.conv'")


def test_a_layer_with_hooks_is_refused() -> None:
    model = Net()
    model.stem.register_forward_hook(lambda module, args, output: output + 1)
    refused(model, "module 'stem' (Conv2d", "it has hooks")


def test_a_forward_that_depends_on_the_mode_is_refused() -> None:
    middle = doing(lambda self, x: torch.relu(x) if self.training else torch.tanh(x))
    refused(Net(middle), "module 'middle' (Doing", "(relu)", "not the same in training and eval")


def test_sums_of_channels_in_different_parts_are_refused() -> None:
    middle = doing(
        lambda self, x: x + torch.cat([self.one(x), self.two(x)], 1),
        one=nn.Conv2d(8, 3, 1),
        two=nn.Conv2d(8, 5, 1),
    )
    refused(Net(middle), "module 'middle' (Doing", "parts of [8] with parts of [3, 5]")


def test_a_classifier_on_a_concatenation_is_refused() -> None:
    middle = doing(lambda self, x: torch.cat([x, x], 1))
    refused(Net(middle, 16), "module 'fc' (Linear", "put a 1x1 Conv2d or a Linear between")


def test_a_concatenation_with_the_input_is_refused() -> None:
    class WithInput(Net):
        def forward(self, x: Tensor) -> Any:
            return self.fc(self.pool(torch.cat([self.stem(x), x], 1)).flatten(1))

    refused(WithInput(out=11), "(WithInput", "it concatenates the network's input")


@pytest.mark.parametrize(
    ("layers", "width", "expected"),
    [
        ([nn.GroupNorm(4, 8)], 0.5, [(4, 2)]),
        ([nn.GroupNorm(4, 8)], 0.3, [(2, 1)]),
        ([nn.Conv2d(8, 9, 1), nn.Conv2d(9, 6, 1, groups=3)], 0.5, [(6, 1), (4, 2)]),
        ([nn.Conv2d(8, 9, 1), nn.Conv2d(9, 6, 1, groups=3)], 0.3, [(3, 1), (2, 1)]),
        (
            [nn.Conv2d(8, 12, 1), nn.GroupNorm(6, 12), nn.GroupNorm(4, 12)],
            0.5,
            [(6, 1), (6, 3), (6, 2)],
        ),
    ],
)
def test_whole_groups_are_kept(
    layers: list[nn.Module], width: float, expected: list[tuple[int, int]]
) -> None:
    out = expected[-1][0]
    last = {4: 8, 2: 8, 6: 12}[out] if isinstance(layers[-1], nn.GroupNorm) else 6
    model = Net(nn.Sequential(*layers), last).double().eval()
    network = slimmable.convert(model, (width, 1.0))
    assert torch.equal(network(images()), model(images()))
    plain = network.plain(width)
    assert torch.equal(network(images(), width), plain(images()))
    made = plain.network.get_submodule("middle").children()
    sizes = [
        (each.out_channels, each.groups)
        if isinstance(each, nn.Conv2d)
        else (each.num_channels, each.num_groups)
        for each in made
    ]
    assert sizes == expected


@pytest.mark.parametrize(
    ("layer", "path", "told"),
    [
        (nn.GroupNorm(1, 8), "middle' (GroupNorm", "8 channels or groups and 1 have no common"),
        (
            nn.Sequential(nn.Conv2d(8, 6, 1), nn.GroupNorm(2, 6), nn.GroupNorm(3, 6)),
            "middle.2' (GroupNorm",
            "2 channels or groups and 3 have no common divisor",
        ),
    ],
)
def test_groups_that_leave_nothing_to_slim_are_refused(
    layer: nn.Module, path: str, told: str
) -> None:
    refused(Net(layer), f"module '{path}", told, "every width would keep all of them")


def test_a_grouped_convolution_across_the_parts_of_a_concatenation_is_refused() -> None:
    middle = doing(
        lambda self, x: self.grouped(torch.cat([x, self.one(x)], 1)),
        one=nn.Conv2d(8, 4, 1),
        grouped=nn.Conv2d(12, 8, 1, groups=2),
    )
    refused(Net(middle), "module 'middle.grouped' (Conv2d", "its groups of 6 channels reach over")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: {"logits": x}, "it returns several values"),
        (lambda x: (x, x), "it returns several values"),
        (lambda x: F.log_softmax(x, 1), "it returns the result of log_softmax"),
        (lambda x: x.relu(), "it returns the result of relu"),
    ],
    ids=["dict", "tuple", "log_softmax", "relu"],
)
def test_a_network_must_end_in_its_classifier(function: Callable[[Any], Any], told: str) -> None:
    class Ends(Net):
        def forward(self, x: Tensor) -> Any:
            return function(super().forward(x))

    refused(Ends(), "the network itself (Ends", "the logits of an nn.Linear", told)


def test_logits_used_by_something_else_are_refused() -> None:
    class Again(Net):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x)
            logits.relu()
            return logits

    refused(Again(), "module 'fc' (Linear", "used by nothing else")


def test_a_network_with_two_inputs_is_refused() -> None:
    class Two(Net):
        def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
            return super().forward(x + y)

    refused(Two(), "the network itself (Two", "cannot be traced", "'y'")


def test_nothing_to_slim_is_refused() -> None:
    class Shallow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    refused(Shallow(), "(Shallow)", "there is nothing to slim")


def test_a_linear_on_unflattened_features_is_refused() -> None:
    refused(
        Net(nn.Linear(12, 12)),
        "module 'middle' (Linear",
        "its input: got 4 dimensions, want features (B, D): flatten(1)",
    )


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"widths: got .*, want fractions"):
        slimmable.convert(Net(), (0.5, 0.25))
    with pytest.raises(TypeError, match=r"model: got int, want an nn\.Module"):
        slimmable.convert(3)  # type: ignore[arg-type]


def test_what_meets_the_input_keeps_all_channels() -> None:
    class Sum(Net):
        def forward(self, x: Tensor) -> Any:
            return self.fc(
                self.pool(self.middle(x) + 0.5 * self.first(x + self.stem(x))).flatten(1)
            )

    model = Sum()
    model.stem = nn.Conv2d(3, 3, 1)
    model.middle = nn.Conv2d(3, 8, 1)
    model.first = BasicBlock(3, 8)
    network = slimmable.convert(model.double().eval())
    shapes = {key: value.shape[:2] for key, value in network.plain(0.5).network.named_parameters()}
    assert shapes["stem.weight"] == (3, 3)
    assert shapes["middle.weight"] == (4, 3)
    assert shapes["first.downsample.0.weight"] == (4, 3)
    assert shapes["fc.weight"] == (3, 4)
    assert torch.equal(network(images()), model(images()))
