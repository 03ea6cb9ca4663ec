"""Normalisation and the statistics it uses, against NumPy in float64 and Python integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.data import normalise
from dynams.data.statistics import Moments

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
FORMATS = [torch.contiguous_format, torch.channels_last]


def reference(images: torch.Tensor) -> np.ndarray:
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.cpu().numpy().astype(np.float64) / 255 - mean) / std


def random_images(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("given_format", FORMATS)
@pytest.mark.parametrize("wanted_format", [*FORMATS, torch.preserve_format])
@pytest.mark.parametrize(
    ("dtype", "ulp"),
    [
        (torch.float32, 2.0**-22),
        (torch.bfloat16, 2.0**-8),
        (torch.float16, 2.0**-11),
        (torch.float64, 2.0**-50),
    ],
)
@pytest.mark.parametrize("shape", [(9, 3, 32, 32), (2, 3, 7, 5), (1, 3, 1, 1), (0, 3, 4, 4)])
def test_equals_the_formula_in_the_wanted_dtype_and_memory_format(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    ulp: float,
    given_format: torch.memory_format,
    wanted_format: torch.memory_format,
    device: str,
) -> None:
    images = random_images(shape).to(device).contiguous(memory_format=given_format)
    result = normalise(images, MEAN, STD, dtype, wanted_format)
    layout = given_format if wanted_format == torch.preserve_format else wanted_format
    assert result.dtype == dtype
    assert result.device.type == device
    assert result.is_contiguous(memory_format=layout)
    expected = reference(images)
    # One rounding of a value up to 4, and of the two terms it is the sum of.
    np.testing.assert_allclose(result.double().cpu().numpy(), expected, rtol=ulp, atol=4 * ulp)


def test_every_byte_value_of_every_channel_is_right(device: str) -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1).to(device)
    result = normalise(images, MEAN, STD).cpu().numpy()
    np.testing.assert_allclose(result, reference(images), rtol=0, atol=1e-6)


def test_images_normalised_by_their_own_moments_have_mean_0_and_deviation_1() -> None:
    images = random_images((40, 3, 16, 16))
    moments = Moments.of(3, [images.numpy()])
    result = normalise(images, moments.mean(), moments.std(), torch.float64)
    assert torch.allclose(result.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-12)
    assert torch.allclose(result.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-12)


def test_constants_first_used_while_scoring_can_be_trained_on() -> None:
    images = random_images((2, 3, 4, 4))
    mean = (0.125, 0.25, 0.375)  # Used nowhere else: not made before.
    with torch.inference_mode():
        normalise(images, mean, STD)
    weight = torch.ones(4, requires_grad=True)
    (normalise(images, mean, STD) * weight).sum().backward()
    assert weight.grad is not None


def test_wrong_arguments_are_named() -> None:
    images = random_images((2, 3, 4, 4))
    with pytest.raises(TypeError, match=r"images: got dtype torch\.float32, want uint8"):
        normalise(images.float(), MEAN, STD)
    with pytest.raises(TypeError, match=r"dtype: got torch\.int32"):
        normalise(images, MEAN, STD, torch.int32)
    with pytest.raises(ValueError, match=r"images: got shape \(3, 4, 4\)"):
        normalise(images[0], MEAN, STD)
    with pytest.raises(ValueError, match=r"mean: got 1 values, want one for each of 3 channels"):
        normalise(images, (0.5,), STD)
    with pytest.raises(ValueError, match=r"std: got .*0\.0.*, want positive"):
        normalise(images, MEAN, (0.2, 0.0, 0.2))
    with pytest.raises(ValueError, match=r"memory_format: got torch\.channels_last_3d"):
        normalise(images, MEAN, STD, memory_format=torch.channels_last_3d)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 2**31),
)
def test_moments_of_any_chunks_are_exact(
    counts: list[int], channels: int, height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    chunks = [
        rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8) for count in counts
    ]
    moments = Moments.of(channels, chunks)
    whole = np.concatenate(chunks).astype(object)
    for channel in range(channels):
        pixels = whole[:, channel].ravel().tolist()
        assert moments.pixels == len(pixels)
        assert moments.sums[channel] == sum(pixels)
        assert moments.squares[channel] == sum(pixel * pixel for pixel in pixels)
        mean = Fraction(sum(pixels), 255 * len(pixels))
        variance = Fraction(sum(pixel**2 for pixel in pixels), 255**2 * len(pixels)) - mean**2
        assert moments.mean()[channel] == pytest.approx(float(mean), rel=1e-15)
        expected = float(variance) ** 0.5 or 1.0
        assert moments.std()[channel] == pytest.approx(expected, rel=1e-14)


def test_chunks_that_are_transposed_views_are_added_up_too() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    view = images.transpose(0, 3, 1, 2)
    assert Moments.of(3, [view]) == Moments.of(3, [view.copy()])


def test_constant_channel_has_deviation_one() -> None:
    images = np.full((3, 2, 4, 4), 7, np.uint8)
    images[:, 1] = np.arange(16).reshape(4, 4)
    std = Moments.of(2, [images]).std()
    assert std[0] == 1.0
    assert std[1] == pytest.approx(np.arange(16).std() / 255)
