"""Random crops and mirror images against a NumPy reference, one sample at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynams.data import Augmentation, augment
from pages import python_blocks

FORMATS = [torch.contiguous_format, torch.channels_last]


def reference(
    images: np.ndarray,
    augmentation: Augmentation,
    generator: torch.Generator,
    mirrored: np.ndarray | None = None,
) -> np.ndarray:
    """Pads, cuts, mirrors and covers one image after the other, with the draws that `augment` promises."""
    batch, channels, height, width = images.shape
    padding, side = augmentation.crop_padding, augmentation.cutout

    def drawn(below: int, *shape: int) -> np.ndarray:
        shape = (*shape, batch)
        device = generator.device
        return torch.randint(0, below, shape, generator=generator, device=device).cpu().numpy()

    tops = lefts = np.zeros(batch, int)
    flips = np.zeros(batch, bool) if mirrored is None else mirrored
    if padding:
        tops, lefts = drawn(2 * padding + 1, 2)
    if augmentation.flip and not augmentation.alternating:
        flips = drawn(2).astype(bool)
    rows = drawn(height - side + 1) if side else None
    columns = drawn(width - side + 1) if side else None
    mode = {"zeros": "constant", "reflect": "reflect"}[augmentation.pad]
    result = np.empty_like(images)
    for sample in range(batch):
        around = ((0, 0), (padding, padding), (padding, padding))
        padded = np.pad(images[sample], around, mode=mode)
        top, left = tops[sample], lefts[sample]
        window = padded[:, top : top + height, left : left + width]
        result[sample] = window[:, :, ::-1] if flips[sample] else window
        for channel in range(channels if side else 0):
            colour = 0 if augmentation.colour is None else augmentation.colour[channel]
            row, column = rows[sample], columns[sample]
            result[sample, channel, row : row + side, column : column + side] = colour
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


@st.composite
def variations(draw: st.DrawFn) -> tuple[tuple[int, ...], Augmentation]:
    """A shape (B, C, H, W), and what can be done to such images."""
    shape = tuple(draw(st.integers(*bounds)) for bounds in ((0, 6), (1, 4), (1, 9), (1, 9)))
    shortest, flip = min(shape[2:]), draw(st.booleans())
    pad = draw(st.sampled_from(["zeros", "reflect"]))
    colours = st.tuples(*[st.integers(0, 255)] * shape[1])
    return shape, Augmentation(
        crop_padding=draw(st.integers(0, shortest - 1 if pad == "reflect" else 12)),
        flip=flip,
        pad=pad,
        alternating=flip and draw(st.booleans()),
        cutout=draw(st.integers(0, shortest)),
        colour=draw(st.none() | colours),
    )


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@given(what=variations(), seed=st.integers(0, 2**31))
def test_any_shape_variation_and_seed_equals_the_reference(
    what: tuple[tuple[int, ...], Augmentation],
    seed: int,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> None:
    shape, how = what
    images = random_images(shape, seed).to(dtype)
    images = images.contiguous(memory_format=memory_format)
    before = images.clone()
    mirrored = (
        torch.rand(shape[0], generator=seeded(seed, "cpu")) < 0.5 if how.alternating else None
    )
    result = augment(images, how, seeded(seed, "cpu"), mirrored)
    told = None if mirrored is None else mirrored.numpy()
    expected = reference(images.numpy(), how, seeded(seed, "cpu"), told)
    assert np.array_equal(result.numpy(), expected)
    assert torch.equal(images, before)


VARIED = Augmentation(2, True, pad="reflect", cutout=5, colour=(9, 99, 199))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_reflections_and_squares_are_the_same_on_every_device(
    dtype: torch.dtype, memory_format: torch.memory_format, device: str
) -> None:
    images = random_images((9, 3, 11, 8)).to(device, dtype)
    images = images.contiguous(memory_format=memory_format)
    result = augment(images, VARIED, seeded(2, device))
    expected = reference(images.cpu().numpy(), VARIED, seeded(2, device))
    assert np.array_equal(result.cpu().numpy(), expected)
    assert (result.dtype, result.device.type) == (dtype, device)
    assert result.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("size", [6, 96])
def test_boxes_are_mirrored_as_told_and_covered_last(size: int, device: str) -> None:
    images = random_images((7, 3, 20, 24)).to(device)
    mirrored = torch.tensor([1, 0, 0, 1, 1, 0, 1], device=device).bool()
    options = {"flip": True, "random_resized": True, "size": size, "alternating": True}
    draws = seeded(4, device)
    boxes = augment(images, Augmentation(**options), draws, mirrored)
    squares = Augmentation(cutout=3, colour=(1, 2, 3))
    covered = augment(
        images, Augmentation(**options, cutout=3, colour=(1, 2, 3)), seeded(4, device), mirrored
    )
    assert torch.equal(covered, augment(boxes, squares, draws))
    other = augment(images, Augmentation(**options), seeded(4, device), ~mirrored)
    # A mirrored triangle's weights are summed in another order.
    assert (other.int() - boxes.flip(3).int()).abs().max() <= 1


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
    centre = augment(images, Augmentation(size=4), generator)
    assert centre.data_ptr() == images[:, :, 2:, 2:].data_ptr()
    assert torch.equal(generator.get_state(), before)


def test_result_never_shares_memory_with_the_images(device: str) -> None:
    images = random_images((4, 3, 8, 8)).to(device)
    for augmentation in (
        Augmentation(0, True),
        Augmentation(1, False),
        Augmentation(1, True),
        Augmentation(cutout=2),
        Augmentation(size=8, cutout=2),
        Augmentation(size=4, cutout=2),
    ):
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
    with pytest.raises(ValueError, match=r"cutout: got -1"):
        Augmentation(cutout=-1)
    with pytest.raises(ValueError, match=r"pad: got 'mirror', want one of zeros, reflect"):
        Augmentation(pad="mirror")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"alternating: got True with flip=False"):
        Augmentation(alternating=True)
    with pytest.raises(ValueError, match=r"images: got shape \(3, 8, 8\)"):
        augment(torch.zeros(3, 8, 8, dtype=torch.uint8), Augmentation(1), torch.Generator())
    with pytest.raises(ValueError, match=r"generator: got one on cpu"):
        augment(
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8, device="meta"),
            Augmentation(1),
            torch.Generator(),
        )


@pytest.mark.parametrize(
    ("how", "mirrored", "said"),
    [
        (
            Augmentation(8, pad="reflect"),
            None,
            "crop_padding: got 8 with pad=reflect for images of 8",
        ),
        (Augmentation(cutout=9), None, "cutout: got 9 for images of 8 x 8, want at most 8"),
        (Augmentation(size=4, cutout=5), None, "cutout: got 5 for images of 8 x 8, want at most 4"),
        (
            Augmentation(cutout=2, colour=(1, 2)),
            None,
            "colour: got 2 values, want one for each of 3",
        ),
        *(
            (Augmentation(cutout=2, colour=(0, 1, value)), None, f"colour: got {value} for images")
            for value in (0.49, -1, 256, float("nan"))
        ),
        (Augmentation(flip=True, alternating=True), None, "mirrored: got None with alternating"),
        (
            Augmentation(flip=True),
            torch.ones(2).bool(),
            "mirrored: got a tensor without alternating",
        ),
        (
            Augmentation(flip=True, alternating=True),
            torch.ones(3).bool(),
            r"mirrored: got torch.bool of shape \(3,\), want torch.bool of \(2,\)",
        ),
        (Augmentation(flip=True, alternating=True), torch.ones(2), "mirrored: got torch.float32"),
    ],
)
def test_what_does_not_fit_the_images_is_named(
    how: Augmentation, mirrored: torch.Tensor | None, said: str
) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        augment(random_images((2, 3, 8, 8)), how, seeded(0, "cpu"), mirrored)


def test_the_pages_loop_runs() -> None:
    names: dict[str, Any] = {}
    for block in python_blocks("docs/training.md", "Data"):
        exec(compile(block, "docs/training.md", "exec"), names)
    assert names["inputs"].shape == (128, 3, 32, 32)
    assert (names["inputs"].abs().amax((2, 3)) > 1).all()
    squares = (names["inputs"].abs() < 0.01).all(1).sum((1, 2))
    assert (squares >= 144).all()
