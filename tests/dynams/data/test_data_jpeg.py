"""JPEGs of an index: the pixels are Pillow's, whatever decodes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynams.data import DataError, jpeg
from dynams.data.decode import Decoder
from dynams.data.jpeg import EncodedDecoder, fast_jpeg
from image_shards import encode


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    fast_jpeg.cache_clear()
    yield
    fast_jpeg.cache_clear()


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    st.booleans(),
    st.sampled_from(["RGB", "L", "CMYK"]),
    st.sampled_from([None, 5, 16]),
    st.integers(0, 99),
)
def test_pixels_are_those_of_a_decoded_file(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    subsampling: str,
    progressive: bool,
    mode: str,
    size: int | None,
    seed: int,
) -> None:
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = tmp_path_factory.mktemp("jpeg") / "x.jpg"
    options = {} if mode == "L" else {"subsampling": subsampling}
    Image.fromarray(noise).convert(mode).save(file, progressive=progressive, **options)
    want = Decoder([]).decode_resized(file, size, "x")
    for module in {None, fast_jpeg()}:
        decoder = EncodedDecoder([])
        decoder._jpeg = module
        np.testing.assert_array_equal(decoder.decode(file.read_bytes(), size, "x"), want)


def test_a_turned_picture_is_upright(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = tmp_path / "x.jpg"
    file.write_bytes(encode(pixels, exif=exif.tobytes()))
    turned = EncodedDecoder([]).decode(file.read_bytes(), None, "x")
    assert turned.shape == (30, 20, 3)
    np.testing.assert_array_equal(turned, Decoder([]).decode_resized(file, None, "x"))


@pytest.mark.parametrize("size", [None, 8])
def test_damaged_ones_are_refused_by_name(size: int | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = encode(pixels)
    for blob in (whole[:300], whole[: len(whole) // 2], b"", b"\xff\xd8", whole[:2] + whole[40:]):
        with pytest.raises(DataError, match="here: cannot be decoded as an image"):
            EncodedDecoder([]).decode(blob, size, "here")


def test_simplejpeg_decodes_where_it_is_there() -> None:
    pytest.importorskip("simplejpeg")
    module = fast_jpeg()
    assert module is not None
    assert module.__name__ == "simplejpeg"


def test_without_it_pillow_decodes_and_it_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str, package: str | None = None) -> Any:
        if name == "simplejpeg":
            raise ImportError(name)
        return needed(name, package)

    needed = jpeg.needed
    monkeypatch.setattr(jpeg, "needed", missing)
    caplog.set_level(logging.INFO, "dynams")
    blob = encode(np.zeros((8, 9, 3), np.uint8))
    for _ in range(3):
        assert EncodedDecoder([]).decode(blob, None, "x").shape == (8, 9, 3)
    assert [text for text in caplog.messages if "pip install simplejpeg" in text] == [
        "JPEGs are decoded by Pillow; simplejpeg is faster: pip install simplejpeg"
    ]


def test_one_that_decodes_otherwise_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a Pillow that was built with another library."""
    from PIL import Image

    def decode(data: bytes, colours: str, **least: int) -> np.ndarray:
        return np.zeros((least["min_height"], least["min_width"], 3), np.uint8)

    def header(data: bytes) -> tuple[int, int, str, str]:
        return 75, 101, "YCbCr", "420"

    other = SimpleNamespace(decode_jpeg=decode, decode_jpeg_header=header, __version__="9")
    needed = jpeg.needed
    monkeypatch.setattr(
        jpeg, "needed", lambda name, *rest: other if name == "simplejpeg" else needed(name, *rest)
    )
    assert Image is not None
    assert fast_jpeg() is None
    assert "simplejpeg 9 decodes them otherwise here" in caplog.text
