"""Converted networks are copied and pickled whole, as DataParallel, torch.save and spawned processes do."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynams.slimmable import convert


class Various(nn.Module):
    """Decides by sizes, reshapes to them, switches gradients, and calls what pickle finds by no name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] % 2:
            images = F.pad(images, (0, 1, 0, 1))
        x = F.max_pool2d(self.norm(self.conv(images)), 2)
        with torch.no_grad():
            scale = F.max_pool2d(x, 2).mean()
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height * width).transpose(1, 2)[:, :height]
        return self.head(x.mean(1) * scale)


def test_a_pickled_and_a_copied_network_compute_the_same() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 3, 10, 10)
    network = convert(Various(), example=torch.randn(2, 3, 10, 10))
    network(images, (0.5, 1.0))  # statistics other than the initial ones
    expected = network.eval()(images, (0.5, 1.0))
    folded = network.plain(0.5)
    folded.fold_batch_norms()
    others = [copy.deepcopy(network), pickle.loads(pickle.dumps(network))]
    for other in others:
        for logits, wanted in zip(other(images, (0.5, 1.0)), expected, strict=True):
            assert torch.equal(logits, wanted)
        assert torch.equal(other.plain(0.5)(images), network.plain(0.5)(images))
    assert torch.equal(pickle.loads(pickle.dumps(folded))(images), folded(images))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    for other in others:
        assert torch.equal(other(images), expected[1])
