"""What cannot be slimmed is refused by path, type and line, with what is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign_networks import BasicBlock, Net, doing, images
from torch import Tensor, nn
from torch.nn import functional as F

from dynams import slimmable


def refused(model: nn.Module, *parts: str) -> str:
    with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
        slimmable.convert(model)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    return message


def test_control_flow_that_depends_on_the_input_is_refused_with_its_line() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    line = forward.__code__.co_firstlineno + 1
    refused(
        Net(nn.Sequential(doing(forward))),
        f"module 'middle.0' (Doing, at test_convert_refusals.py:{line}) slimmable",
        "reads the values of a tensor (__bool__)",
    )


def test_a_layer_made_on_the_fly_is_refused() -> None:
    refused(
        Net(doing(lambda self, x: nn.Conv2d(8, 8, 1)(x))),
        "module 'middle' (Doing",
        "uses a tensor that no function of torch gave",
    )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: Net(nn.LazyConv2d(8, 1)),
            "'middle' (LazyConv2d) slimmable: it has no weights yet",
        ),
        (lambda: Net().to("meta"), "'stem' (Conv2d) slimmable: its weights are on the meta device"),
        (
            lambda: Net(torch.jit.script(nn.ReLU())),
            "'middle' (RecursiveScriptModule) slimmable: it is",
        ),
        (
            lambda: torch.compile(Net()),
            "(OptimizedModule) slimmable: it is compiled; convert first",
        ),
    ],
    ids=["lazy", "meta", "scripted", "compiled"],
)
def test_a_network_that_is_no_ordinary_one_is_refused(make: Any, told: str) -> None:
    refused(make(), told)


def test_a_layer_with_hooks_is_refused() -> None:
    model = Net()
    model.stem.register_forward_hook(lambda module, args, output: output + 1)
    refused(model, "module 'stem' (Conv2d", "it has hooks")


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
    ("function", "told"),
    [
        (
            lambda x: (x, x),
            "it must return logits, or an object whose logits they are; it returns tuple",
        ),
        (
            lambda x: F.log_softmax(x, 1),
            "the logits of an nn.Linear, its classifier; it returns the result of log_softmax",
        ),
        (lambda x: x.relu(), "it returns the result of relu"),
    ],
    ids=["tuple", "log_softmax", "relu"],
)
def test_a_network_must_end_in_its_classifier(function: Callable[[Any], Any], told: str) -> None:
    class Ends(Net):
        def forward(self, x: Tensor) -> Any:
            return function(super().forward(x))

    refused(Ends(), "the network itself (Ends", told)


def test_logits_used_by_something_else_are_refused() -> None:
    class Again(Net):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x)
            logits.relu()
            return logits

    refused(Again(), "the network itself (Again, at", "the logits must be used by nothing else")


def test_a_network_with_two_inputs_is_refused() -> None:
    class Two(Net):
        def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
            return super().forward(x + y)

    refused(Two(), "example: got None, want a batch", "missing 1 required positional argument: 'y'")
    with pytest.raises(ValueError, match=r"fails on the example.*missing 1 required.*'y'"):
        slimmable.convert(Two(), example=images().float())


def test_nothing_to_slim_is_refused() -> None:
    class Shallow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    refused(Shallow(), "(Shallow)", "there is nothing to slim")


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
