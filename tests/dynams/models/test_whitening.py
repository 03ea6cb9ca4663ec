"""Whitening filters against NumPy's eigenvectors of the patches' covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynams.models import whitening_filters


def made_up_images(count: int, channels: int, side: int, seed: int) -> torch.Tensor:
    """Images whose pixels depend on their neighbours, as those of pictures do."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64)
    return noise + 2 * noise.cumsum(3) / side + noise.mean(1, keepdim=True)


def patches_of(images: torch.Tensor, kernel: int) -> np.ndarray:
    """(number, C k k) of all patches."""
    pixels = images.numpy()
    _, _, height, width = pixels.shape
    return np.concatenate(
        [
            pixels[:, :, top : top + kernel, left : left + kernel].reshape(len(pixels), -1)
            for top in range(height - kernel + 1)
            for left in range(width - kernel + 1)
        ]
    )


@settings(derandomize=True, deadline=None, max_examples=25, database=None)
@given(
    count=st.integers(1, 40),
    channels=st.integers(1, 4),
    kernel=st.integers(1, 3),
    side=st.integers(4, 7),
    seed=st.integers(0, 2**31),
)
def test_filters_equal_numpys(count: int, channels: int, kernel: int, side: int, seed: int) -> None:
    images = made_up_images(count, channels, side, seed)
    filters = whitening_filters(images, kernel).numpy()
    patches = patches_of(images, kernel)
    size = channels * kernel**2
    assert filters.shape == (2 * size, channels, kernel, kernel)
    values, vectors = np.linalg.eigh(np.cov(patches.T).reshape(size, size))
    expected = (vectors / np.sqrt(np.maximum(values, 0) + 5e-4)).T[::-1]
    flat = filters.reshape(2 * size, size)
    np.testing.assert_array_equal(flat[1::2], -flat[::2])
    largest = np.take_along_axis(flat[::2], np.abs(flat[::2]).argmax(1)[:, None], 1)
    assert (largest > 0).all()
    # Directions of like strength are not told apart alike: compare what no choice of axes changes.
    np.testing.assert_allclose(flat[::2].T @ flat[::2], expected.T @ expected, rtol=1e-6, atol=1e-6)
    spread = np.cov((patches @ flat[::2].T).T).reshape(size, size)
    wanted = np.diag((values / (values + 5e-4))[::-1])
    np.testing.assert_allclose(spread, wanted, atol=1e-8)


def test_of_distinct_eigenvalues_each_filter_is_numpys_but_for_its_sign() -> None:
    # So many pixels that they are taken in two parts.
    images = made_up_images(30, 3, 100, 0)
    values, vectors = np.linalg.eigh(np.cov(patches_of(images, 2).T))
    expected = (vectors / np.sqrt(values + 0.1)).T[::-1]
    filters = whitening_filters(images, 2, damping=0.1).reshape(24, 12).numpy()[::2]
    signs = np.sign((filters * expected).sum(1, keepdims=True))
    np.testing.assert_allclose(filters, signs * expected, rtol=1e-9, atol=1e-9)


def test_single_precision_in_and_out_computes_in_double() -> None:
    # Far from zero, where sums of squares in single precision would lose the variance.
    images = made_up_images(100, 3, 8, 1) + 500.0
    exact = whitening_filters(images)
    single = whitening_filters(images.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "images: got torch.uint8, want"),
        (torch.zeros(3, 8, 8), ValueError, r"images: got shape \(3, 8, 8\), want"),
        (
            torch.zeros(1, 3, 2, 2),
            ValueError,
            r"images: got shape \(1, 3, 2, 2\), want at least two",
        ),
    ],
)
def test_what_is_no_images_is_refused(
    images: torch.Tensor, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        whitening_filters(images)
