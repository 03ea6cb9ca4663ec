"""What a forward may do while it is recorded: it is done again for every input, or refused by name."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from foreign_networks import Net, doing
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dynams import slimmable


def pictures(count: int = 2, height: int = 12, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(count * height + width)
    return torch.randn(count, 3, height, width, generator=generator)


def network_of(function: Callable[[Any, Tensor], Any], **attributes: Any) -> nn.Module:
    torch.manual_seed(0)
    return Net(doing(function, **attributes))


def as_before(model: nn.Module, *inputs: Tensor, calls: int = 1) -> slimmable.SlimmableNetwork:
    """Convert a network, and see that it computes in both modes what it did, and runs at the slim width."""
    for mode in (False, True):
        ours, theirs = slimmable.convert(model.train(mode)), copy.deepcopy(model)
        for given in inputs:
            for _ in range(calls):
                torch.manual_seed(3)
                expected = theirs(given.clone())
                torch.manual_seed(3)
                outputs = ours(given.clone())
                assert torch.equal(outputs, expected)
                for each in (theirs, ours):
                    each.zero_grad()
                (expected.square().sum() + outputs.square().sum()).backward()
                gradients = {name: each.grad for name, each in theirs.named_parameters()}
                for name, each in ours.network.named_parameters():
                    if "width_0" in name:
                        continue
                    gradient = gradients.pop(name.replace(".width_1_0", ""))
                    assert (each.grad is None) == (gradient is None), name
                    assert gradient is None or torch.equal(each.grad, gradient), name
                assert not gradients
                assert torch.isfinite(ours(given.clone(), 0.5)).all()
        buffers = dict(ours.plain(1.0).network.named_buffers())
        for name, value in theirs.named_buffers():
            assert torch.equal(buffers[name], value), name
    return ours


def refused(model: nn.Module, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        slimmable.convert(model)
    assert "cannot make module 'middle' (Doing" in str(caught.value)


BY_SIZES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "reshaped and back": lambda self, x: x.reshape(x.shape[0], -1, x.shape[2] * x.shape[3]).view(
        x.shape
    ),
    "negative axes": lambda self, x: x.view(x.size(0), x.size(-3), x.size(-2) * x.size(-1), 1),
    "product of all": lambda self, x: (
        x.flatten(1).view(len(x.shape) and x.size(0), -1) * math.prod(x.shape)
    ),
    "padded to a multiple": lambda self, x: F.pad(x, (0, (5 - x.shape[-1] % 5) % 5)),
    "half of it": lambda self, x: x[..., : x.shape[-1] // 2] + x[..., -(x.shape[-1] // 2) :],
    "at most": lambda self, x: x * min(x.shape[-1], 100) + max(1, x.shape[-2]),
    "a table": lambda self, x: x + torch.linspace(0, 1, x.shape[-1], device=x.device),
    "quarters": lambda self, x: torch.cat(x.split(divmod(x.shape[-1], 2)[0], dim=-1), -2),
}


@pytest.mark.parametrize("name", BY_SIZES)
def test_sizes_stay_variable(name: str) -> None:
    model = network_of(BY_SIZES[name])
    if name == "product of all":
        model.pool, model.fc = nn.Identity(), nn.LazyLinear(3)
        model(pictures())
        as_before(model, pictures(), pictures(5))
        return
    as_before(model, pictures(), pictures(5, 16, 20))


class Bytes(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x / 255)


def test_sizes_of_pictures_of_bytes_stay_variable() -> None:
    torch.manual_seed(0)
    model = Bytes().eval()
    generator = torch.Generator().manual_seed(0)
    small, large = (
        torch.randint(256, (2, 3, side, side), generator=generator, dtype=torch.uint8)
        for side in (12, 20)
    )
    network = slimmable.convert(model, example=small)
    assert torch.equal(network(large), model(large))
    assert network(large, 0.5).shape == (2, 3)


DECISIONS: dict[str, Callable[[Any, Tensor], bool]] = {
    "compared": lambda self, x: x.shape[-1] > 100,
    "with a float": lambda self, x: x.shape[-1] > 99.5,
    "as a float": lambda self, x: float(x.shape[-1]) > 100,
    "as an int": lambda self, x: int(x.shape[-1]) > 100,
    "a root": lambda self, x: math.sqrt(x.shape[-1]) > 10,
    "a ratio": lambda self, x: x.shape[-1] / 2 > 50,
    "a power": lambda self, x: x.shape[-1] ** 2 > 10000,
    "elements": lambda self, x: x.numel() > 8 * 100 * 100,
    "not nothing": lambda self, x: bool(x.shape[-1] // 101),
    "by implication": lambda self, x: True if x.shape[-1] // 101 else False,  # noqa: SIM210
    "bits": lambda self, x: x.shape[-1] >> 6 == 1,
    "the batch": lambda self, x: x.shape[0] > 100,
}


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_by_a_size_is_never_taken_for_another_size(name: str) -> None:
    decide = DECISIONS[name]
    model = network_of(lambda self, x: x.tanh() if decide(self, x) else x.relu()).eval()
    given = pictures(101) if name == "the batch" else pictures(2, 110, 110)
    network = slimmable.convert(model, example=pictures())
    assert torch.equal(network(pictures()), model(pictures()))
    with pytest.raises(ValueError, match="images: got s"):
        network(given)


def test_a_number_made_of_the_batch_size_is_refused() -> None:
    refused(network_of(lambda self, x: x if len(x) > 100 else -x), "a number of the batch's size")
    refused(network_of(lambda self, x: x * float(x.shape[0])), "a number of the batch's size")
    refused(network_of(lambda self, x: x * sum(1 for _ in x)), "for every number of samples")


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 7 * grad


ELSEWHERE = torch.ones(8, 1, 1)
SEEDED = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda self, x: x if x.mean() > 0 else -x, r"reads the values of a tensor \(__bool__\)"),
        (lambda self, x: x * x.mean().item(), r"reads the values of a tensor \(item\)"),
        (lambda self, x: x * float(self.scale), r"reads the values of a tensor \(__float__\)"),
        (lambda self, x: x if torch.rand(()) > 0.5 else -x, r"\(__bool__\)"),
        (lambda self, x: Square.apply(x) + x, "of Square, an autograd.Function"),
        (lambda self, x: x + torch.from_numpy(np.ones(1, np.float32)), "of another library"),
        (lambda self, x: x * ELSEWHERE, "that is no part of it"),
        (lambda self, x: x * random.random(), "draws random numbers outside torch"),
        (lambda self, x: -x if np.random.rand() > 2 else x, "draws random numbers outside torch"),
        (lambda self, x: -x if self.own[0].random() > 2 else x, "draws random numbers outside"),
        (lambda self, x: -x if self.own[1].rand() > 2 else x, "draws random numbers outside torch"),
    ],
)
def test_what_is_not_the_same_for_every_input_is_refused(function: Any, told: str) -> None:
    model = network_of(function)
    model.get_submodule("middle").scale = nn.Parameter(torch.ones(()))  # type: ignore[assignment]
    model.get_submodule("middle").own = [random.Random(0), np.random.RandomState(0)]  # type: ignore[assignment]
    refused(model, told)


class Skipping(Net):
    """Draws from a generator of its file."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(-x if SEEDED.random() > 2 else x)


def test_a_generator_of_the_file_is_seen_too() -> None:
    with pytest.raises(ValueError, match="draws random numbers outside torch"):
        slimmable.convert(Skipping())


def mean_of(x: Tensor) -> Tensor:
    return x.detach().mean((0, 2, 3))


def replaced(self: Any, x: Tensor) -> Tensor:
    old = self.state
    if self.training:
        self.state = 0.9 * self.state + 0.1 * mean_of(x)
        self.steps += 1
    return x * old.sigmoid().view(1, -1, 1, 1) + self.state.view(1, -1, 1, 1) * self.steps


def in_place(self: Any, x: Tensor) -> Tensor:
    if self.training:
        with torch.no_grad():
            self.state.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
        self.steps.add_(1)
    return x - self.state.view(1, -1, 1, 1) * self.steps


def assigned(self: Any, x: Tensor) -> Tensor:
    if self.training:
        self.state[:] = mean_of(x)
        self.state.data[1:].mul_(2)
    return x - self.state.view(1, -1, 1, 1)


def written_out(self: Any, x: Tensor) -> Tensor:
    if self.training:
        torch.mean(x.detach(), (0, 2, 3), out=self.state)
    return x - self.state.view(1, -1, 1, 1)


def counted(self: Any, x: Tensor) -> Tensor:
    self.steps = self.steps + 1
    return x * self.steps + self.state.view(8, 1, 1)


@pytest.mark.parametrize("function", [replaced, in_place, assigned, written_out, counted])
def test_buffers_that_the_forward_changes_are_kept(function: Any) -> None:
    model = network_of(function)
    model.get_submodule("middle").register_buffer("state", torch.full((8,), 0.3))
    model.get_submodule("middle").register_buffer("steps", torch.ones(()))
    network = as_before(model, pictures(), pictures(5, 16, 20), calls=2).train()
    # A slim width goes by the full width's, and changes nothing of it.
    before = copy.deepcopy(network.network.state_dict())
    network(pictures(), 0.5).sum().backward()
    network(pictures(), (0.5, 0.5))
    assert all(
        torch.equal(value, before[key]) for key, value in network.network.state_dict().items()
    )
    plain = network.plain(0.5)
    assert torch.equal(plain(pictures()), network(pictures(), 0.5))
    slim = plain.network.get_submodule("middle")
    assert slim.get_buffer("state").shape == plain.network.get_parameter("stem.bias").shape
    kept = copy.deepcopy(slim.state_dict())
    plain(pictures(1))
    assert any(not torch.equal(value, kept[key]) for key, value in slim.state_dict().items())


def test_what_a_forward_keeps_outside_buffers_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls

    def changed(self: Any, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count

    with pytest.raises(ValueError, match="the second time"):
        slimmable.convert(network_of(forward, calls=0))
    with pytest.raises(ValueError, match="neither a parameter nor a buffer"):
        slimmable.convert(network_of(changed, count=torch.zeros(())))
    as_before(network_of(lambda self, x: setattr(self, "seen", len(x.shape)) or x), pictures())


def test_tables_that_a_forward_keeps_for_a_size_are_made_for_each() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if self.table is None or len(self.table) != x.shape[-1]:
            self.table = torch.linspace(0, 1, x.shape[-1], device=x.device, dtype=x.dtype)
        return x + self.table

    as_before(network_of(forward, table=None), pictures(), pictures(3, 16, 20), calls=2)


def frozen(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        stem = self.one(x).relu()
    return self.two(stem) + stem


def partly(self: Any, x: Tensor) -> Tensor:
    return self.two(self.one(x).detach()) + self.one(x).data


def checkpointed(self: Any, x: Tensor) -> Tensor:
    return checkpoint(
        lambda each: F.dropout(self.one(each), 0.3, self.training), x, use_reentrant=False
    )


def in_float(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return self.two(self.one(x.float()))


def views(self: Any, x: Tensor) -> Tensor:
    x = self.one(x)
    x[:, :4].mul_(2)
    x.permute(0, 2, 3, 1).add_(1)
    x.view(x.shape[0], 8, -1)[..., ::2] = 0
    other = torch.zeros_like(x)
    other[:, 4:] += x[:, 4:]
    return x.relu_() + other


def noise(self: Any, x: Tensor) -> Tensor:
    if self.training:
        x = x + torch.randn_like(x) * torch.rand(x.shape[0], 1, 1, 1)
        x = x * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.8) / 0.8
    return F.dropout2d(self.one(x), 0.2, self.training)


def twice(self: Any, x: Tensor) -> Tensor:
    return self.two(self.norm(self.one(self.norm(x)))) + self.one(x)


def branches(self: Any, x: Tensor) -> Tensor:
    return self.two(self.one(x)) if self.training else self.two(x)


# As einops does it: what it finds for a shape is kept, unless that cannot be hashed.
EINOPS = """
import functools

def found(shape, groups):
    batch, channels, height, width = shape
    return (batch, groups, channels // groups, height, width), (batch, channels, height, width)

kept = functools.lru_cache(found)

def shuffled(x, groups):
    try:
        apart, joined = kept(x.shape, groups)
    except TypeError:
        apart, joined = found(x.shape, groups)
    return x.reshape(apart).transpose(1, 2).reshape(joined)
"""


def test_what_einops_keeps_of_one_forward_is_not_given_to_another() -> None:
    einops: dict[str, Any] = {"__name__": "einops.einops"}
    exec(EINOPS, einops)

    def forward(self: Any, x: Tensor) -> Tensor:
        if self.training:
            x = x + torch.randn_like(x)
        return einops["shuffled"](self.one(einops["shuffled"](x, 4)), 2)

    model = network_of(forward, one=nn.Conv2d(8, 8, 1))
    for given in (pictures(), pictures(3)):
        model(given)
    as_before(model, pictures(), pictures(5, 16, 20))


def averaged(self: Any, x: Tensor) -> Tensor:
    """Trains one scale and evaluates with another, which is the same to begin with."""
    scale = self.scale if self.training else self.average
    return self.one(x) * scale * self.factors[self.training]


def by_size(self: Any, x: Tensor) -> Tensor:
    """Has a scale for each size of pictures, found by its name; all are the same to begin with."""
    return self.one(x) * self.scales[f"{x.shape[2]}"]


def test_parameters_that_differ_by_mode_or_size_alone_are_kept_apart() -> None:
    torch.manual_seed(0)
    parts = {"one": nn.Conv2d(8, 8, 1), "scale": nn.Parameter(torch.ones(8, 1, 1))}
    model = network_of(averaged, average=nn.Parameter(torch.ones(8, 1, 1)), **parts)
    factors = [torch.ones(1), torch.ones(1) + 1e-6]
    model.get_submodule("middle").factors = factors  # type: ignore[assignment]
    as_before(model, pictures())
    scales = nn.ParameterDict({f"{side}": nn.Parameter(torch.ones(8, 1, 1)) for side in (12, 20)})
    model = network_of(by_size, one=nn.Conv2d(8, 8, 1), scales=scales)
    network = as_before(model, pictures(), pictures(5))
    with pytest.raises(ValueError, match="images: got shape"):
        network(pictures(2, 20, 28))


@pytest.mark.parametrize(
    "function", [frozen, partly, checkpointed, in_float, views, noise, twice, branches]
)
def test_a_forward_is_done_again_with_its_gradients_and_random_numbers(function: Any) -> None:
    torch.manual_seed(1)
    layers = {"one": nn.Conv2d(8, 8, 1), "two": nn.Conv2d(8, 8, 1), "norm": nn.BatchNorm2d(8)}
    as_before(network_of(function, **layers), pictures(), pictures(5, 16, 20))


def test_an_autocast_of_the_forward_holds_inside_another() -> None:
    model = network_of(in_float, one=nn.Conv2d(8, 8, 1), two=nn.Conv2d(8, 8, 1)).eval()
    network = slimmable.convert(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(pictures()), model(pictures()))
        network(pictures(), 0.5)


class Volumes(nn.Module):
    """Takes one size, and remembers what it was given, also by its copies."""

    tried: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv3d(1, 4, 1), nn.Linear(4 * 12**3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.tried.append(x.numel())
        return self.fc(self.conv(x).flatten(1))


def test_no_volume_is_tried_that_takes_gigabytes() -> None:
    network = slimmable.convert(Volumes())
    assert network(torch.rand(2, 1, 12, 12, 12), 0.5).shape == (2, 3)
    assert max(Volumes.tried) <= 2 * 64**3


class Tokens(nn.Module):
    """Its table is cut to the tokens there are, and both once more from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.table = nn.Parameter(torch.randn(1, 2000, 8))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        table = self.table[:, : tokens.shape[1]]
        return self.fc((tokens[:, 1:-2] + table[:, 1:-2]).tanh().mean(1))


class Viewed(Tokens):
    """Its logits are given the batch's size once more, and the device they are on."""

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        return super().forward(x).view(batch, -1).to(x.device)


@pytest.mark.parametrize("make", [Tokens, Viewed])
def test_other_sizes_are_cut_and_viewed_as_the_network_does(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    network = slimmable.convert(model)
    for images in (pictures(), pictures(5, 16, 20)):
        assert torch.equal(network(images), model(images))
        assert torch.equal(network.plain(0.5)(images), network(images, 0.5))
