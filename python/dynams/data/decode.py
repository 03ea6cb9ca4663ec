"""Encoded images to bytes of a fixed shape, with Pillow.

Small images of one known size (`decode_exact`, CIFAR's) go straight to Pillow's JPEG decoder: of the
80 us that opening one the usual way takes, half is spent on reading its headers in Python. Images of any size (`decode_resized`, folders') are turned upright, made RGB,
brought to the wanted size at their shorter side and cut at the centre.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynams.data.errors import DataError, needed

_JPEG_START = b"\xff\xd8"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers with a length after them, up to the first frame header.
_SEGMENTS = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDB))


class Decoder:
    """Decodes with Pillow, which is imported when the first decoder is made.

    One decoder may be used by several threads at once.
    """

    def __init__(self) -> None:
        self._image: Any = needed("PIL.Image", "Pillow")
        self._exif_transpose: Any = needed("PIL.ImageOps", "Pillow").exif_transpose
        # Formats are registered before threads start.
        self._image.init()

    def decode_exact(self, data: bytes, height: int, width: int, where: str) -> NDArray[np.uint8]:
        """Decode a JPEG or PNG of exactly (height, width) to (height, width, 3) RGB bytes.

        Raises:
            DataError: not an image, damaged, or of another size; names ``where``.
        """
        # The bare decoder does not check the width it is told, so the header must say it first.
        if _jpeg_size(data) == (width, height):
            try:
                pixels = self._image.frombytes("RGB", (width, height), data, "jpeg", "RGB", "")
                return self._bytes_of(pixels)
            except ValueError:
                pass  # Of colours it does not know, or damaged: what follows tells which.
        try:
            with self._image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                size = image.size
                pixels = self._rgb(image) if size == (width, height) else None
        except Exception as error:
            raise _undecodable(where, error) from error
        if pixels is None:
            raise DataError(
                f"{where}: got an image of {size[0]} x {size[1]} pixels, want {width} x {height}"
            )
        return self._bytes_of(pixels)

    def decode_resized(self, path: Path, size: int | None, where: str) -> NDArray[np.uint8]:
        """Decode a file to (size, size, 3) RGB bytes; (H, W, 3) as it is where ``size`` is None.

        The EXIF orientation is applied. The largest centred square is resampled (bilinear, with
        anti-aliasing): the shorter side becomes ``size``, what the longer side has more is cut off.
        A JPEG more than twice too large is decoded at a fraction of its size first.

        Raises:
            DataError: not an image or damaged; names ``where``.
        """
        try:
            with self._image.open(path) as image:
                if size is not None:
                    image.draft(None, (2 * size, 2 * size))
                self._exif_transpose(image, in_place=True)
                pixels = self._rgb(image)
                if size is not None and pixels.size != (size, size):
                    pixels = self._square(pixels, size)
        except Exception as error:
            raise _undecodable(where, error) from error
        return self._bytes_of(pixels)

    def _square(self, pixels: Any, size: int) -> Any:
        width, height = pixels.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return pixels.resize(
            (size, size),
            self._image.Resampling.BILINEAR,
            box=(left, top, left + side, top + side),
        )

    def _rgb(self, image: Any) -> Any:
        """Convert to RGB. Sixteen-bit grey is brought to eight bits, which Pillow would clip."""
        image.load()
        mode = image.mode
        if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
            grey = (np.asarray(image).astype(np.int64) * 255 + 32767) // 65535
            image = self._image.fromarray(grey.astype(np.uint8))
        elif mode in ("I", "F"):
            raise ValueError(f"pixels of mode {mode} have no known largest value")
        return image if image.mode == "RGB" else image.convert("RGB")

    @staticmethod
    def _bytes_of(pixels: Any) -> NDArray[np.uint8]:
        width, height = pixels.size
        return np.frombuffer(pixels.tobytes(), np.uint8).reshape(height, width, 3)


def _undecodable(where: str, error: Exception) -> DataError:
    return DataError(f"{where}: cannot be decoded as an image: {error}")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read (width, height) in a JPEG's frame header; None if its segments do not lead to one."""
    if not data.startswith(_JPEG_START):
        return None
    position = len(_JPEG_START)
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAME_HEADERS:
            height = data[position + 5] << 8 | data[position + 6]
            return data[position + 7] << 8 | data[position + 8], height
        if marker not in _SEGMENTS:
            return None
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    return None
