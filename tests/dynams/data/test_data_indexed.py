"""A Dataset over an index: what an item is, what is read and decoded for it, and what is told where it cannot be."""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset, get_worker_info

from dynams.data import DataError, IndexedImages
from dynams.data.datasets import told_labels
from dynams.data.decode import Decoder
from dynams.data.jpeg import EncodedDecoder
from image_shards import Pictures, by_pillow, encode

LAYOUTS = ("folder", "parquet", "tar")
PICTURES = Pictures.made(40)
WANTED = [by_pillow(blob) for blob in PICTURES.blobs]


@pytest.fixture(scope="module", params=LAYOUTS)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    for split in ("train", "test"):
        PICTURES.write(request.param, folder, split)
    return folder


@pytest.fixture(scope="module")
def images(root: Path) -> Iterator[IndexedImages]:
    made = IndexedImages(root)
    yield made
    made.close()


@given(rows=st.lists(st.integers(-40, 39), max_size=50))
def test_a_batch_is_the_images_asked_for_in_that_order(
    images: IndexedImages, rows: list[int]
) -> None:
    items = images.__getitems__(rows)
    assert len(items) == len(rows)
    for row, (image, label) in zip(rows, items, strict=True):
        assert image.dtype == torch.uint8
        np.testing.assert_array_equal(image, WANTED[row])
        assert label == PICTURES.labels[row]


def test_numbers_outside_are_refused(images: IndexedImages) -> None:
    for row in (40, -41):
        with pytest.raises(IndexError, match=f"row: got {row}, want -40 to 39"):
            images[row]
    assert images.__getitems__([]) == []


@pytest.mark.parametrize("row", [1.5, "1", None, True, [1, 2], torch.tensor([1, 2]), slice(0, 2)])
def test_an_item_has_one_whole_number(images: IndexedImages, row: Any) -> None:
    with pytest.raises(TypeError, match=r"row: got .*, want a whole number"):
        images[row]


def test_numbers_of_any_kind_are_taken_and_masks_are_not(images: IndexedImages) -> None:
    for row in (3, np.uint8(3), torch.tensor(3), torch.tensor([3]), np.array([3])):
        np.testing.assert_array_equal(images[row][0], WANTED[3])
    for rows in (
        [2, np.int64(5)],
        np.array([2, 5], np.uint8),
        [torch.tensor(2), torch.tensor(5)],
        torch.tensor([2, 5]),
    ):
        assert images.encoded(rows) == [PICTURES.blobs[row] for row in (2, 5)]
    with pytest.raises(TypeError, match=r"row: got .*, want a whole number"):
        images.encoded(torch.arange(40) < 2)
    with pytest.raises(IndexError, match=f"row: got {2**70}, want -40 to 39"):
        images.encoded([3, 2**70])


def test_only_what_is_asked_for_is_decoded_when_it_is(
    images: IndexedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = EncodedDecoder.decode

    def counted(self: EncodedDecoder, encoded: bytes, size: Any, where: str) -> Any:
        decoded.append(where)
        return decode(self, encoded, size, where)

    monkeypatch.setattr(EncodedDecoder, "decode", counted)
    items = images.items([31, 2, 17])
    assert decoded == []
    next(items)
    assert decoded == [images.where(31)]
    list(items)
    assert decoded == [images.where(row) for row in (31, 2, 17)]


def test_a_batch_is_read_in_the_order_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PICTURES.write_tar(tmp_path, "train", shards=3)
    reads: list[tuple[int, int]] = []
    read = os.pread

    def noted(handle: int, size: int, offset: int) -> bytes:
        reads.append((handle, offset))
        return read(handle, size, offset)

    images = IndexedImages(tmp_path, None)
    monkeypatch.setattr("dynams.data.tar_shards._LARGEST_GAP", -1)
    monkeypatch.setattr(os, "pread", noted)
    images.__getitems__([39, 3, 21, 14, 0, 20])
    assert len(reads) == 6
    offsets = images._index.offsets[[0, 3, 14, 20, 21, 39]].tolist()
    assert [offset for _, offset in reads] == offsets
    monkeypatch.setattr("dynams.data.tar_shards._LARGEST_GAP", 1 << 14)
    reads.clear()
    assert images.encoded(range(40)) == PICTURES.blobs
    assert len(reads) == 3  # one a shard


def test_of_parquet_only_row_groups_that_are_touched_are_read_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    PICTURES.write_parquet(tmp_path, "train", shards=1, group=8)
    images = IndexedImages(tmp_path, None)
    groups: list[list[int]] = []
    iterate = pq.ParquetFile.iter_batches

    def noted(self: Any, *args: Any, row_groups: list[int], **named: Any) -> Any:
        groups.append(row_groups)
        return iterate(self, *args, row_groups=row_groups, **named)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    images.__getitems__([33, 2, 7, 39, 0])
    assert groups == [[0], [4]]
    groups.clear()
    for start in range(0, 40, 4):  # as a scoring pass goes on
        images.__getitems__(list(range(start, start + 4)))
    assert groups == [[0], [1], [2], [3], [4]]


def test_files_that_are_open_at_once_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for layout, module in (("tar", "tar_shards"), ("parquet", "parquet_shards")):
        monkeypatch.setattr(f"dynams.data.{module}._MOST_OPEN", 3)
        folder = tmp_path / layout
        write = PICTURES.write_tar if layout == "tar" else PICTURES.write_parquet
        write(folder, "train", shards=10)
        images = IndexedImages(folder, None)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            assert images.encoded(range(39, -1, -1)) == PICTURES.blobs[::-1]
        assert len(os.listdir("/proc/self/fd")) - before == 3
        images.close()
        assert len(os.listdir("/proc/self/fd")) == before
        assert images.encoded([5]) == [PICTURES.blobs[5]]
        images.close()


def test_it_is_pickled_by_its_place(images: IndexedImages) -> None:
    images[0]
    dumped = pickle.dumps(images)
    assert len(dumped) < 2000
    copy = pickle.loads(dumped)
    np.testing.assert_array_equal(copy[7][0], WANTED[7])
    assert (len(copy), copy.classes) == (40, images.classes)


def test_workers_open_files_of_their_own(root: Path) -> None:
    images = IndexedImages(root, transform=_told_worker)
    images[0]  # files are open here when the workers are forked
    loader: DataLoader[Any] = DataLoader(images, batch_size=7, num_workers=2, collate_fn=list)
    for _ in range(2):
        items = [item for batch in loader for item in batch]
        assert {worker for (_, worker), _ in items} == {0, 1}
        for row, ((image, _), label) in enumerate(items):
            np.testing.assert_array_equal(image, WANTED[row])
            assert label == PICTURES.labels[row]


def _told_worker(image: torch.Tensor) -> tuple[np.ndarray, int]:
    info = get_worker_info()
    return image.numpy(), -1 if info is None else info.id


def test_threads_read_one_after_the_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, readers of parquet files end the process, and files are closed that others read."""
    images, inside = IndexedImages(root), []
    read = images._reader.read

    def alone(*arguments: Any) -> Iterator[bytes]:
        inside.append(None)
        assert len(inside) == 1, "two threads read at once"
        time.sleep(0.001)
        yield from read(*arguments)
        inside.pop()

    monkeypatch.setattr(images._reader, "read", alone)
    rows = np.random.default_rng(0).permutation(40).tolist() * 2
    with ThreadPoolExecutor(4) as pool:
        items = list(pool.map(images.__getitem__, rows))
    for row, (image, label) in zip(rows, items, strict=True):
        np.testing.assert_array_equal(image, WANTED[row])
        assert label == PICTURES.labels[row]


def test_workers_read_where_a_thread_was_reading_when_they_were_forked(root: Path) -> None:
    images = IndexedImages(root)
    with images._alone():
        loader: DataLoader[Any] = DataLoader(
            images, batch_size=40, num_workers=1, timeout=20, multiprocessing_context="fork"
        )
        ((batch, _),) = loader
    np.testing.assert_array_equal(batch, np.stack(WANTED))


def test_labels_and_classes_are_told_without_reading(root: Path) -> None:
    images = IndexedImages(root)
    part = Subset(images, [39, 0, 5])
    told = told_labels(part)
    assert told is not None
    assert told.tolist() == [PICTURES.labels[row] for row in (39, 0, 5)]
    assert images._decoder is None


def test_images_are_brought_to_one_size_as_decoded_ones_are(root: Path, tmp_path: Path) -> None:
    images = IndexedImages(root, image_size=9)
    decoder = Decoder([])
    for row in (0, 1, 25):
        file = tmp_path / "one"
        file.write_bytes(PICTURES.blobs[row])
        want = decoder.decode_resized(file, 9, "one").transpose(2, 0, 1)
        np.testing.assert_array_equal(images[row][0], want)


def damage(root: Path, blob: bytes) -> None:
    """Overwrite the bytes of an encoded image wherever they lie."""
    for file in root.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        if blob in content:
            spoilt = blob[: len(blob) // 2] + bytes(len(blob) - len(blob) // 2)
            status = file.stat()
            file.write_bytes(content.replace(blob, spoilt))
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
            return
    raise AssertionError("no such image")


@pytest.mark.parametrize(
    ("layout", "place"),
    [("folder", r"class 0/00003.img"), ("tar", r"train-0000.tar, byte \d+")],
)
def test_a_damaged_image_is_named_with_its_place(tmp_path: Path, layout: str, place: str) -> None:
    PICTURES.write(layout, tmp_path)
    images = IndexedImages(tmp_path / "train" if layout == "folder" else tmp_path, None)
    damage(tmp_path, PICTURES.blobs[3])
    with pytest.raises(DataError, match=f"{place}: cannot be decoded as an image"):
        images[3]
    assert images[4][1] == PICTURES.labels[4]


def test_a_damaged_image_in_parquet_is_named_with_its_row(tmp_path: Path) -> None:
    broken = Pictures([*PICTURES.blobs[:3], PICTURES.blobs[3][:99], *PICTURES.blobs[4:9]], [0] * 9)
    broken.write_parquet(tmp_path, "train", shards=1)
    images = IndexedImages(tmp_path, None, classes=("a", "b"))
    with pytest.raises(DataError, match=r"00001.parquet, row 3: cannot be decoded as an image"):
        images.__getitems__([8, 3])


def test_shards_that_change_or_go_while_they_are_read_are_named(tmp_path: Path) -> None:
    for layout in ("tar", "parquet"):
        folder = tmp_path / layout
        PICTURES.write(layout, folder)
        images = IndexedImages(folder, None)
        first, second = sorted(folder.glob("train-*"))
        os.utime(first, ns=(1, 1))
        with pytest.raises(DataError, match=f"{first}: it has changed since its index was made"):
            images[0]
        second.unlink()
        with pytest.raises(DataError, match=f"{second}: cannot be read: No such file"):
            images[39]
    PICTURES.write("folder", tmp_path / "folder")
    images = IndexedImages(tmp_path / "folder/train", None)
    file = Path(images.where(5))
    file.write_bytes(PICTURES.blobs[5] + b"more")
    with pytest.raises(DataError, match=f"{file}: it has changed since its index was made"):
        images[5]
    file.unlink()
    with pytest.raises(DataError, match=f"{file}: cannot be read: No such file"):
        images[5]


def test_a_missing_column_and_an_image_that_is_not_there_are_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {"image": pa.array([{"bytes": None, "path": "x"}] * 2, kind), "kind": pa.array([0, 1])}
    )
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="column label is missing: got image, kind"):
        IndexedImages(tmp_path, None)
    images = IndexedImages(tmp_path, None, label_column="kind")
    with pytest.raises(DataError, match=r"train.parquet, row 1: it has no image"):
        images[1]


def test_names_of_classes_come_with_the_hubs_files(tmp_path: Path) -> None:
    import json

    import pyarrow.parquet as pq

    PICTURES.write_parquet(tmp_path, "train", shards=1)
    (file,) = tmp_path.glob("*.parquet")
    features = {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pq.read_table(file).replace_schema_metadata(told), file)
    assert IndexedImages(tmp_path, None).classes == ("cat", "dog", "eel")


def test_damaged_metadata_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.zeros((20, 24, 3), np.uint8)
    blob = encode(pixels, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 5)
    Pictures([blob] * 4, [0, 0, 1, 1]).write_tar(tmp_path, "train", shards=1)
    images = IndexedImages(tmp_path, None)
    caplog.set_level(logging.WARNING)
    for image, _ in images.__getitems__([0, 1, 2, 3]):
        assert image.shape == (3, 20, 24)
    assert len(caplog.messages) == 1
    assert f"the first: {images.where(0)}" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "split: got 'validation'"),
        ({"name": "digits"}, "name: got 'digits'"),
        ({"image_size": 0}, "image_size: got 0"),
        ({"label_column": "x", "name": "folder"}, "label_column: got 'x', want None for a folder"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndexedImages(tmp_path, **arguments)
