"""The real CIFAR-10, where DYNAMS_CIFAR10 names a directory that holds it."""

from __future__ import annotations

import os

import pytest
import torch

from dynams.data import ImageData, load_data

PATH = os.environ.get("DYNAMS_CIFAR10")

pytestmark = pytest.mark.skipif(not PATH, reason="DYNAMS_CIFAR10 names no directory")


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("cifar10", PATH)


def test_every_image_and_label_is_there(data: ImageData) -> None:
    assert data.train.images.shape == (50_000, 3, 32, 32)
    assert data.test.images.shape == (10_000, 3, 32, 32)
    assert torch.bincount(data.train.labels).tolist() == [5_000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1_000] * 10


def test_statistics_are_the_published_ones(data: ImageData) -> None:
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=3e-3)


def test_images_of_a_class_look_alike(data: ImageData) -> None:
    """Labels belong to their images: ships and airplanes are bluer than frogs and deer."""
    blue = data.train.images.float().mean((2, 3))
    share = blue[:, 2] / blue.sum(1).clamp(min=1)
    classes = data.train.classes
    mean = {name: share[data.train.labels == label].mean() for label, name in enumerate(classes)}
    assert min(mean["airplane"], mean["ship"]) > max(mean["frog"], mean["deer"])
