"""Tar shards as WebDataset has them: where images lie, whatever wrote the file, and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynams.data import DataError, IndexedImages, load_data, write_shards
from dynams.data.tar_shards import TarShards
from image_shards import Pictures, write_members

IMAGE = Pictures.made(1).blobs[0]
FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def scan(folder: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Any:
    write_members(folder / "train-0.tar", members, form)
    return TarShards(folder, ("train-0.tar",)).scan(0)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000), st.booleans()), min_size=1),
    st.sampled_from(FORMS),
    st.sampled_from(["", "a/b/", "n" * 90 + "/" + "m" * 40 + "/"]),
    st.sampled_from(["jpg", "JPEG", "png", "webp"]),
)
def test_images_lie_where_tarfile_finds_them(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[tuple[int, int, bool]],
    form: int,
    folder: str,
    ending: str,
) -> None:
    root = tmp_path_factory.mktemp("tar")
    members = []
    for row, (label, size, first) in enumerate(samples):
        pair = [(f"{folder}{row}.{ending}", bytes([row % 256]) * size)]
        pair.insert(first, (f"{folder}{row}.cls", f"{label}\n".encode()))
        members += [*pair, (f"{folder}{row}.txt", b"a caption")]
    part = scan(root, members, form)
    with tarfile.open(root / "train-0.tar") as tar:
        want = [each for each in tar if each.name.endswith(f".{ending}")]
    assert part.offsets.tolist() == [each.offset_data for each in want]
    assert part.lengths.tolist() == [each.size for each in want]
    assert part.labels.tolist() == [label for label, _, _ in samples]


def test_headers_of_other_writers_are_left_to_tarfile(tmp_path: Path) -> None:
    """Old, long, damaged and simple headers in turn, as `tar --append` leaves them."""
    file = tmp_path / "train-0.tar"
    names = ["a", "n" * 120, "b", "p/" * 70 + "c", "\u00e9", "d"]
    for form in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(file, "a" if file.exists() else "w", format=form) as tar:
            for name in names:
                if form == tarfile.USTAR_FORMAT and len(name) == 120:
                    continue
                for ending, content in (("jpg", IMAGE), ("cls", b"7")):
                    member = tarfile.TarInfo(f"{form}{name}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    with tarfile.open(file) as tar:
        want = [each.offset_data for each in tar if each.name.endswith("jpg")]
    assert len(want) == 17
    assert TarShards(tmp_path, ("train-0.tar",)).scan(0).offsets.tolist() == want
    damaged = bytearray(file.read_bytes())
    damaged[want[-1] - 512 + 3] ^= 1  # a name that its sum does not fit
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=f"byte {want[-1] - 512}: got a damaged header, want a"):
        TarShards(tmp_path, ("train-0.tar",)).scan(0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", b"x")], r"byte 512: sample 1 has no class, want 1.cls, or 1.json with a label"),
        ([("a/1.jpg", b"x"), ("a/1.json", b"{}")], "sample a/1 has no class"),
        ([("1.cls", b"1"), ("2.jpg", b"x"), ("2.cls", b"1")], "sample 1 has no image, want 1.{jpg"),
        ([("1.jpg", b"x"), ("1.png", b"x")], "byte 1536: 1.png is a second image of 1"),
        ([("1.jpg", b"x"), ("1.cls", b"cat")], "byte 1536: got 'cat' in 1.cls, want a whole numb"),
        ([("1.jpg", b"x"), ("1.cls", b"-1")], "got label -1 in 1.cls, want 0 or more"),
        ([("1.jpg", b"x"), ("1.json", b'{"label": 1.5}')], "in 1.json, want a whole number"),
        ([("1.jpg", b"x"), ("1.json", b"{")], "in 1.json, want a whole number"),
        ([("1.jpg", b"x"), ("1.json", b"Infinity")], "in 1.json, want a whole number"),
        ([("1.jpg", b"x"), ("1.json", b"[" * 9**5)], "in 1.json, want a whole number"),
        ([("1.jpg", b"x"), ("1.cls", b"9" * 20)], f"got label {'9' * 20} in 1.cls, want 0 or more"),
        ([("1.cls", b"1"), ("1.json", b'{"label": 2}')], "1.json has label 2, want 1 as before"),
        ([], "train-0.tar: it has no images, want KEY.jpg and KEY.cls"),
    ],
)
def test_what_is_no_sample_is_named_with_its_byte(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        scan(tmp_path, members)


def test_folders_and_hidden_members_are_no_samples(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in (("a/._1.jpg", b"?"), ("a/1.jpg", IMAGE), ("a/1.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert len(TarShards(tmp_path, ("train-0.tar",)).scan(0).labels) == 1


def test_a_link_in_a_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"got 1.jpg, which is no plain file"):
        TarShards(tmp_path, ("train-0.tar",)).scan(0)


def test_a_shard_that_is_cut_short_or_compressed_is_refused(tmp_path: Path) -> None:
    write_members(tmp_path / "train-0.tar", [("1.cls", b"1"), ("1.jpg", b"x" * 5000)])
    whole = (tmp_path / "train-0.tar").read_bytes()
    for length in (3000, 600, 100):
        (tmp_path / "train-0.tar").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"train-0.tar"):
            IndexedImages(tmp_path, None)
    with tarfile.open(tmp_path / "train-0.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match="cannot be read as an uncompressed tar file"):
        IndexedImages(tmp_path, None)
    (tmp_path / "train-0.tar").rename(tmp_path / "train-0.tar.gz")
    with pytest.raises(DataError, match=r"got a compressed tar file, want an uncompressed one"):
        IndexedImages(tmp_path, None)


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_any_layout_becomes_shards_of_the_same_numbers(tmp_path: Path, layout: str) -> None:
    pictures = Pictures.made(17)
    for split in ("train", "test"):
        pictures.write(layout, tmp_path / "set", split)
    images = IndexedImages(tmp_path / "set")
    files = write_shards(images, tmp_path / "tars", images_a_shard=5)
    write_shards(IndexedImages(tmp_path / "set", "test"), tmp_path / "tars", "test")
    assert [file.name for file in files] == [f"train-{n:05d}-of-00004.tar" for n in range(4)]
    copied = IndexedImages(tmp_path / "tars")
    assert copied.encoded(range(17)) == pictures.blobs
    assert copied.labels.tolist() == pictures.labels
    assert copied.classes == images.classes
    files[2].unlink()
    with pytest.raises(DataError, match="split into 4 files and number 2 is missing"):
        IndexedImages(tmp_path / "tars")


def test_what_is_no_image_does_not_become_a_shard(tmp_path: Path) -> None:
    Pictures([IMAGE, b"text", IMAGE], [0, 1, 1]).write_folder(tmp_path / "set")
    with pytest.raises(DataError, match=r"00001.img: got neither JPEG, PNG nor WebP"):
        write_shards(IndexedImages(tmp_path / "set", None), tmp_path / "tars")
    assert not list((tmp_path / "tars").glob("*.tar*"))


@pytest.mark.parametrize("first", ["train", "test"])
def test_names_of_classes_are_those_of_both_splits(tmp_path: Path, first: str) -> None:
    sets = {"train": Pictures.made(12, classes=4), "test": Pictures.made(6, classes=3)}
    for split, pictures in sets.items():  # test has none of the last class
        pictures.write_parquet(tmp_path / "set", split)
    for split in sorted(sets, key=lambda each: each != first):
        write_shards(IndexedImages(tmp_path / "set", split), tmp_path / "tars", split)
    for split, pictures in sets.items():
        copied = IndexedImages(tmp_path / "tars", split)
        assert copied.classes == tuple("0123")
        assert copied.labels.tolist() == pictures.labels


def test_names_of_classes_that_would_shift_labels_are_refused(tmp_path: Path, files: Any) -> None:
    files.write_folder(tmp_path / "set")
    (tmp_path / "set/val/bee").rename(tmp_path / "set/val/cow")
    write_shards(IndexedImages(tmp_path / "set"), tmp_path / "tars")
    with pytest.raises(
        DataError, match=r"classes.txt: got cat for label 1, want bee, as is written"
    ):
        write_shards(IndexedImages(tmp_path / "set", "test"), tmp_path / "tars", "test")
    assert IndexedImages(tmp_path / "tars", None).classes == ("ant", "bee", "cat")
    (tmp_path / "set/train/bee").rename(tmp_path / "set/train/a\nbee")
    images = IndexedImages(tmp_path / "set", index_dir=tmp_path / "kept")
    with pytest.raises(DataError, match=r"got 'a\\nbee' for label 0, want a name of one line"):
        write_shards(images, tmp_path / "more")


def test_names_of_classes_written_by_hand_are_lines(tmp_path: Path) -> None:
    Pictures.made(6, classes=2).write_tar(tmp_path, "train")
    (tmp_path / "classes.txt").write_bytes("\ufeffcat\r\ndog\r\n".encode())
    assert IndexedImages(tmp_path, None).classes == ("cat", "dog")
    (tmp_path / "classes.txt").write_text("cat\ndog\n\n")
    with pytest.raises(DataError, match=r"classes.txt: got no name for label 2, want the name"):
        IndexedImages(tmp_path, None)


def test_images_of_a_folder_have_the_numbers_that_decoded_ones_have(
    tmp_path: Path, files: Any
) -> None:
    files.write_folder(tmp_path)
    decoded = load_data("folder", tmp_path)
    images = IndexedImages(tmp_path)
    assert images.classes == decoded.train.classes
    np.testing.assert_array_equal(images.labels, decoded.train.labels)
    for row in range(len(images)):
        np.testing.assert_array_equal(images[row][0], decoded.train.images[row])
