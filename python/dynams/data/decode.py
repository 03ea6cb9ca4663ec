"""Encoded images to bytes of a fixed shape, with Pillow.

Small images of one known size (`decode_exact`, CIFAR's) go straight to Pillow's JPEG decoder: of the
80 us that opening one the usual way takes, half is spent on reading its headers in Python. Images of any size
(`decode_resized`, folders') are brought to the wanted size at their shorter side and cut at the centre. All
are turned upright and made RGB. Damaged metadata do not matter, but are noted.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynams.data.errors import DataError
from dynams.data.image_parts import jpeg_size, without_metadata
from dynams.data.places import cannot_be_read, want_file
from dynams.packages import needed

_ORIENTATION = 0x0112
# How to turn a picture upright: the names of Pillow's transpositions, by orientation.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

# Where Pillow looks for it besides, and in the tags of TIFF files.
_OTHERS = frozenset({"Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
# What is done with warnings is one setting for the whole process.
_WARNINGS = threading.Lock()


class Decoder:
    """Decodes with Pillow, which is imported when the first decoder is made.

    One decoder may be used by several threads at once.

    Args:
        damaged: gets the place of every image whose metadata are damaged, as the caller calls it.
    """

    def __init__(self, damaged: list[str]) -> None:
        self._image: Any = needed("PIL.Image", "Pillow")
        # Formats are registered before threads start.
        self._image.init()
        self._here = threading.local()
        self._damaged = damaged

    def decode_exact(self, data: bytes, height: int, width: int, where: str) -> NDArray[np.uint8]:
        """Decode a JPEG or PNG of exactly (height, width) to (height, width, 3) RGB bytes.

        Raises:
            DataError: not an image, damaged, or of another size; names ``where``.
        """
        # The bare decoder does not check the width it is told, so the header must say it first.
        if jpeg_size(data) == (width, height):
            try:
                pixels = self._image.frombytes("RGB", (width, height), data, "jpeg", "RGB", "")
                return self._bytes_of(pixels)
            except ValueError:
                pass  # Of colours it does not know, or damaged: what follows tells which.
        pixels = self._pixels(data, where, formats=("JPEG", "PNG"))
        if pixels.size != (width, height):
            came = f"{pixels.size[0]} x {pixels.size[1]}"
            raise DataError(f"{where}: got an image of {came} pixels, want {width} x {height}")
        return self._bytes_of(pixels)

    def decode_resized(self, path: Path, size: int | None, where: str) -> NDArray[np.uint8]:
        """Decode a file to (size, size, 3) RGB bytes; (H, W, 3) as it is where ``size`` is None.

        The EXIF orientation is applied. The largest centred square is resampled (bilinear, with
        anti-aliasing): the shorter side becomes ``size``, what the longer side has more is cut off.
        A JPEG more than twice too large is decoded at a fraction of its size first.

        Raises:
            DataError: no file, not an image or damaged; names ``where``.
        """
        want_file(path, "an image")
        pixels = self._pixels(path, where, size)
        if size is not None and pixels.size != (size, size):
            pixels = self._square(pixels, size)
        return self._bytes_of(pixels)

    def decode_encoded(self, data: bytes, size: int | None, where: str) -> NDArray[np.uint8]:
        """Do what `decode_resized` does to a file to the bytes of one.

        Raises:
            DataError: not an image or damaged; names ``where``.
        """
        pixels = self._pixels(data, where, size)
        if size is not None and pixels.size != (size, size):
            pixels = self._square(pixels, size)
        return self._bytes_of(pixels)

    def squared(self, pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """Bring RGB pixels (H, W, 3) to (size, size, 3) as `decode_resized` does."""
        return self._bytes_of(self._square(self._image.fromarray(pixels), size))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Note Pillow's complaints about metadata, in every thread, where it would print each."""
        with _WARNINGS, warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning, module=r"PIL\.")
            show = warnings.showwarning

            def note(message: Any, category: Any, filename: str, *rest: Any, **named: Any) -> None:
                if issubclass(category, UserWarning) and Path(filename).parent.name == "PIL":
                    self._here.complaints = self._complaints() + 1
                else:
                    show(message, category, filename, *rest, **named)

            warnings.showwarning = note
            yield

    def _complaints(self) -> int:
        return getattr(self._here, "complaints", 0)

    def _pixels(
        self,
        encoded: bytes | Path,
        where: str,
        size: int | None = None,
        formats: tuple[str, ...] | None = None,
    ) -> Any:
        """Decode to an upright RGB image, from the parts without metadata if need be."""
        before = self._complaints()
        try:
            source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
            pixels, sound = self._upright(source, size, formats)
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise cannot_be_read(where, error) from error
            pixels, sound = self._from_parts(encoded, size, formats), False
            if pixels is None:
                raise DataError(f"{where}: cannot be decoded as an image: {error}") from error
        if not sound or self._complaints() > before:
            self._damaged.append(where)
        return pixels

    def _from_parts(
        self, encoded: bytes | Path, size: int | None, formats: tuple[str, ...] | None
    ) -> Any:
        try:
            parts = without_metadata(
                encoded if isinstance(encoded, bytes) else encoded.read_bytes()
            )
            if parts is None:
                return None
            return self._upright(io.BytesIO(parts.image), size, formats, parts.exif)[0]
        except Exception:
            return None  # The pixels are damaged: what was wrong with the whole file is told.

    def _upright(
        self, source: Any, size: int | None, formats: tuple[str, ...] | None, exif: bytes = b""
    ) -> tuple[Any, bool]:
        """Decode, and tell whether the metadata are sound; ``exif`` is what the file has lost."""
        with self._image.open(source, formats=formats) as image:
            if size is not None:
                image.draft(None, (2 * size, 2 * size))
            image.load()
            orientation, sound = self._orientation(image, exif)
            before = self._complaints()
            pixels = self._rgb(image)
            self._here.complaints = before  # That of colours is no complaint about metadata.
        turn = _TURNS.get(orientation)
        if turn is not None:
            pixels = pixels.transpose(self._image.Transpose[turn])
        return pixels, sound

    def _orientation(self, image: Any, exif: bytes) -> tuple[Any, bool]:
        """Read the orientation, as far as it can be read, and tell whether all that is beside it can be."""
        exif = exif or image.info.get("exif", b"")
        orientation, sound = None, True
        try:
            if exif:
                block = self._image.Exif()
                block.load(exif)
                orientation = block.get(_ORIENTATION)
                block.tobytes()  # Reads every entry.
        except Exception:
            sound = False
        try:
            if orientation is None and (image.format == "TIFF" or _OTHERS & image.info.keys()):
                orientation = image.getexif().get(_ORIENTATION)
        except Exception:
            sound = False
        return orientation, sound

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
