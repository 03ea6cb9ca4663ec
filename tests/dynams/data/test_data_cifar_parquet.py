"""CIFAR-10 from the hub's parquet files: small ones written here, whole and damaged."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dynams.data import Augmentation, DataError, load_data


def decoded(blob: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(blob)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("shards", [1, 3])
def test_images_and_labels_come_in_the_order_of_the_rows(
    tmp_path: Path, cifar: Any, form: str, shards: int
) -> None:
    data = load_data("cifar10", cifar.write_parquet(tmp_path / "plain_text", form, shards).parent)
    for split, images in (("train", data.train), ("test", data.test)):
        expected = np.stack([decoded(blob) for blob in cifar.blobs(split, form)])
        assert np.array_equal(images.images.numpy(), expected)
        assert np.array_equal(images.labels.numpy(), cifar.labels[split])
        assert images.images.is_contiguous()
    assert data.augmentation == Augmentation(crop_padding=4, flip=True)
    assert data.train.classes[0] == "airplane"
    assert data.num_classes == 10


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"quality": 5}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_jpeg_is_decoded_as_pillow_opens_it(
    tmp_path: Path, cifar: Any, files: Any, options: dict[str, Any], mode: str
) -> None:
    cifar.write_parquet(tmp_path)
    blobs = []
    for image in cifar.images["train"]:
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).convert(mode).save(buffer, "JPEG", **options)
        blobs.append(buffer.getvalue())
    path = tmp_path / "train-00000-of-00001.parquet"
    files.write_table(path, blobs, cifar.labels["train"].tolist())
    data = load_data("cifar10", tmp_path)
    assert np.array_equal(data.train.images.numpy(), np.stack([decoded(blob) for blob in blobs]))


def test_limit_takes_the_first_rows_and_a_seed_draws_them(tmp_path: Path, cifar: Any) -> None:
    cifar.write_parquet(tmp_path, shards=2)
    whole = load_data("cifar10", tmp_path)
    part = load_data("cifar10", tmp_path, limit=15)
    assert torch.equal(part.train.images, whole.train.images[:15])
    assert torch.equal(part.train.labels, whole.train.labels[:15])
    assert len(part.test) == len(whole.test)
    assert part.mean != whole.mean
    drawn = load_data("cifar10", tmp_path, limit=15, seed=1)
    again = load_data("cifar10", tmp_path, limit=15, seed=1)
    assert torch.equal(drawn.train.images, again.train.images)
    assert not torch.equal(drawn.train.images, part.train.images)
    known = {image.numpy().tobytes() for image in whole.train.images}
    assert len({image.numpy().tobytes() for image in drawn.train.images} & known) == 15
    assert len(load_data("cifar10", tmp_path, limit=10**6).train) == len(whole.train)


def damaged_blobs(blobs: list[bytes], row: int, blob: bytes | None) -> list[bytes | None]:
    return [blob if index == row else good for index, good in enumerate(blobs)]


def jpeg(files: Any, height: int, width: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return bytes(files.encode(pixels, "JPEG"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "cannot be decoded as an image"),
        ("not an image", "cannot be decoded as an image"),
        ("empty", "cannot be decoded as an image"),
        ("broken png", "cannot be decoded as an image"),
        ("gif", "cannot be decoded as an image"),
        ("narrow", r"got an image of 16 x 32 pixels, want 32 x 32"),
        ("wide", r"got an image of 64 x 32 pixels, want 32 x 32"),
        ("tall", r"got an image of 32 x 64 pixels, want 32 x 32"),
        ("missing", "it has no image"),
    ],
)
@pytest.mark.parametrize("row", [0, 17])
def test_a_damaged_image_is_told_by_file_and_row(
    tmp_path: Path, cifar: Any, files: Any, damage: str, message: str, row: int
) -> None:
    cifar.write_parquet(tmp_path, "JPEG")
    good = cifar.blobs("train", "JPEG")
    png = cifar.blobs("train", "PNG")[row]
    blob = {
        "truncated": good[row][: len(good[row]) // 2],
        "not an image": b"\xff\xd8\xff" + b"nonsense" * 20,
        "empty": b"",
        "broken png": png[:60] + b"\0" * 20 + png[80:],
        "gif": files.encode(np.zeros((32, 32, 3), np.uint8), "GIF"),
        "narrow": jpeg(files, 32, 16),
        "wide": jpeg(files, 32, 64),
        "tall": jpeg(files, 64, 32),
        "missing": None,
    }[damage]
    path = tmp_path / "train-00000-of-00001.parquet"
    files.write_table(path, damaged_blobs(good, row, blob), cifar.labels["train"].tolist())
    with pytest.raises(DataError, match=rf"train-00000-of-00001\.parquet, row {row}: {message}"):
        load_data("cifar10", tmp_path)


def test_the_first_of_several_damaged_rows_is_told(tmp_path: Path, cifar: Any, files: Any) -> None:
    cifar.write_parquet(tmp_path)
    blobs = damaged_blobs(cifar.blobs("train"), 20, b"bad")
    blobs[9] = b"worse"
    path = tmp_path / "train-00000-of-00001.parquet"
    files.write_table(path, blobs, cifar.labels["train"].tolist())
    with pytest.raises(DataError, match="row 9:"):
        load_data("cifar10", tmp_path)


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_a_label_out_of_range_is_told_by_file_and_row(
    tmp_path: Path, cifar: Any, files: Any, label: int
) -> None:
    cifar.write_parquet(tmp_path)
    labels = cifar.labels["test"].tolist()
    labels[4] = label
    path = tmp_path / "test-00000-of-00001.parquet"
    files.write_table(path, cifar.blobs("test"), labels)
    expected = rf"test-00000-of-00001\.parquet, row 4: got label {label}, want 0 to 9"
    with pytest.raises(DataError, match=expected):
        load_data("cifar10", tmp_path)


def test_a_missing_label_is_told_by_file_and_row(tmp_path: Path, cifar: Any, files: Any) -> None:
    cifar.write_parquet(tmp_path)
    labels = cifar.labels["test"].tolist()
    labels[7] = None
    files.write_table(tmp_path / "test-00000-of-00001.parquet", cifar.blobs("test"), labels)
    with pytest.raises(DataError, match="row 7: it has no label"):
        load_data("cifar10", tmp_path)


def renamed(path: Path, names: list[str]) -> None:
    pq.write_table(pq.read_table(path).rename_columns(names), path)


@pytest.mark.parametrize(
    ("column", "wanted"), [("img", "column img or image"), ("label", "column label")]
)
def test_a_missing_column_is_named_with_those_that_are_there(
    tmp_path: Path, cifar: Any, column: str, wanted: str
) -> None:
    cifar.write_parquet(tmp_path)
    path = tmp_path / "train-00000-of-00001.parquet"
    other = {"img": "label", "label": "img"}[column]
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(DataError, match=rf"parquet: {wanted} is missing: got {other}; data\."):
        load_data("cifar10", tmp_path)


def test_columns_are_found_by_their_usual_names_or_by_those_given(
    tmp_path: Path, cifar: Any
) -> None:
    expected = load_data("cifar10", cifar.write_parquet(tmp_path)).train
    for path in tmp_path.iterdir():
        renamed(path, ["image", "label"])
    assert torch.equal(load_data("cifar10", tmp_path).train.images, expected.images)
    for path in tmp_path.iterdir():
        renamed(path, ["a.picture", "fine"])
    given = load_data("cifar10", tmp_path, image_column="a.picture", label_column="fine").train
    assert torch.equal(given.images, expected.images)
    assert torch.equal(given.labels, expected.labels)
    with pytest.raises(DataError, match=r"column coarse is missing: got a\.picture, fine"):
        load_data("cifar10", tmp_path, image_column="a.picture", label_column="coarse")


def test_columns_that_might_both_be_meant_are_named(tmp_path: Path, cifar: Any, files: Any) -> None:
    for path in cifar.write_parquet(tmp_path).iterdir():
        table = pq.read_table(path)
        blank = [{"bytes": files.encode(np.zeros((32, 32, 3), np.uint8)), "path": ""}]
        pq.write_table(table.append_column("image", pa.array(blank * len(table))), path)
    with pytest.raises(DataError, match=r"img and image might both be meant: .*data\.image_column"):
        load_data("cifar10", tmp_path)
    # The caches of two columns are not taken for one another.
    for column, pixel in (("img", None), ("image", 0), ("img", None)):
        got = load_data("cifar10", tmp_path, image_column=column, storage="disk").train.images
        assert (int(got.max()) == 0) == (pixel == 0)


def test_columns_are_refused_where_there_are_none(tmp_path: Path, cifar: Any, files: Any) -> None:
    cifar.write_bin(tmp_path / "bin")
    files.write_folder(tmp_path / "folder")
    for name, path in (("digits", None), ("folder", tmp_path / "folder"), ("cifar10", tmp_path)):
        with pytest.raises(ValueError, match=r"label_column: got 'fine', want None for"):
            load_data(name, path, label_column="fine")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("img", pa.array([b"x"] * 25), r"column img of type binary, want struct"),
        ("label", pa.array(["cat"] * 25), r"column label of type string, want whole numbers"),
    ],
)
def test_a_column_of_another_type_is_named(
    tmp_path: Path, cifar: Any, column: str, values: Any, message: str
) -> None:
    cifar.write_parquet(tmp_path)
    path = tmp_path / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), path)
    with pytest.raises(DataError, match=message):
        load_data("cifar10", tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -300])
def test_a_truncated_or_foreign_file_is_named(tmp_path: Path, cifar: Any, keep: int) -> None:
    cifar.write_parquet(tmp_path)
    path = tmp_path / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet: cannot be read"):
        load_data("cifar10", tmp_path)


def test_an_empty_table_is_named(tmp_path: Path, cifar: Any, files: Any) -> None:
    cifar.write_parquet(tmp_path)
    files.write_table(tmp_path / "test-00000-of-00001.parquet", [], [])
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: it has no rows"):
        load_data("cifar10", tmp_path)
