"""Random crops and mirror images against a NumPy reference, one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.data import Augmentation, augment

FORMATS = [torch.contiguous_format, torch.channels_last]


def reference(
    images: np.ndarray, augmentation: Augmentation, generator: torch.Generator
) -> np.ndarray:
    """Pads, cuts and mirrors one image after the other, with the draws that `augment` promises."""
    batch, _, height, width = images.shape
    padding = augmentation.crop_padding
    tops = lefts = np.zeros(batch, int)
    flips = np.zeros(batch, bool)
    device = generator.device
    if padding:
        drawn = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator, device=device)
        tops, lefts = drawn.cpu().numpy()
    if augmentation.flip:
        drawn = torch.randint(0, 2, (batch,), generator=generator, device=device)
        flips = drawn.cpu().numpy().astype(bool)
    result = np.empty_like(images)
    for sample in range(batch):
        padded = np.pad(images[sample], ((0, 0), (padding, padding), (padding, padding)))
        top, left = tops[sample], lefts[sample]
        window = padded[:, top : top + height, left : left + width]
        result[sample] = window[:, :, ::-1] if flips[sample] else window
    return result


def seeded(seed: int, device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def random_images(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int16])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("shape", [(17, 3, 32, 32), (5, 1, 8, 8), (3, 2, 7, 11), (1, 3, 5, 1)])
def test_batch_equals_the_reference_and_keeps_dtype_and_memory_format(
    shape: tuple[int, ...],
    padding: int,
    flip: bool,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    device: str,
) -> None:
    images = random_images(shape)
    augmentation = Augmentation(padding, flip)
    given_images = images.to(device, dtype).contiguous(memory_format=memory_format)
    before = given_images.clone()
    result = augment(given_images, augmentation, seeded(5, device))
    expected = torch.from_numpy(reference(images.numpy(), augmentation, seeded(5, device)))
    assert result.dtype == dtype
    assert result.device.type == device
    assert result.is_contiguous(memory_format=memory_format)
    assert torch.equal(result.cpu(), expected.to(dtype))
    assert torch.equal(given_images, before)


@given(
    st.integers(0, 6),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 12),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape_padding_and_seed_equals_the_reference(
    batch: int, channels: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    images = random_images((batch, channels, height, width), seed)
    augmentation = Augmentation(padding, flip)
    result = augment(images, augmentation, seeded(seed, "cpu"))
    expected = reference(images.numpy(), augmentation, seeded(seed, "cpu"))
    assert np.array_equal(result.numpy(), expected)


def test_strided_images_equal_their_contiguous_copy(device: str) -> None:
    images = random_images((6, 3, 20, 20)).to(device)[::2, :, 2:18, 1::2]
    augmentation = Augmentation(2, True)
    result = augment(images, augmentation, seeded(1, device))
    assert torch.equal(result, augment(images.contiguous(), augmentation, seeded(1, device)))


def test_same_generator_state_replays_the_batch_and_another_does_not(device: str) -> None:
    images = random_images((64, 3, 32, 32)).to(device)
    augmentation = Augmentation(4, True)
    first = augment(images, augmentation, seeded(1, device))
    assert torch.equal(first, augment(images, augmentation, seeded(1, device)))
    assert not torch.equal(first, augment(images, augmentation, seeded(2, device)))


def test_every_shift_and_both_orientations_occur_about_equally_often(device: str) -> None:
    count, padding = 20_000, 1
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(count, 1, 3, 3)
    result = augment(image.to(device), Augmentation(padding, True), seeded(0, device))
    _, counts = torch.unique(result.view(count, 9), dim=0, return_counts=True)
    assert len(counts) == 18
    expected = count / 18
    # Eight standard deviations of a binomial count.
    assert (counts - expected).abs().max() < 8 * expected**0.5


def test_nothing_asked_for_draws_nothing_and_gives_the_images_themselves(device: str) -> None:
    images = random_images((4, 3, 8, 8)).to(device)
    generator = seeded(3, device)
    before = generator.get_state()
    assert augment(images, Augmentation(), generator) is images
    assert torch.equal(generator.get_state(), before)


def test_result_never_shares_memory_with_the_images(device: str) -> None:
    images = random_images((4, 3, 8, 8)).to(device)
    for augmentation in (Augmentation(0, True), Augmentation(1, False), Augmentation(1, True)):
        result = augment(images, augmentation, seeded(0, device))
        result.zero_()
    assert torch.equal(images.cpu(), random_images((4, 3, 8, 8)))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"crop_padding: got -1"):
        Augmentation(-1)
    with pytest.raises(TypeError, match=r"crop_padding: got 1\.5"):
        Augmentation(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"flip: got 1"):
        Augmentation(0, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"images: got shape \(3, 8, 8\)"):
        augment(torch.zeros(3, 8, 8, dtype=torch.uint8), Augmentation(1), torch.Generator())
    with pytest.raises(ValueError, match=r"generator: got one on cpu"):
        augment(
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8, device="meta"),
            Augmentation(1),
            torch.Generator(),
        )
