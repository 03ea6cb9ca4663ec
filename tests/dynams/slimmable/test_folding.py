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


class Flat(nn.Module):
    """Linear layers with batch-norms of their outputs, one of them without scale and shift."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.one(x.mean((2, 3)))).relu()
        return self.norms[1](self.two(x))[:, :, None, None]


class Tokens(nn.Module):
    """A batch-norm of tokens, of which there are as many as channels or more, after a linear layer."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.one, self.norm, self.count = nn.Linear(8, 8), nn.BatchNorm1d(count), count

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.one(x.flatten(2)[..., : self.count].transpose(1, 2)))
        return tokens.transpose(1, 2)[..., None]


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (Normed, 0),
        (Computed, 2),
        (Shared, 2),
        (derived, 0),
        (Flat, 0),
        (lambda: Tokens(8), 1),
        (lambda: Tokens(16), 1),
    ],
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
    norms = [each for each in plain.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    plain.fold_batch_norms()
    for norm in norms:
        norm.register_forward_hook(lambda module, *_: seen.append(module))
    torch.testing.assert_close(plain(images), expected)
    assert len(seen) == left
