"""Steps and shares cut an epoch without losing or repeating a sample."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.cost import Clock
from dynams.data import Augmentation, ImageSet
from dynams.training.batches import ImageBatches, resolve_augmentation, share, step_bounds
from dynams.training.config import DataConfig
from dynams.training.seeds import generator


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


def batches(images: ImageSet, augmentation: Augmentation) -> ImageBatches:
    return ImageBatches(images, torch.device("cpu"), (0.5,), (0.25,), augmentation)


def test_plain_batches_are_the_images_in_order_normalised():
    every = images()
    parts = list(batches(every, Augmentation(crop_padding=2, flip=True)).plain(1, 9, 3))
    assert [len(labels) for _, labels in parts] == [3, 3, 2]
    expected = (every.images[1:9].double() / 255 - 0.5) / 0.25
    torch.testing.assert_close(torch.cat([batch for batch, _ in parts]), expected.float())
    assert torch.equal(torch.cat([labels for _, labels in parts]), every.labels[1:9])


def test_training_batches_follow_the_indices_and_the_generator():
    every, chosen = images(), torch.tensor([7, 2, 2, 9])
    make = batches(every, Augmentation(crop_padding=1, flip=True))
    first = make.training(chosen, torch.Generator().manual_seed(5))
    again = make.training(chosen, torch.Generator().manual_seed(5))
    other = make.training(chosen, torch.Generator().manual_seed(6))
    assert torch.equal(first[1], every.labels[chosen])
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


SHAPE, MEAN = (3, 32, 32), (0.5, 0.25, 0.1)


def test_what_the_configuration_leaves_open_is_as_suits_the_data():
    suited = Augmentation(crop_padding=4, flip=True)
    for config, wanted in (
        (DataConfig(), suited),
        (DataConfig(flip=False), Augmentation(4, False)),
        (DataConfig(crop_padding=1), Augmentation(1, True)),
        (DataConfig(augment=False), Augmentation(0, False)),
        (DataConfig(crop_size=24), Augmentation(4, True, size=24)),
        (DataConfig(crop="random-resized"), Augmentation(0, True, True, 28)),
        (DataConfig(flips="alternating"), Augmentation(4, True, alternating=True)),
        (DataConfig(pad="reflect", crop_padding=2), Augmentation(2, True, pad="reflect")),
        # 127.5 and 63.75 and 25.5, rounded half to even.
        (DataConfig(cutout=12), Augmentation(4, True, cutout=12, colour=(128, 64, 26))),
        (DataConfig(augment=False, cutout=12, pad="reflect"), Augmentation()),
    ):
        assert resolve_augmentation(config, suited, SHAPE, MEAN) == wanted


def test_large_images_have_boxes_unless_they_are_to_be_shifted():
    suited, shape = Augmentation(flip=True, random_resized=True, size=224), (3, 256, 256)
    for config, wanted in (
        (DataConfig(), suited),
        (DataConfig(crop_size=192), Augmentation(0, True, True, 192)),
        (DataConfig(augment=False), Augmentation(size=224)),
        (DataConfig(crop="shift"), Augmentation(0, True)),
        (DataConfig(crop_padding=8), Augmentation(8, True)),
    ):
        assert resolve_augmentation(config, suited, shape, MEAN) == wanted
    with pytest.raises(ValueError, match=r"data\.crop_size: got 300 for images of 256 x 256"):
        resolve_augmentation(DataConfig(crop_size=300), suited, shape, MEAN)
    with pytest.raises(ValueError, match=r"data\.crop_padding: got 4 with data\.crop=random-res"):
        DataConfig(crop="random-resized", crop_padding=4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"flips": "alternating", "flip": False}, "flips: got alternating for images that are not"),
        ({"pad": "reflect", "crop_padding": 0}, "pad: got reflect for images that are not shifted"),
        ({"pad": "reflect", "crop": "random-resized"}, "pad: got reflect for images that are not"),
        (
            {"pad": "reflect", "crop_padding": 32},
            "crop_padding: got 32 with pad=reflect for images",
        ),
        ({"cutout": 33}, "cutout: got 33 for images of 32 x 32, want at most 32"),
        ({"cutout": 25, "crop_size": 24}, "cutout: got 25 for images of 32 x 32, want at most 24"),
    ],
)
def test_variations_that_there_are_not_are_refused_by_their_setting(settings, said):
    with pytest.raises(ValueError, match=rf"^data\.{said}"):
        resolve_augmentation(DataConfig(**settings), Augmentation(4, True), SHAPE, MEAN)


def test_the_colour_of_squares_is_the_mean_after_normalisation():
    every = images(200)
    make = replace(batches(every, Augmentation(cutout=3, colour=(128,))), mean=(0.5,), std=(0.25,))
    varied, _ = next(make.epoch(torch.arange(200), [(0, 200)], epoch=0))
    plain, _ = next(make.plain(0, 200, 200))
    covered = varied != plain
    # Half a level at most; the four places of a square are about equally frequent.
    assert varied[covered].abs().max() <= 0.5 / 255 / 0.25 + 1e-6
    assert covered.sum((1, 2, 3)).max() == 9
    corners = (varied[:, 0, ::3, ::3].abs() < 0.01).flatten(1).sum(0)
    assert (corners > 25).all()


ALTERNATING = Augmentation(flip=True, alternating=True)


@given(
    count=st.integers(1, 60),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 9),
    batch_size=st.integers(1, 60),
    processes=st.integers(1, 3),
)
def test_a_sample_alternates_whatever_the_batches_and_processes(
    count, seed, epoch, batch_size, processes
):
    # An epoch has its samples in any order, and need not have all of them.
    draw = torch.Generator().manual_seed(seed % 1000)
    make = replace(batches(images(count), ALTERNATING), seed=seed)
    plain, _ = next(make.plain(0, count, count))
    faces = []
    for number, share_of in ((epoch, processes), (epoch + 1, 1)):
        order = torch.randperm(count, generator=draw)
        bounds = step_bounds(count, batch_size)
        steps = [
            list(replace(make, rank=rank, processes=share_of).epoch(order, bounds, epoch=number))
            for rank in range(share_of)
        ]
        seen = torch.cat([batch for step in zip(*steps, strict=True) for batch, _ in step])
        faces.append(torch.empty_like(seen).index_copy_(0, order, seen))
    # One epoch shows an image, and the other its mirror image.
    for image, one, other in zip(plain, *faces, strict=True):
        assert torch.equal(one, image) or torch.equal(one, image.flip(2))
        assert torch.equal(other, one.flip(2))


def test_sides_are_drawn_once_for_each_sample_from_the_seed():
    order, bounds = torch.arange(2000), [(0, 2000)]
    make = batches(images(2000), ALTERNATING)
    plain, _ = next(make.plain(0, 2000, 2000))

    def mirrored(seed: int, epoch: int) -> torch.Tensor:
        varied, _ = next(replace(make, seed=seed).epoch(order, bounds, epoch=epoch))
        return (varied != plain).flatten(1).any(1)

    first = mirrored(0, 0)
    assert abs(first.double().mean() - 0.5) < 0.06
    assert torch.equal(mirrored(0, 4), first)
    assert torch.equal(mirrored(0, 3), ~first)
    assert abs((mirrored(1, 0) == first).double().mean() - 0.5) < 0.06


def test_where_a_size_is_seen_plain_batches_are_the_centre():
    every = images()
    for how in (Augmentation(size=2), Augmentation(random_resized=True, size=2)):
        make = batches(every, how)
        assert make.shape == (1, 2, 2)
        expected = (every.images[:, :, 1:3, 1:3].double() / 255 - 0.5) / 0.25
        (plain, _), (picked, _) = (
            next(make.plain(0, 10, 10)),
            next(make.picked(torch.arange(10), 10)),
        )
        torch.testing.assert_close(plain, expected.float())
        assert torch.equal(plain, picked)
        varied, _ = next(make.epoch(torch.arange(10), [(0, 10)], epoch=0))
        assert varied.shape == plain.shape
        assert torch.equal(varied, plain) is not how.random_resized


@pytest.mark.parametrize("rank", [0, 1])
def test_images_are_not_changed_by_making_batches(rank):
    every = images()
    before = every.images.clone()
    make = batches(every, Augmentation(crop_padding=2, flip=True))
    make.training(torch.arange(rank, 10, 2), torch.Generator().manual_seed(rank))
    list(make.plain(0, 10, 4))
    assert torch.equal(every.images, before)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_is_its_steps_in_order_wherever_it_begins(processes):
    order, bounds = torch.tensor([7, 2, 9, 0, 5, 1, 3]), step_bounds(7, 3)
    make = replace(
        batches(images(), Augmentation(crop_padding=1, flip=True)), seed=4, processes=processes
    )
    ranks = [replace(make, rank=rank) for rank in range(processes)]
    for rank, mine in enumerate(ranks):
        clock = Clock()
        whole = list(mine.epoch(order, bounds, epoch=2, clock=clock))
        counted = 0
        for step, (batch, labels) in enumerate(whole):
            first, last = share(*bounds[step], rank, processes)
            draws = generator("cpu", 4, purpose="augmentation", epoch=2, step=step, rank=rank)
            wanted = mine.training(order[first:last], draws)
            assert torch.equal(batch, wanted[0])
            assert torch.equal(labels, wanted[1])
            counted += last - first
        assert clock.samples["data"] == counted
        resumed = list(mine.epoch(order, bounds, epoch=2, first_step=2))
        assert len(resumed) == len(whole) - 2
        assert torch.equal(resumed[0][0], whole[2][0])
