"""Held-out training samples: how they are drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import overload

import torch
from torch import Tensor

from dynams.data import ImageData, ImageSet
from dynams.data.datasets import SampleData, SampleSet
from dynams.training.seeds import generator


@overload
def hold_out(data: ImageData, fraction: float, seed: int) -> tuple[ImageData, ImageSet, Tensor]: ...


@overload
def hold_out(
    data: SampleData, fraction: float, seed: int
) -> tuple[SampleData, SampleSet, Tensor]: ...


def hold_out(
    data: ImageData | SampleData, fraction: float, seed: int
) -> tuple[ImageData | SampleData, ImageSet | SampleSet, Tensor]:
    """Take the ``fraction`` of each class, to the nearest number, out of the training images.

    Args:
        data: what was loaded, or is known of Datasets; mean and standard deviation stay.
        fraction: in (0, 1).
        seed: of the draw; nothing else decides it.

    Returns:
        The data with the rest to train on, the samples held out, and the rest's places (n,) int64 among
        all training images.

    Raises:
        ValueError: nothing, or everything, would be held out.
    """
    labels = data.train.labels.cpu()
    random = generator("cpu", seed, purpose="hold-out")
    held = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    for label in range(data.num_classes):
        members = (labels == label).nonzero().flatten()
        drawn = torch.randperm(len(members), generator=random, device="cpu")
        held[members[drawn[: int(fraction * len(members) + 0.5)]]] = True
    out, kept = held.nonzero().flatten(), (~held).nonzero().flatten()
    if not len(out) or not len(kept):
        raise ValueError(
            f"data.holdout: got {fraction} of {len(labels)} images, which holds out {len(out)} and "
            f"leaves {len(kept)}, want some of both"
        )
    if isinstance(data, ImageData):
        return replace(data, train=data.train.subset(kept)), data.train.subset(out), kept
    return replace(data, train=data.train.subset(kept)), data.train.subset(out), kept
