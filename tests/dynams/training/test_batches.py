"""Steps and shares cut an epoch without losing or repeating a sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.data import Augmentation, ImageSet
from dynams.training.batches import Batches, resolve_augmentation, share, step_bounds
from dynams.training.config import DataConfig


@given(samples=st.integers(0, 5000), batch_size=st.integers(1, 700))
def test_steps_cover_each_sample_once_in_even_sizes(samples, batch_size):
    bounds = step_bounds(samples, batch_size)
    covered = [index for start, stop in bounds for index in range(start, stop)]
    assert covered == list(range(samples))
    sizes = [stop - start for start, stop in bounds]
    assert len(bounds) == (samples + batch_size - 1) // batch_size
    if sizes:
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


@given(start=st.integers(0, 100), length=st.integers(0, 100), processes=st.integers(1, 9))
def test_shares_cover_a_step_once_in_even_sizes(start, length, processes):
    shares = [share(start, start + length, rank, processes) for rank in range(processes)]
    covered = [index for first, last in shares for index in range(first, last)]
    assert covered == list(range(start, start + length))
    sizes = [last - first for first, last in shares]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == -(-length // processes)


def images(count: int = 10) -> ImageSet:
    random = torch.Generator().manual_seed(0)
    return ImageSet(
        images=torch.randint(0, 256, (count, 1, 4, 4), generator=random, dtype=torch.uint8),
        labels=torch.arange(count) % 3,
        classes=("a", "b", "c"),
        name="made up",
    )


def batches(augmentation: Augmentation) -> Batches:
    return Batches(torch.device("cpu"), (0.5,), (0.25,), augmentation)


def test_plain_batches_are_the_images_in_order_normalised():
    every = images()
    parts = list(batches(Augmentation(crop_padding=2, flip=True)).plain(every, 1, 9, 3))
    assert [len(labels) for _, labels in parts] == [3, 3, 2]
    expected = (every.images[1:9].double() / 255 - 0.5) / 0.25
    torch.testing.assert_close(torch.cat([batch for batch, _ in parts]), expected.float())
    assert torch.equal(torch.cat([labels for _, labels in parts]), every.labels[1:9])


def test_training_batches_follow_the_indices_and_the_generator():
    every, chosen = images(), torch.tensor([7, 2, 2, 9])
    make = batches(Augmentation(crop_padding=1, flip=True))
    first = make.training(every, chosen, torch.Generator().manual_seed(5))
    again = make.training(every, chosen, torch.Generator().manual_seed(5))
    other = make.training(every, chosen, torch.Generator().manual_seed(6))
    assert torch.equal(first[1], every.labels[chosen])
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_what_the_configuration_leaves_open_is_as_suits_the_data():
    suited = Augmentation(crop_padding=4, flip=True)
    assert resolve_augmentation(DataConfig(), suited) == suited
    assert resolve_augmentation(DataConfig(flip=False), suited) == Augmentation(4, False)
    assert resolve_augmentation(DataConfig(crop_padding=1), suited) == Augmentation(1, True)
    assert resolve_augmentation(DataConfig(augment=False), suited) == Augmentation(0, False)


@pytest.mark.parametrize("rank", [0, 1])
def test_images_are_not_changed_by_making_batches(rank):
    every = images()
    before = every.images.clone()
    make = batches(Augmentation(crop_padding=2, flip=True))
    make.training(every, torch.arange(rank, 10, 2), torch.Generator().manual_seed(rank))
    list(make.plain(every, 0, 10, 4))
    assert torch.equal(every.images, before)
