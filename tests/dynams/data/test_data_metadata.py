"""Images whose metadata are damaged: their pixels are read, and one warning counts them."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dynams.data import DataError, load_data
from dynams.data.decode import Decoder
from dynams.data.image_parts import without_metadata

UPRIGHT = np.repeat(np.repeat(np.array([[10, 80], [160, 240]], np.uint8), 8, 0), 8, 1)
# As a camera stores it that was held sideways: orientation 6 turns it back.
STORED = np.stack([np.rot90(UPRIGHT, 1)] * 3, -1)
PICTURE = np.stack([UPRIGHT] * 3, -1)


def encoded(form: str, pixels: np.ndarray = STORED) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(form, {})
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def tiff(entries: list[tuple[int, int, int, bytes]], rest: bytes = b"") -> bytes:
    body = b"".join(
        struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + b"\0\0\0\0" + rest


TURNED = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
# A width that is no number and a date that is one: Pillow can read the block but not write it.
ODD = tiff(
    [(0x0100, 12, 1, struct.pack("<I", 50)), TURNED, (0x0132, 3, 2, struct.pack("<HH", 1, 2))],
    struct.pack("<d", float("nan")),
)
CUT = tiff([TURNED, (0x010F, 2, 400, struct.pack("<I", 38))])[:-3]
FOREIGN = b"XX" + tiff([TURNED])[2:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(*segments: bytes, pixels: np.ndarray = STORED) -> bytes:
    whole = encoded("JPEG", pixels)
    return whole[:2] + b"".join(segments) + whole[2:]


def chunk(name: bytes, content: bytes, *, sound: bool = True) -> bytes:
    check = zlib.crc32(name + content) ^ (not sound)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(*chunks: bytes, at_end: bool = False, pixels: np.ndarray = STORED) -> bytes:
    whole = encoded("PNG", pixels)
    place = len(whole) - 12 if at_end else 33
    return whole[:place] + b"".join(chunks) + whole[place:]


def webp(exif: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(STORED).save(buffer, "WEBP", lossless=True, exif=exif)
    return buffer.getvalue()


LONG_TEXT = b"Comment\0\0" + zlib.compress(b"x" * (1 << 21))
DAMAGED: dict[str, tuple[bytes, bool]] = {
    # File, and whether its orientation can be read.
    "jpeg, odd": (jpeg(segment(0xE1, b"Exif\0\0" + ODD)), True),
    "jpeg, cut short": (jpeg(segment(0xE1, b"Exif\0\0" + CUT)), True),
    "jpeg, foreign": (jpeg(segment(0xE1, b"Exif\0\0" + FOREIGN)), False),
    "jpeg, empty resources": (
        jpeg(
            segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04"),
            segment(0xE1, b"Exif\0\0" + tiff([TURNED])),
        ),
        True,
    ),
    "jpeg, short header": (
        jpeg(segment(0xE1, b"Exif\0\0" + tiff([TURNED])), segment(0xE0, b"JFIF\0")),
        True,
    ),
    "png, text too long": (png(chunk(b"eXIf", tiff([TURNED])), chunk(b"zTXt", LONG_TEXT)), True),
    "png, text at the end": (
        png(chunk(b"eXIf", tiff([TURNED])), chunk(b"zTXt", LONG_TEXT), at_end=True),
        True,
    ),
    "png, check sum": (png(chunk(b"tEXt", b"Title\0picture", sound=False)), False),
    "png, profile": (png(chunk(b"iCCP", b"sRGB\0\x07" + zlib.compress(b"x"))), False),
    "png, cut short": (png(chunk(b"tEXt", b"Title\0" + b"x" * 400), at_end=True)[:-80], False),
    "png, odd": (png(chunk(b"eXIf", ODD)), True),
    "webp, odd": (webp(ODD), True),
    "webp, cut short": (webp(tiff([TURNED, TURNED]))[:-8], True),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_metadata_are_no_damaged_image(
    tmp_path: Path, files: Any, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    files.write_folder(tmp_path, size=(16, 16), count=1)
    data, readable = DAMAGED[case]
    (tmp_path / "train/ant/1").write_bytes(data)
    (tmp_path / "val/ant/1").write_bytes(data)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        got = load_data("folder", tmp_path, image_size=16).train.images[1].permute(1, 2, 0)
    wanted = PICTURE if readable else STORED
    assert np.abs(got.numpy().astype(int) - wanted).max() <= 6
    (told,) = caplog.messages
    assert "images with damaged metadata" in told
    assert "read: 2, such as" in told
    assert "train/ant/1" in told


def test_one_warning_counts_all_in_parquet_too(
    tmp_path: Path, cifar: Any, files: Any, caplog: pytest.LogCaptureFixture
) -> None:
    blobs = cifar.write_parquet(tmp_path) and cifar.blobs("train")
    pixels = cifar.images["train"][3].transpose(1, 2, 0)
    for row in (3, 9):
        blobs[row] = png(chunk(b"zTXt", LONG_TEXT), pixels=pixels)
    turned = np.repeat(np.repeat(STORED, 2, 0), 2, 1)
    blobs[12] = jpeg(segment(0xE1, b"Exif\0\0" + ODD), pixels=turned)
    blobs[13] = jpeg(segment(0xE1, b"Exif\0\0" + tiff([TURNED])), pixels=turned)
    table = tmp_path / "train-00000-of-00001.parquet"
    files.write_table(table, blobs, cifar.labels["train"].tolist())
    with caplog.at_level(logging.WARNING):
        images = load_data("cifar10", tmp_path).train.images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images[3], pixels)
    assert np.array_equal(images[9], pixels)
    upright = np.repeat(np.repeat(PICTURE, 2, 0), 2, 1).astype(int)
    for row in (12, 13):
        assert np.abs(images[row] - upright).max() <= 6
    (told,) = caplog.messages
    assert "read: 3, such as" in told
    assert "row " in told


def test_sound_metadata_are_not_told(
    tmp_path: Path, files: Any, caplog: pytest.LogCaptureFixture
) -> None:
    files.write_folder(tmp_path, size=(16, 16), count=1)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    (tmp_path / "train/ant/1").write_bytes(jpeg(segment(0xE1, b"Exif\0\0" + exif.tobytes()[6:])))
    palette = Image.fromarray(PICTURE).quantize(4)
    palette.save(tmp_path / "train/ant/2", "PNG", transparency=b"\0\xff\x80\x40")
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        load_data("folder", tmp_path, image_size=16)
    assert not caplog.messages


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_damaged_pixels_stay_damaged_without_the_metadata(tmp_path: Path, form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    whole = {
        "PNG": png(chunk(b"zTXt", LONG_TEXT), pixels=noise),
        "JPEG": jpeg(segment(0xE1, b"Exif\0\0" + ODD), pixels=noise),
        "WEBP": webp(ODD),
    }[form]
    for keep in (len(whole) // 3, len(whole) * 2 // 3):
        file = tmp_path / f"{keep}"
        file.write_bytes(whole[:keep])
        decoder = Decoder([])
        if form == "WEBP" and keep > len(encoded("WEBP")):
            continue  # Only the block of metadata is cut.
        with pytest.raises(DataError, match=f"{keep}: cannot be decoded as an image"):
            decoder.decode_resized(file, None, str(file))


def test_what_is_no_image_has_no_parts() -> None:
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"GIF89a", b"\x89PNG\r\n\x1a\n"):
        assert without_metadata(data) is None
