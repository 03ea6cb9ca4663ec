"""Folding batch-norms changes no output, wherever the layer before has its weight from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign_networks import Net, doing, stir
from torch import Tensor, nn
from torch.nn import functional as F

from dynams import slimmable


class Normed(nn.Module):
    """Two convolutions, each with a batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.w1, self.w2 = (nn.Parameter(torch.randn(8, 8, 1, 1)) for _ in range(2))

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.w1, self.w2

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.weights()
        return self.two(F.conv2d(self.one(F.conv2d(x, first)).relu(), weight=second))


class Computed(Normed):
    def weights(self) -> tuple[Tensor, Tensor]:
        return self.w1 - self.w1.mean((1, 2, 3), keepdim=True), self.w2 * 2


class Shared(Normed):
    def weights(self) -> tuple[Tensor, Tensor]:
        return self.w1, self.w1


class Leaky(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(input), 0.1)


def derived() -> nn.Module:
    middle: Any = doing(
        lambda self, x: self.norm(self.conv(x)), conv=nn.Conv2d(8, 8, 1), norm=Leaky(8)
    )
    return middle


@pytest.mark.parametrize(
    ("make", "left"),
    [(Normed, 0), (Computed, 2), (Shared, 2), (derived, 0)],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_folded_networks_give_the_same_outputs(make: Any, left: int) -> None:
    torch.manual_seed(0)
    model = Net(make()).double().eval()
    stir(model)
    plain = slimmable.convert(model).plain(0.5)
    images = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    expected = plain(images)
    seen: list[nn.Module] = []
    norms = [each for each in plain.modules() if isinstance(each, nn.BatchNorm2d)]
    plain.fold_batch_norms()
    for norm in norms:
        norm.register_forward_hook(lambda module, *_: seen.append(module))
    torch.testing.assert_close(plain(images), expected)
    assert len(seen) == left
