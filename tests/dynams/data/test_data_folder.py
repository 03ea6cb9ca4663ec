"""Folders of images: small ones written here, whole and damaged."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynams.data import Augmentation, DataError, load_data


def save(path: Path, pixels: np.ndarray, form: str = "PNG", **options: Any) -> None:
    Image.fromarray(pixels).save(path, form, **options)


def gradient(height: int, width: int) -> np.ndarray:
    """Smooth in all directions and channels, so that resampling has one right answer."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [
        rows * 200 / height,
        columns * 200 / width,
        (rows + columns) * 100 / (height + width),
    ]
    return np.stack(channels, -1).round().astype(np.uint8)


@pytest.mark.parametrize("test_name", ["val", "test"])
def test_classes_are_sorted_and_pixels_kept_where_sizes_agree(
    tmp_path: Path, files: Any, test_name: str
) -> None:
    written = files.write_folder(tmp_path, test_name=test_name)
    data = load_data("folder", tmp_path)
    assert data.train.classes == ("ant", "bee", "cat")
    for split, images in (("train", data.train), (test_name, data.test)):
        order = sorted(file for file in written if file.parts[-3] == split)
        expected = np.stack([written[file].transpose(2, 0, 1) for file in order])
        assert np.array_equal(images.images.numpy(), expected)
        names = [images.classes[label] for label in images.labels]
        assert names == [file.parent.name for file in order]
    assert data.augmentation == Augmentation(crop_padding=2, flip=True)


def test_large_images_are_varied_by_boxes(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path, count=1)
    large, small = (load_data("folder", tmp_path, image_size=side) for side in (160, 159))
    assert large.augmentation == Augmentation(flip=True, random_resized=True, size=140)
    assert small.augmentation == Augmentation(crop_padding=20, flip=True)


def test_val_is_preferred_to_test(tmp_path: Path, files: Any) -> None:
    written = files.write_folder(tmp_path)
    for name in ("ant", "bee", "cat"):
        (tmp_path / "test" / name).mkdir(parents=True)
    data = load_data("folder", tmp_path)
    assert len(data.test) == sum(file.parts[-3] == "val" for file in written)


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (13, 12), (40, 25), (6, 9)])
def test_shorter_side_is_resized_and_the_centre_cut_out(
    tmp_path: Path, files: Any, size: tuple[int, int]
) -> None:
    files.write_folder(tmp_path)
    height, width = size
    save(tmp_path / "train/ant/0.png", gradient(height, width))
    got = load_data("folder", tmp_path, image_size=12).train.images[0].numpy().astype(int)
    # The same place in the picture, interpolated in float64 between pixel centres.
    side = min(height, width)
    centres = (np.arange(12) + 0.5) * side / 12 - 0.5
    rows = centres + (height - side) / 2
    columns = centres + (width - side) / 2
    channels = gradient(height, width).astype(np.float64)
    lines = np.array(
        [
            [np.interp(columns, np.arange(width), line) for line in plane]
            for plane in channels.transpose(2, 0, 1)
        ]
    )
    expected = np.array(
        [
            np.array([np.interp(rows, np.arange(height), line) for line in plane.T]).T
            for plane in lines
        ]
    )
    inner = (slice(None), slice(2, -2), slice(2, -2))  # Filters are cut off at the border.
    assert np.abs(got - expected)[inner].max() <= 1.5


def test_an_image_of_the_wanted_size_is_not_resampled(tmp_path: Path, files: Any) -> None:
    written = files.write_folder(tmp_path, size=(16, 16))
    data = load_data("folder", tmp_path, image_size=16)
    file = tmp_path / "train/ant/0.png"
    assert np.array_equal(data.train.images[0].numpy(), written[file].transpose(2, 0, 1))


def test_a_large_jpeg_decoded_at_a_fraction_is_the_same_picture(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path)
    save(tmp_path / "train/ant/0.png", gradient(400, 300))
    save(tmp_path / "train/ant/1.png", gradient(400, 300), "JPEG", quality=95, subsampling=0)
    first, second = load_data("folder", tmp_path, image_size=16).train.images[:2].int()
    assert (first - second).abs().max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_pictures_are_turned_upright(
    tmp_path: Path, files: Any, orientation: int, form: str
) -> None:
    files.write_folder(tmp_path, size=(16, 16))
    upright = np.repeat(np.repeat(np.array([[10, 80], [160, 240]], np.uint8), 8, 0), 8, 1)
    # How a camera stores the upright picture under each orientation (EXIF 2.3, tag 274).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "train/ant/0.png"
    save(path, np.stack([stored] * 3, -1), form, exif=exif)
    got = load_data("folder", tmp_path, image_size=16).train.images[0].int()
    expected = torch.from_numpy(upright.copy()).int().expand(3, 16, 16)
    assert (got - expected).abs().max() <= 6


def grey16(path: Path) -> None:
    Image.fromarray(np.full((12, 12), 0x8000, np.uint16)).save(path, "PNG")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("L", (100, 100, 100)),
        ("RGB", (200, 100, 50)),
        ("RGBA", (200, 100, 50)),
        ("LA", (100, 100, 100)),
        ("P", (200, 100, 50)),
        ("1", (255, 255, 255)),
        ("16", (128, 128, 128)),
    ],
)
def test_every_colour_mode_becomes_rgb(
    tmp_path: Path, files: Any, mode: str, expected: tuple[int, int, int]
) -> None:
    files.write_folder(tmp_path)
    path = tmp_path / "train/ant/0.png"
    if mode == "16":
        grey16(path)
    else:
        colours: dict[str, Any] = {"L": 100, "LA": (100, 7), "RGBA": (200, 100, 50, 7), "1": 1}
        first = "RGB" if mode == "P" else mode
        image = Image.new(first, (12, 12), colours.get(mode, (200, 100, 50)))
        (image.quantize(4) if mode == "P" else image).save(path, "PNG")
    got = load_data("folder", tmp_path).train.images[0]
    assert torch.equal(
        got, torch.tensor(expected, dtype=torch.uint8).view(3, 1, 1).expand(3, 12, 12)
    )


def test_pixels_without_a_known_range_are_refused(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path)
    path = tmp_path / "train/bee/5.tiff"
    Image.fromarray(np.ones((12, 12), np.float32)).save(path)
    with pytest.raises(DataError, match=r"bee/5\.tiff: cannot be decoded .* mode F"):
        load_data("folder", tmp_path)


def test_limit_takes_some_of_every_class(tmp_path: Path, files: Any) -> None:
    written = files.write_folder(tmp_path, classes=("a", "b", "c"), count=5)
    data = load_data("folder", tmp_path, limit=7)
    assert torch.bincount(data.train.labels).tolist() == [3, 2, 2]
    expected = [written[tmp_path / "train" / name] for name in ("a/0.png", "a/1.png", "a/2.png")]
    assert np.array_equal(data.train.images[:3].numpy(), np.stack(expected).transpose(0, 3, 1, 2))
    assert len(data.test) == 15


def test_limited_images_alone_are_decoded(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path)
    (tmp_path / "train/ant/3.png").write_bytes(b"damaged")
    assert len(load_data("folder", tmp_path, limit=3).train) == 3
    with pytest.raises(DataError, match=r"ant/3\.png"):
        load_data("folder", tmp_path)


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def truncated_jpeg(path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(gradient(12, 12)).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[:-40])


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        truncated_jpeg,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("notes on this class"),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100),
    ],
    ids=["truncated png", "truncated jpeg", "empty", "text", "broken png"],
)
@pytest.mark.parametrize("image_size", [None, 12, 8])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_that_is_no_image_is_named(
    tmp_path: Path, files: Any, damage: Any, image_size: int | None, split: str
) -> None:
    files.write_folder(tmp_path)
    damage(tmp_path / split / "bee" / "2.png")
    expected = rf"{split}/bee/2\.png: cannot be decoded as an image"
    with pytest.raises(DataError, match=expected):
        load_data("folder", tmp_path, image_size=image_size)


def test_the_first_of_several_damaged_files_is_named(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path, count=30)
    for name in ("cat/7", "bee/20", "bee/3", "cat/0"):
        (tmp_path / f"train/{name}.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"bee/20\.png"):
        load_data("folder", tmp_path)


def test_sizes_that_differ_ask_for_image_size(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path)
    save(tmp_path / "train/cat/1.png", gradient(12, 13))
    with pytest.raises(DataError, match=r"cat/1\.png: got an image of 13 x 12 .* give image_size"):
        load_data("folder", tmp_path)
    assert load_data("folder", tmp_path, image_size=12).train.images.shape == (12, 3, 12, 12)


def test_class_sets_must_agree(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path)
    for file in (tmp_path / "val/bee").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"val/bee: it is empty, want images"):
        load_data("folder", tmp_path)
    (tmp_path / "val/bee").rmdir()
    with pytest.raises(DataError, match=r"val: class bee is missing, which is in .*train"):
        load_data("folder", tmp_path)
    (tmp_path / "val/bee").mkdir()
    save(tmp_path / "val/bee/0.png", gradient(12, 12))
    (tmp_path / "val/dog").mkdir()
    save(tmp_path / "val/dog/0.png", gradient(12, 12))
    with pytest.raises(DataError, match=r"train: class dog is missing, which is in .*val"):
        load_data("folder", tmp_path)


def test_one_class_is_refused(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path, classes=("only",))
    with pytest.raises(DataError, match="got one class, want at least 2"):
        load_data("folder", tmp_path)


def test_a_file_among_the_classes_and_a_folder_among_the_images_are_named(
    tmp_path: Path, files: Any
) -> None:
    files.write_folder(tmp_path)
    (tmp_path / "train/ant/more").mkdir()
    with pytest.raises(DataError, match=r"ant/more: got a folder, want an image"):
        load_data("folder", tmp_path)
    (tmp_path / "train/labels.txt").write_text("ant 0")
    with pytest.raises(DataError, match=r"train/labels\.txt: got a file, want a folder"):
        load_data("folder", tmp_path)


def test_hidden_files_are_left_out_and_counted(
    tmp_path: Path, files: Any, caplog: pytest.LogCaptureFixture
) -> None:
    files.write_folder(tmp_path)
    (tmp_path / "train/.DS_Store").write_bytes(b"x")
    (tmp_path / "train/ant/.hidden.png").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert len(load_data("folder", tmp_path).train) == 12
    assert "left out 2 hidden files" in caplog.text


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_directory_says_what_was_looked_for(
    tmp_path: Path, files: Any, missing: str
) -> None:
    files.write_folder(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{missing}: no such directory; looked for train/<class>"):
        load_data("folder", tmp_path)


def test_an_empty_directory_is_named(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"train: it is empty, want a folder for each class"):
        load_data("folder", tmp_path)
