"""Activations joined to convolutions: which are, that nothing else is computed, and what cuDNN is called with."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign_networks import Net, doing, stir
from torch import Tensor, nn
from torch.nn import functional as F

from dynams import slimmable
from dynams.models import build_model
from dynams.slimmable import fusing

RELU, ADD_RELU = fusing.conv2d_relu, fusing.conv2d_add_relu


def fused(network: Any) -> tuple[Any, Callable[[Tensor], Tensor], list[Any]]:
    """The network at half width, its forward before its activations were joined, and the functions that its forward calls since."""
    plain = network.plain(0.5)
    plain.fold_batch_norms()
    before = plain._forward()
    plain.fuse_activations()
    nodes = plain._forward().features.graph.graph.nodes
    called = [node.target for node in nodes if node.op in ("call_function", "call_method")]
    return plain, lambda x: plain._run(before.logits, plain._run(before.features, x)), called


def test_a_residual_network_is_one_convolution_after_the_other() -> None:
    plain, before, called = fused(build_model("resnet8", 10, widths=(0.5, 1.0)).eval())
    joined = [each for each in called if each in (RELU, ADD_RELU)]
    # The stem, and the two convolutions of each of three blocks; two shortcuts stay alone.
    assert joined == [RELU, *[RELU, ADD_RELU] * 3]
    assert called.count(torch.conv2d) == 2
    assert not {F.relu, "add_"} & set(called)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain(images), before(images))
    assert torch.equal(pickle.loads(pickle.dumps(plain))(images), plain(images))


def block(forward: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    made: Any = doing(
        forward, one=nn.Conv2d(8, 8, 3, 1, 1), two=nn.Conv2d(8, 8, 3, 1, 1), wide=nn.Conv2d(8, 8, 3, 1, "same")
    )  # fmt: skip
    return made


def in_place_between(self: Any, x: Tensor) -> Tensor:
    out = self.one(x)
    x.mul_(0.5)
    return F.relu(out) + x


def added_to_another(self: Any, x: Tensor) -> Tensor:
    kept = self.two(x)
    kept.add_(self.one(x))
    return F.relu(kept) * kept.sum((2, 3), keepdim=True).sign()


# What a forward does, and how often each function is to be found behind it.
FORWARDS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int, int]] = {
    "functions": (lambda self, x: F.relu(self.one(x)) + torch.relu(self.two(x)), 2, 0),
    "methods": (lambda self, x: self.one(x).relu() + self.two(x).relu_(), 2, 0),
    "a sum either way round": (lambda self, x: F.relu(x + self.one(x)), 0, 1),
    "of two convolutions": (lambda self, x: (self.one(x) + self.two(x)).relu(), 0, 1),
    "with a kept result": (lambda self, x: (y := self.one(x)).relu() + y, 0, 0),
    "with a kept sum": (lambda self, x: (y := self.one(x) + x).relu() + y, 0, 0),
    "a scaled sum": (lambda self, x: torch.add(self.one(x), x, alpha=2).relu(), 0, 0),
    "a number added": (lambda self, x: (self.one(x) + 1.0).relu(), 0, 0),
    "padding by a word": (lambda self, x: self.wide(x).relu(), 0, 0),
    "twice the same": (lambda self, x: ((y := self.one(x)) + y).relu(), 0, 0),
    "a broadcast sum": (lambda self, x: (self.one(x) + x.mean((2, 3), keepdim=True)).relu(), 0, 1),
    "its input changed meanwhile": (in_place_between, 0, 0),
    "added to what is used again": (added_to_another, 0, 0),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_joined_forwards_give_the_same_bits(name: str) -> None:
    forward, relus, sums = FORWARDS[name]
    torch.manual_seed(0)
    model = Net(block(forward)).eval()
    stir(model)
    images = torch.randn(3, 3, 6, 6)
    plain, before, called = fused(slimmable.convert(model, example=images))
    # `Net` has a convolution and a rectifier of its own before what it is given.
    own = fused(slimmable.convert(Net(nn.Identity()).eval(), example=images))[2]
    found = [called.count(each) - own.count(each) for each in (RELU, ADD_RELU)]
    with torch.no_grad():
        assert torch.equal(plain(images), before(images))
    assert found == [relus, sums]


# ------------------------------------------------------------------------------------ what cuDNN is called with


class OnTensorCores(torch.Tensor):
    """Stands for a tensor of a GPU."""

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True


def test_half_precision_on_a_gpu_goes_to_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda *args: calls.append(args))
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", lambda *args: calls.append(args))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    fusing._has_kernels.cache_clear()

    def weight(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        made = torch.randn(*shape).to(dtype, memory_format=torch.channels_last)
        return made.as_subclass(OnTensorCores)

    x, w, b = torch.randn(2, 8, 9, 7), weight(16, 8, 3, 3), torch.randn(16).bfloat16()
    RELU(x, w, b, 2, (1, 1), 1, 1)
    (call,) = calls
    assert call[0].dtype == torch.bfloat16  # as autocast has it
    assert call[3:] == ((2, 2), (1, 1), (1, 1), 1)
    other = torch.randn(2, 16, 5, 4).bfloat16()
    ADD_RELU(x, w, b, (2, 2), (1, 1), (1, 1), 1, other)
    call = calls.pop()
    assert call[2] is other
    assert call[3:] == (1.0, b, (2, 2), (1, 1), (1, 1), 1)
    # One of another shape is read beyond its end there; the rest has no kernel, or needs what cuDNN does not keep.
    calls.clear()
    ADD_RELU(x.bfloat16(), w, b, 2, 1, 1, 1, other[:, :, :1, :1])
    ADD_RELU(x.bfloat16(), w, b, 2, 1, 1, 1, other.float())
    RELU(x, weight(16, 8, 3, 3, dtype=torch.float32), b.float(), 1, 1, 1, 1)
    RELU(x.bfloat16(), weight(12, 8, 3, 3), b[:12], 1, 1, 1, 1)
    RELU(x.bfloat16(), weight(16, 4, 3, 3), b, 1, 1, 1, 2)
    RELU(x[:, :4].bfloat16(), weight(16, 4, 3, 3), b, 1, 1, 1, 1)
    RELU(x.bfloat16(), w.contiguous(), b, 1, 1, 1, 1)
    RELU(x.bfloat16().requires_grad_(), w, b, 1, 1, 1, 1)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        RELU(x.bfloat16(), w, b, 1, 1, 1, 1)
    assert calls == []

    def refused(*args: Any) -> Tensor:
        calls.append(args)
        raise RuntimeError("FIND was unable to find an engine to execute this computation")

    monkeypatch.setattr(torch, "cudnn_convolution_relu", refused)
    want = torch.conv2d(x.bfloat16(), w, b, 1, 1).relu()
    assert torch.equal(RELU(x.bfloat16(), w, b, 1, 1, 1, 1), want)
    assert len(calls) == 1


class Added(nn.Module):
    """A parameter is added to a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 8, 3, 1, 1), nn.Parameter(torch.rand(8, 1, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x) + self.scale).mean((2, 3)))


def test_what_is_added_is_no_weight_of_a_layer() -> None:
    plain = slimmable.convert(Added().eval()).plain(0.5)
    plain.fuse_activations()
    plain.cast_layers(torch.bfloat16)
    assert plain.network.conv.weight.dtype == torch.bfloat16
    assert plain.network.scale.dtype == torch.float32
