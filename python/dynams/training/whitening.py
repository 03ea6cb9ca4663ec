"""The first layer of a network that whitens its input: computed of the images that it trains on."""

from __future__ import annotations

import math
from typing import cast

import torch

from dynams.models import Sprint
from dynams.slimmable import SlimmableNetwork
from dynams.training.batches import Batches
from dynams.training.network import Network
from dynams.training.seeds import generator

_IMAGES = 5000
# Of that many images of 32 x 32 pixels; of larger ones fewer have as many patches.
_PIXELS = _IMAGES << 10


def whiten(network: Network, batches: Batches, seed: int) -> None:
    """Set the weights of a first layer that whitens; a network without one is left as it is.

    They are computed of 5,000 images (of as many pixels, if the images are larger than 32 x 32),
    normalised and not varied, which ``seed`` draws: the same in every process.

    Args:
        network: on the device that it trains on.
        batches: what it trains on.
        seed: of the run.
    """
    bare = cast(SlimmableNetwork, network).network
    if not isinstance(bare, Sprint):
        return
    count = max(1, min(_IMAGES, len(batches), _PIXELS // math.prod(batches.shape[1:])))
    draws = generator("cpu", seed, purpose="images that whiten")
    indices = torch.randperm(len(batches), generator=draws, device="cpu")[:count].sort().values
    images, _ = next(batches.picked(indices, count))
    bare.whiten(images)
