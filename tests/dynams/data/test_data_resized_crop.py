"""Random boxes and their resampling against references that take one image, and one pixel, at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynams.data import Augmentation, augment
from dynams.data.resized_crop import (
    centre_crop,
    draw_boxes,
    resample,
    resample_by_matrices,
    resample_one_by_one,
)

MIRRORED = Augmentation(flip=True, random_resized=True, size=8)


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def random_images(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def weights_of(length: int, size: int) -> np.ndarray:
    """(size, length) float64: each result's weights, pixel by pixel from the definition."""
    scale = length / size
    reach = max(scale, 1.0)
    weights = np.zeros((size, length))
    for place in range(size):
        centre = (place + 0.5) * scale
        for pixel in range(length):
            weights[place, pixel] = max(0.0, 1.0 - abs(pixel + 0.5 - centre) / reach)
    return weights / weights.sum(1, keepdims=True)


def reference(image: np.ndarray, box: tuple[int, ...], size: int, flip: bool) -> np.ndarray:
    top, left, height, width = box
    cut = image[:, top : top + height, left : left + width].astype(np.float64)
    result = weights_of(height, size) @ cut @ weights_of(width, size).T
    return result[:, :, ::-1] if flip else result


@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 20),
    st.sampled_from([1, 3]),
    st.integers(0, 2**31),
)
def test_any_box_and_size_equals_the_reference(
    height: int, width: int, size: int, channels: int, seed: int
) -> None:
    images = random_images((4, channels, height, width), seed)
    draw = np.random.default_rng(seed)
    heights, widths = draw.integers(1, height + 1, 4), draw.integers(1, width + 1, 4)
    tops = [draw.integers(0, height - each + 1) for each in heights]
    lefts = [draw.integers(0, width - each + 1) for each in widths]
    boxes = torch.tensor(np.array([tops, lefts, heights, widths]))
    flips = torch.from_numpy(draw.integers(0, 2, 4).astype(bool))
    exact = np.stack(
        [
            reference(image, tuple(box.tolist()), size, bool(flip))
            for image, box, flip in zip(images.numpy(), boxes.T, flips, strict=True)
        ]
    )
    for way in (resample_one_by_one, resample_by_matrices):
        result = way(images.double(), boxes, size, flips).numpy()
        np.testing.assert_allclose(result, exact, rtol=0, atol=1e-9)
        result = way(images, boxes, size, flips).numpy()
        np.testing.assert_allclose(result, exact, rtol=0, atol=1e-3)
    # Bytes are the nearest to it; at a half, float32 may take either.
    rounded = resample(images, boxes, size, flips)
    assert rounded.dtype == torch.uint8
    assert np.abs(rounded.numpy() - exact).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", [17, 96])
def test_a_batch_equals_pillow_within_a_level(device: str, size: int) -> None:
    images = random_images((6, 3, 40, 56))
    boxes = draw_boxes(6, 40, 56, seeded(3))
    result = resample(images.to(device), boxes.to(device), size).cpu().numpy().astype(int)
    for image, box, mine in zip(images.numpy(), boxes.T.tolist(), result, strict=True):
        top, left, height, width = box
        cut = image[:, top : top + height, left : left + width].transpose(1, 2, 0)
        theirs = Image.fromarray(cut).resize((size, size), Image.Resampling.BILINEAR)
        # Pillow rounds twice, once an axis.
        assert np.abs(np.asarray(theirs).transpose(2, 0, 1).astype(int) - mine).max() <= 1


def test_crops_keep_dtype_and_memory_format_and_leave_the_images(device: str) -> None:
    images = random_images((5, 3, 12, 10)).to(device)
    before = images.clone()
    for layout in (torch.contiguous_format, torch.channels_last):
        laid = images.contiguous(memory_format=layout)
        for each in (laid, laid.float()):
            result = augment(each, MIRRORED, seeded(1, device))
            assert result.dtype == each.dtype
            assert result.shape == (5, 3, 8, 8)
            assert result.is_contiguous(memory_format=layout)
    assert torch.equal(images, before)


def test_autocast_does_not_coarsen_the_filters() -> None:
    images = random_images((4, 3, 16, 16))
    how = Augmentation(random_resized=True, size=8)
    plain = augment(images, how, seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(images, how, seeded(1)), plain)


def reference_boxes(
    count: int, height: int, width: int, generator: torch.Generator
) -> list[tuple[int, ...]]:
    """One box after the other from the draws that `draw_boxes` promises."""
    areas, shapes = torch.rand((2, 10, count), generator=generator, dtype=torch.float64).tolist()
    rows, columns = torch.rand((2, count), generator=generator, dtype=torch.float64).tolist()
    boxes = []
    for sample in range(count):
        for attempt in range(10):
            area = height * width * (0.08 + 0.92 * areas[attempt][sample])
            low, high = math.log(3 / 4), math.log(4 / 3)
            shape = math.exp(low + (high - low) * shapes[attempt][sample])
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                top = int(rows[sample] * (height - h + 1))
                boxes.append((top, int(columns[sample] * (width - w + 1)), h, w))
                break
        else:
            w, h = width, height
            if width / height < 3 / 4:
                h = round(width / (3 / 4))
            elif width / height > 4 / 3:
                w = round(height * (4 / 3))
            boxes.append(((height - h) // 2, (width - w) // 2, h, w))
    return boxes


@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 40), (9, 64), (64, 9), (2, 1)])
def test_boxes_equal_the_reference(height: int, width: int) -> None:
    drawn = draw_boxes(300, height, width, seeded(4))
    assert [tuple(box) for box in drawn.T.tolist()] == reference_boxes(
        300, height, width, seeded(4)
    )


def test_boxes_are_spread_as_promised(device: str) -> None:
    count, side = 40_000, 1000
    top, left, height, width = draw_boxes(count, side, side, seeded(0, device)).cpu().double()
    area, shape = height * width / side**2, (width / height).log()
    assert area.min() > 0.079
    assert shape.abs().max() < math.log(4 / 3) + 0.01
    # Where every try fits (areas below 3/4), areas are uniform and shapes log-uniform, tries apart.
    fitting = area < 0.7
    quarters = torch.histc(area[fitting], 4, 0.08, 0.7)
    assert (quarters / fitting.sum() - 0.25).abs().max() < 0.02
    quarters = torch.histc(shape[fitting], 4, -math.log(4 / 3), math.log(4 / 3))
    assert (quarters / fitting.sum() - 0.25).abs().max() < 0.02
    for place, length in ((top, height), (left, width)):
        free = place / (side - length).clamp(min=1)
        assert abs(free[length < side].mean() - 0.5) < 0.02
        assert (place >= 0).all()
        assert (place + length <= side).all()


def test_augmentation_by_boxes_replays_from_the_generator(device: str) -> None:
    images = random_images((32, 3, 20, 20)).to(device)
    how = Augmentation(flip=True, random_resized=True, size=16)
    first = augment(images, how, seeded(1, device))
    assert first.shape == (32, 3, 16, 16)
    assert torch.equal(first, augment(images, how, seeded(1, device)))
    draws = seeded(1, device)
    boxes = draw_boxes(32, 20, 20, draws)
    flips = torch.randint(0, 2, (32,), generator=draws, device=device).bool()
    assert torch.equal(first, resample(images, boxes, 16, flips))
    assert not torch.equal(first, augment(images, how, seeded(2, device)))


def test_half_the_boxes_are_mirrored() -> None:
    ramp = torch.arange(0, 64, dtype=torch.uint8).expand(2000, 1, 64, 64)
    how = Augmentation(flip=True, random_resized=True, size=8)
    result = augment(ramp, how, seeded(0)).int()
    falling = (result[:, 0, 0, 0] > result[:, 0, 0, -1]).double().mean()
    assert abs(falling - 0.5) < 0.06
    straight = augment(ramp, Augmentation(random_resized=True, size=8), seeded(0)).int()
    assert (straight[:, 0, 0, 0] <= straight[:, 0, 0, -1]).all()


def test_without_boxes_a_size_is_the_centre() -> None:
    images = random_images((3, 1, 9, 12))
    centre = images[:, :, 2:6, 4:8]
    assert torch.equal(centre_crop(images, 4), centre)
    assert torch.equal(augment(images, Augmentation(size=4), seeded(0)), centre)
    with pytest.raises(ValueError, match=r"size: got 10 for images of 9 x 12"):
        centre_crop(images, 10)


def test_an_augmentation_that_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"crop_padding: got 2 with random_resized"):
        Augmentation(2, random_resized=True)
    with pytest.raises(ValueError, match=r"size: got 0, want at least 1"):
        Augmentation(size=0)
    with pytest.raises(TypeError, match=r"random_resized: got 1, want True or False"):
        Augmentation(random_resized=1)  # type: ignore[arg-type]
