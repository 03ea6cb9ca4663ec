"""Encoded images of an index to RGB bytes: JPEGs by simplejpeg where it is there, the rest by Pillow.

Both are libjpeg-turbo; simplejpeg spends less around it, which is most of a small JPEG's time. It is used only if it
decodes made-up pictures to the very bits that Pillow does, so that pixels do not depend on which is there.
"""

from __future__ import annotations

import functools
import io
import logging
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynams.data.decode import Decoder
from dynams.data.image_parts import jpeg_size
from dynams.packages import needed

_LOG = logging.getLogger(__name__)
_COLOURS = frozenset({"YCbCr", "Gray"})
# What a JPEG may be decoded at a fraction of.
_FRACTIONS = (8, 4, 2, 1)


class EncodedDecoder:
    """Decodes images that are in memory still encoded. For one process.

    Args:
        damaged: gets the place of every image whose metadata are damaged.

    Raises:
        ImportError: Pillow is not installed.
    """

    def __init__(self, damaged: list[str]) -> None:
        self._pillow = Decoder(damaged)
        self._jpeg = fast_jpeg()

    def decode(self, encoded: bytes, size: int | None, where: str) -> NDArray[np.uint8]:
        """Decode to (size, size, 3) RGB bytes, or (H, W, 3), upright, as `Decoder.decode_resized` does a file.

        Raises:
            DataError: it is no image, or damaged; names ``where``.
        """
        shape = jpeg_size(encoded)
        if shape is not None and self._jpeg is not None:
            pixels = decode_jpeg(self._jpeg, encoded, shape, size)
            if pixels is not None:
                if size is not None and pixels.shape[:2] != (size, size):
                    pixels = self._pillow.squared(pixels, size)
                return pixels
        if shape is not None and (size is None or shape == (size, size)):
            return self._pillow.decode_exact(encoded, shape[1], shape[0], where)
        with self._pillow.quiet():
            return self._pillow.decode_encoded(encoded, size, where)


def decode_jpeg(
    module: ModuleType, encoded: bytes, shape: tuple[int, int], size: int | None
) -> NDArray[np.uint8] | None:
    """Decode by simplejpeg, at the fraction of its size at which Pillow would for ``size``.

    Args:
        module: simplejpeg.
        encoded: a JPEG that nothing says is to be turned.
        shape: its (width, height).
        size: side in pixels that it is going to be brought to; None: its own size.

    Returns:
        (H, W, 3) RGB; None: damaged, or of other colours than usual.
    """
    least = min(shape) if size is None else 2 * size
    scale = min(side // least for side in shape)
    fraction = next((each for each in _FRACTIONS if each <= scale), 1)
    try:
        height, width, colours, _ = module.decode_jpeg_header(encoded)
        if (width, height) != shape or colours not in _COLOURS:
            return None
        pixels: NDArray[np.uint8] = module.decode_jpeg(
            encoded, "RGB", min_height=-(-height // fraction), min_width=-(-width // fraction)
        )
    except ValueError:
        return None
    return pixels


@functools.cache
def fast_jpeg() -> ModuleType | None:
    """Return simplejpeg if it decodes as Pillow does; None, told once: it is not there, or it does not."""
    try:
        module: ModuleType = needed("simplejpeg")
    except ImportError:
        _LOG.info("JPEGs are decoded by Pillow; simplejpeg is faster: pip install simplejpeg")
        return None
    for encoded, shape, size in _made_up():
        ours = decode_jpeg(module, encoded, shape, size)
        if ours is None or not np.array_equal(ours, _by_pillow(encoded, size)):
            _LOG.warning(
                "JPEGs are decoded by Pillow: simplejpeg %s decodes them otherwise here",
                getattr(module, "__version__", ""),
            )
            return None
    return module


def _made_up() -> list[tuple[bytes, tuple[int, int], int | None]]:
    """JPEGs of all kinds of colours, whole and at a fraction."""
    image = needed("PIL.Image", "Pillow")
    rows, columns = np.mgrid[0:75, 0:101]
    waves = [np.sin(rows / a) * np.cos(columns / b) for a, b in ((5, 9), (17, 3), (8, 7))]
    noise = np.random.default_rng(0).normal(0, 12, (75, 101, 3))
    pixels = (127 + 90 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)
    made = []
    for mode, options in (
        ("RGB", {"subsampling": "4:2:0"}),
        ("RGB", {"subsampling": "4:2:2"}),
        ("RGB", {"subsampling": "4:4:4", "progressive": True}),
        ("L", {}),
    ):
        buffer = io.BytesIO()
        image.fromarray(pixels).convert(mode).save(buffer, "JPEG", quality=85, **options)
        made += [(buffer.getvalue(), (101, 75), size) for size in (None, 18, 9, 4)]
    return made


def _by_pillow(encoded: bytes, size: int | None) -> NDArray[np.uint8]:
    opened: Any = needed("PIL.Image", "Pillow").open(io.BytesIO(encoded))
    with opened:
        if size is not None:
            opened.draft(None, (2 * size, 2 * size))
        return np.asarray(opened.convert("RGB"))
