"""Networks that are frozen again and again: always the weights of the time, and nothing made anew that need not be."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import foreign_networks as foreign
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynams import slimmable
from dynams.slimmable.moulds import filled, frozen_copy

LAST = torch.channels_last


class Leaky(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(input), 0.1)


class Mixed(nn.Module):
    """A norm to fold, one that stands alone, and a weight that is computed."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 1, 1), norm(8)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("shift", torch.rand(1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.conv(x)) * self.scale + self.shift).mean((2, 3)))


def alone() -> nn.Module:
    return foreign.Net(foreign.doing(lambda self, x: self.norm(x.relu()), norm=nn.BatchNorm2d(8)))


# Whether a network of each is filled again, or made anew.
MODELS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "basic blocks": (foreign.resnet, True),
    "bottlenecks": (foreign.bottleneck_resnet, True),
    "biased": (foreign.VGG, True),
    "parameters of its own": (Mixed, True),
    "a norm with an activation": (lambda: Mixed(Leaky), False),
    "a norm without statistics": (
        lambda: Mixed(lambda size: nn.BatchNorm2d(size, track_running_stats=False)),
        False,
    ),
    "a norm that stands alone": (alone, False),
}


def changed(network: nn.Module) -> None:
    """Train a step, as it were."""
    foreign.stir(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5).add_(0.01)


@pytest.mark.parametrize("layers", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_block_sees_the_weights_of_the_time(name: str, layers: torch.dtype | None) -> None:
    make, again = MODELS[name]
    torch.manual_seed(0)
    network = slimmable.convert(make(), example=torch.randn(2, 3, 12, 12))
    images = torch.randn(3, 3, 12, 12).to(memory_format=LAST)
    seen: list[Any] = []
    for _ in range(3):
        for width in network.widths:
            want, _ = frozen_copy(network, width, LAST, layers)
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=layers is not None)
            with filled(network, width, LAST, layers) as made, torch.no_grad(), autocast:
                assert torch.equal(made(images), want(images))
                assert made.head.weight.dtype == torch.float32
                assert not any(each.requires_grad for each in made.parameters())
                known = dict(want.named_parameters()) | dict(want.named_buffers())
                for path in made.programs.features.tensors:
                    got = dict(made.named_parameters()) | dict(made.named_buffers())
                    assert got[path].dtype == known[path].dtype
                    assert got[path].stride() == known[path].stride()
                # Copies, whatever happens to the weights meanwhile.
                before = made(images)
                changed(network)
                assert torch.equal(made(images), before)
            seen.append(made)
    assert len(set(map(id, seen))) == (len(network.widths) if again else len(seen))


def test_between_blocks_no_weights_are_held() -> None:
    network = slimmable.convert(foreign.resnet().eval())
    with filled(network, 0.5, LAST, None) as made:
        whole = sum(each.numel() for each in made.parameters() if each.dim() == 4)
        assert whole > 0
    assert [path for path, each in made.named_parameters() if each.dim() > 1] == []


def test_a_norm_of_another_class_is_folded_anew() -> None:
    network = slimmable.convert(Mixed()).eval()
    images = torch.randn(2, 3, 12, 12)
    with filled(network, 0.5, LAST, None) as first:
        pass
    nn.SyncBatchNorm.convert_sync_batchnorm(network)
    changed(network)
    with filled(network, 0.5, LAST, None) as second:
        torch.testing.assert_close(second(images), network(images, 0.5))
    assert second is not first
    with filled(network, 0.5, LAST, None) as third:
        assert third is second


def test_copies_of_a_network_begin_without_what_it_kept() -> None:
    network = slimmable.convert(Mixed()).eval()
    with filled(network, 0.5, LAST, None):
        pass
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert (len(network.moulds), len(other.moulds)) == (1, 0)
        changed(other)
        images = torch.randn(2, 3, 12, 12)
        with filled(other, 0.5, LAST, None) as made:
            torch.testing.assert_close(made(images), other(images, 0.5))
