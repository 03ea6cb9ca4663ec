"""Random variations of a whole uint8 batch at once, where the batch lies.

Small images are shifted: an image is surrounded by a few pixels, and a window of its own size is cut at a random place
(`windows`). Of large ones a box of random size is cut and resized instead (`resized_crop`). Both are mirrored, and may
have a square of one colour laid over them (T. DeVries and G. W. Taylor, Improved regularization of convolutional neural
networks with cutout, 2017, but for squares that reach over the edge).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynams.checks import one_of, whole
from dynams.data.resized_crop import centre_crop, draw_boxes, resample
from dynams.data.windows import Pad, fill_squares, shift_and_mirror


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied, and how much of an image is seen.

    Attributes:
        crop_padding: largest shift in pixels, up, down, left and right; 0: none.
        flip: mirror half the images left to right.
        random_resized: cut a box of random size and shape from every image instead, brought to ``size``.
        size: side in pixels of what is seen: of the random box once it is resized, else, and wherever
            images are not varied, of the image's centre; None: the whole image, boxes keeping its height.
        pad: what a shift shows beyond the edge: zeros (black pixels), or the image's own pixels, reflected
            (the outermost ones not repeated).
        alternating: which half is mirrored is not drawn, but told to `augment`: the one half in even epochs, the other
            in odd ones.
        cutout: side in pixels of a square, at a random place inside what is seen, that one colour is laid over; 0: none.
        colour: of the squares, a value for each channel, in the images' own units, 0 to 255 of bytes; None:
            zeros.

    Raises:
        TypeError, ValueError: a value is none of these, or two of them contradict each other.
    """

    crop_padding: int = 0
    flip: bool = False
    random_resized: bool = False
    size: int | None = None
    pad: Pad = "zeros"
    alternating: bool = False
    cutout: int = 0
    colour: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 0))
        for name in ("flip", "random_resized", "alternating"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: got {getattr(self, name)!r}, want True or False")
        one_of("pad", self.pad, ("zeros", "reflect"))
        if self.random_resized and self.crop_padding:
            raise ValueError(f"crop_padding: got {self.crop_padding} with random_resized, want 0")
        if self.alternating and not self.flip:
            raise ValueError("alternating: got True with flip=False, want flip=True with it")
        if self.size is not None:
            object.__setattr__(self, "size", whole("size", self.size, 1))

    def check(self, height: int, width: int) -> None:
        """Refuse images that are too small for it.

        Args:
            height: of the images in pixels.
            width: of the images in pixels.

        Raises:
            ValueError: names what is too large.
        """
        told = f"for images of {height} x {width}"
        if self.size is not None:
            if not self.random_resized and self.size > min(height, width):
                raise ValueError(f"size: got {self.size} {told}, want at most those")
            height = width = self.size
        elif self.random_resized:
            width = height
        shortest = min(height, width)
        if self.pad == "reflect" and self.crop_padding >= shortest > 0:
            raise ValueError(
                f"crop_padding: got {self.crop_padding} with pad=reflect {told}, want at most {shortest - 1}"
            )
        if self.cutout > shortest:
            raise ValueError(f"cutout: got {self.cutout} {told}, want at most {shortest}")


def augment(
    images: Tensor,
    augmentation: Augmentation,
    generator: torch.Generator,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Shift, or cut a box from, each image of a batch at random, mirror it, and lay a square over it.

    Everything random comes from ``generator``, in this order: with ``crop_padding`` p > 0,
    ``torch.randint(0, 2 p + 1, (2, B))``, the rows and columns at which the windows start in the
    padded images, or of boxes what `draw_boxes` draws; with ``flip`` that is not ``alternating``,
    ``torch.randint(0, 2, (B,))``, 1 to mirror; with ``cutout`` n > 0, ``torch.randint(0, H - n + 1, (B,))``,
    the squares' tops, and ``torch.randint(0, W - n + 1, (B,))``, their left sides, in what is seen, H x W.
    The same state of the generator gives the same batch. Nothing waits for the device.

    With ``alternating``, the ``mirrored`` of a batch are ``sides[indices] ^ (epoch % 2 == 1)``, where
    ``sides = torch.rand(N) < 0.5`` was drawn once for all samples.

    Args:
        images: (B, C, H, W), uint8; other dtypes pass too. Not changed.
        augmentation: what to vary.
        generator: on the device of ``images``.
        mirrored: (B,) bool, on the device of ``images``, which to mirror; wanted with ``alternating``, and only then.

    Returns:
        (B, C, H, W), or (B, C, size, size), of the same dtype, device and memory format; ``images``
        itself when ``augmentation`` asks for nothing, a view where only for the centre.

    Raises:
        ValueError: ``images`` has not four dimensions, or is too small, ``generator`` is on another device,
            ``mirrored`` does not fit, or ``colour`` has not one value for each channel, or of bytes others than they have.
    """
    _check(images, augmentation, generator, mirrored)
    batch, device, padding = images.shape[0], images.device, augmentation.crop_padding

    def drawn(below: int, *shape: int) -> Tensor:
        return torch.randint(0, below, (*shape, batch), generator=generator, device=device)

    boxes = starts = flips = None
    if augmentation.random_resized:
        boxes = draw_boxes(batch, images.shape[2], images.shape[3], generator)
    elif padding:
        starts = drawn(2 * padding + 1, 2)
    if augmentation.flip:
        flips = drawn(2).bool() if mirrored is None else mirrored
    if boxes is None:
        varied = seen(images, augmentation)
    else:
        size = images.shape[2] if augmentation.size is None else augmentation.size
        varied = resample(images, boxes, size, flips)
        flips = None
    squares = None
    if augmentation.cutout:
        squares = torch.stack([drawn(side - augmentation.cutout + 1) for side in varied.shape[2:]])
    if varied.numel() == 0 or (starts is None and flips is None and squares is None):
        return varied
    channels_last = not varied.is_contiguous() and varied.is_contiguous(
        memory_format=torch.channels_last
    )
    pixels = varied.permute(0, 2, 3, 1) if channels_last else varied.contiguous()
    if starts is not None or flips is not None:
        pixels = shift_and_mirror(
            pixels, padding, augmentation.pad, starts, flips, channels_last=channels_last
        )
    elif boxes is None:
        pixels = pixels.clone()  # the squares are not to be seen in the images
    if squares is not None:
        colour = augmentation.colour or (0,) * images.shape[1]
        fill_squares(pixels, augmentation.cutout, squares, colour, channels_last=channels_last)
    return pixels.permute(0, 3, 1, 2) if channels_last else pixels


def seen(images: Tensor, augmentation: Augmentation) -> Tensor:
    """View what is seen of images (B, C, H, W) that are not varied: all, or the centre."""
    return images if augmentation.size is None else centre_crop(images, augmentation.size)


def _check(
    images: Tensor,
    augmentation: Augmentation,
    generator: torch.Generator,
    mirrored: Tensor | None,
) -> None:
    if images.dim() != 4:
        raise ValueError(f"images: got shape {tuple(images.shape)}, want (B, C, H, W)")
    batch, channels, height, width = images.shape
    device = images.device
    if generator.device.type != device.type:
        raise ValueError(
            f"generator: got one on {generator.device}, want the device of images, {device}"
        )
    augmentation.check(height, width)
    if augmentation.colour is not None and len(augmentation.colour) != channels:
        raise ValueError(
            f"colour: got {len(augmentation.colour)} values, want one for each of {channels} channels"
        )
    if augmentation.colour is not None and images.dtype == torch.uint8:
        for value in augmentation.colour:
            if not 0 <= value <= 255 or 0 < value < 1:  # A mean in [0, 1] would be black.
                raise ValueError(f"colour: got {value} for images of bytes, want 0, or 1 to 255")
    if mirrored is None and augmentation.alternating:
        raise ValueError("mirrored: got None with alternating, want which images to mirror")
    if mirrored is None:
        return
    if not augmentation.alternating:
        raise ValueError("mirrored: got a tensor without alternating, want None")
    if (mirrored.shape, mirrored.dtype) != ((batch,), torch.bool):
        raise ValueError(
            f"mirrored: got {mirrored.dtype} of shape {tuple(mirrored.shape)}, want torch.bool of ({batch},)"
        )
    if mirrored.device != device:
        raise ValueError(
            f"mirrored: got one on {mirrored.device}, want the device of images, {device}"
        )
