"""What image files consist of, as far as it must be known without Pillow: a JPEG's size, and any file's metadata.

Pillow refuses an image whose pixels are whole where what describes it is damaged (EXIF, text, profiles). Such a
file is read from its other parts alone (`without_metadata`), which are copied as they are: damage in them stays.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_JPEG_START = b"\xff\xd8"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers with a length after them.
_SEGMENTS = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))
_SCAN = 0xDA
_EXIF_OR_XMP = 0xE1
_APPLICATION = frozenset({*range(0xE0, 0xF0), 0xFE})
# What colours mean is in these two, whose marker, name and least length are these.
_COLOURS = ((0xE0, b"JFIF\0", 18), (0xEE, b"Adobe", 16))
_WEBP_METADATA = (b"EXIF", b"XMP ", b"ICCP")
_WEBP_METADATA_FLAGS = 0x2C


class Parts(NamedTuple):
    """An image file without its metadata, and the EXIF block that it had, or nothing."""

    image: bytes
    exif: bytes


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read (width, height) in a JPEG's frame header.

    None: its segments do not lead to one, or it has metadata that may say how it is to be turned.
    """
    if not data.startswith(_JPEG_START):
        return None
    position = len(_JPEG_START)
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAME_HEADERS:
            height = data[position + 5] << 8 | data[position + 6]
            return data[position + 7] << 8 | data[position + 8], height
        if marker not in _SEGMENTS or marker in (_SCAN, _EXIF_OR_XMP):
            return None
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    return None


def without_metadata(data: bytes) -> Parts | None:
    """Take the metadata from a JPEG, PNG or WebP file; None: it is none of these, or has no pixels."""
    if data.startswith(_JPEG_START):
        return _jpeg(data)
    if data.startswith(_PNG_START):
        return _png(data)
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
        return _webp(data)
    return None


def _jpeg(data: bytes) -> Parts | None:
    kept, exif, position = [_JPEG_START], b"", len(_JPEG_START)
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            return None
        marker = data[position + 1]
        if marker == _SCAN:
            return Parts(b"".join([*kept, data[position:]]), exif)
        if marker not in _SEGMENTS:  # Padding, or what a damaged segment left.
            position += 1
            continue
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position:stop]
        if marker == _EXIF_OR_XMP and segment[4:10] == b"Exif\0\0":
            exif = exif or segment[4:]
        if marker not in _APPLICATION or any(
            (marker, segment[4 : 4 + len(name)]) == (number, name) and len(segment) >= least
            for number, name, least in _COLOURS
        ):
            kept.append(segment)
        position = stop


def _png(data: bytes) -> Parts | None:
    kept, exif, position = [_PNG_START], b"", len(_PNG_START)
    while position + 8 <= len(data):
        stop = position + 12 + int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        if not re.fullmatch(rb"[A-Za-z]{4}", name):
            break  # What is no chunk is no pixels either.
        if name == b"eXIf":
            exif = data[position + 8 : stop - 4]
        elif name[:1].isupper() and name != b"IEND":  # The pixels cannot be read without it.
            kept.append(data[position:stop])
        position = stop
    return Parts(b"".join([*kept, _PNG_END]), exif) if len(kept) > 1 else None


def _webp(data: bytes) -> Parts:
    kept, exif, position = [b"WEBP"], b"", 12
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        stop = position + 8 + size + size % 2
        name, chunk = data[position : position + 4], data[position:stop]
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA_FLAGS]) + chunk[9:]
        if name == b"EXIF":
            exif = chunk[8 : 8 + size]
        if name not in _WEBP_METADATA:
            kept.append(chunk)
        position = stop
    body = b"".join(kept)
    return Parts(b"RIFF" + len(body).to_bytes(4, "little") + body, exif)
