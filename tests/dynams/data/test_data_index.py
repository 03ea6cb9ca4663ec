"""An index: made once, gone on with, believed as long as nothing changes."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynams.data import DataError, IndexedImages, index_build
from dynams.data.folder_shards import FolderShards
from dynams.data.index_build import _Progress, indexed
from dynams.data.indexed import DIRECTORY
from dynams.data.layouts import find_layout
from dynams.data.shards import Part, ShardState
from dynams.data.tar_shards import TarShards
from dynams.files import StorageError
from image_shards import Pictures, encode

LAYOUTS = ("folder", "parquet", "tar")
PICTURES = Pictures.made(20)


@pytest.fixture(params=LAYOUTS)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    PICTURES.write(request.param, tmp_path / "set")
    Pictures.made(6, seed=1).write(request.param, tmp_path / "set", "test")
    return tmp_path / "set"


def index_of(root: Path) -> Path:
    (file,) = (root / DIRECTORY).glob("*.index")
    return file


class Scans:
    """Counts the shards that are scanned; ``fails`` says before which one the process dies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: int | None = None) -> None:
        self.names: list[str] = []
        self.fails = fails
        scan = TarShards.scan

        def counted(layout: TarShards, shard: int) -> Part:
            if len(self.names) == self.fails:
                raise KeyboardInterrupt
            self.names.append(layout.shards[shard])
            return scan(layout, shard)

        monkeypatch.setattr(TarShards, "scan", counted)


def test_numbers_and_labels_are_those_of_the_data_whoever_reads(root: Path) -> None:
    images = IndexedImages(root)
    assert len(images) == 20
    assert images.labels.tolist() == images.targets.tolist() == PICTURES.labels
    assert images.labels.dtype.is_floating_point is False
    names = [f"class {n}" for n in range(3)] if (root / "train").exists() else ["0", "1", "2"]
    assert list(images.classes) == names
    assert images.encoded(range(20)) == PICTURES.blobs


def test_an_index_is_made_once(root: Path) -> None:
    IndexedImages(root)
    before = index_of(root).stat().st_mtime_ns
    assert len(IndexedImages(root)) == 20
    assert index_of(root).stat().st_mtime_ns == before
    assert [each.name for each in (root / DIRECTORY).iterdir()] == [index_of(root).name]


def test_a_killed_build_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PICTURES.write_tar(tmp_path, "train", shards=5)
    with monkeypatch.context() as patch:
        first = Scans(patch, fails=3)
        with pytest.raises(KeyboardInterrupt):
            IndexedImages(tmp_path, None)
    assert len(first.names) == 3
    assert not list((tmp_path / DIRECTORY).glob("*.index"))
    # One of the parts was damaged besides, and one shard was written anew.
    parts = sorted((tmp_path / DIRECTORY).glob("*.parts/*.part"))
    parts[0].write_bytes(parts[0].read_bytes()[:100])
    os.utime(tmp_path / first.names[1], ns=(1, 1))
    again = Scans(monkeypatch)
    assert IndexedImages(tmp_path, None).encoded(range(20)) == PICTURES.blobs
    assert again.names == [f"train-{n:04d}.tar" for n in (0, 1, 3, 4)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_what_a_process_that_was_killed_leaves_is_used_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PICTURES.write_tar(tmp_path, "train", shards=5)
    replacing = index_build.replacing
    context = multiprocessing.get_context("fork")

    def killed(path: Path) -> Any:
        with replacing(path) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    def build() -> None:
        index_build.replacing = killed  # in the child alone: while it writes the index itself
        IndexedImages(tmp_path, None)

    process = context.Process(target=build)
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    left = tmp_path / DIRECTORY
    assert list(left.glob("*.tmp"))
    assert not list(left.glob("*.index"))
    scans = Scans(monkeypatch)
    assert IndexedImages(tmp_path, None).encoded(range(20)) == PICTURES.blobs
    assert scans.names == []
    assert [file.suffix for file in left.iterdir()] == [".index"]


def test_of_processes_that_come_together_one_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PICTURES.write_tar(tmp_path, "train", shards=4)
    scans = Scans(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: IndexedImages(tmp_path, None), range(4)))
    assert [len(images) for images in made] == [20] * 4
    assert sorted(scans.names) == [f"train-{n:04d}.tar" for n in range(4)]


def test_changed_data_are_refused_by_name(root: Path) -> None:
    IndexedImages(root)
    changed = next(iter(sorted(root.glob("train-*")))) if not (root / "train").exists() else None
    if changed is None:
        changed = root / "train/class 1"
        (changed / "new.img").write_bytes(encode(np.zeros((20, 24, 3), np.uint8)))
    else:
        os.utime(changed, ns=(1, 1))
    with pytest.raises(DataError, match=f"{changed}: it has changed since its index was made; rem"):
        IndexedImages(root)
    index_of(root).unlink()
    assert len(IndexedImages(root)) == (21 if (root / "train").exists() else 20)


def test_a_missing_and_a_new_shard_are_named(tmp_path: Path) -> None:
    PICTURES.write_tar(tmp_path, "train", shards=3)
    IndexedImages(tmp_path, None)
    (tmp_path / "train-0002.tar").rename(tmp_path / "train-0003.tar")
    with pytest.raises(DataError, match=r"train-0002.tar: it is missing, which the index has"):
        IndexedImages(tmp_path, None)
    shutil.copy2(tmp_path / "train-0003.tar", tmp_path / "train-0002.tar")
    with pytest.raises(DataError, match=r"train-0003.tar: it is new, the index has it not"):
        IndexedImages(tmp_path, None)


def test_a_gap_among_the_shards_of_a_split_is_refused(root: Path) -> None:
    if (root / "train").exists():
        shutil.rmtree(root / "train/class 1")
        shutil.rmtree(root / "train/class 2")
        with pytest.raises(DataError, match="got 1 folders, want at least 2"):
            IndexedImages(root)
    else:
        sorted(root.glob("train-*"))[0].unlink()
        with pytest.raises(DataError, match="number 0 is missing"):
            IndexedImages(root)


@given(st.binary(max_size=60), st.integers(0, 400))
def test_a_damaged_index_is_told_from_a_whole_one(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int
) -> None:
    root = tmp_path_factory.mktemp("set")
    PICTURES.write_tar(root, "train", shards=1)
    IndexedImages(root, None)
    file = index_of(root)
    file.write_bytes(file.read_bytes()[:-1][: 1 + cut] + noise)
    with pytest.raises(DataError, match="no whole index of this version; remove it"):
        IndexedImages(root, None)


def test_an_index_moves_with_its_data_and_a_foreign_one_knows_whose_it_is(tmp_path: Path) -> None:
    PICTURES.write_tar(tmp_path / "one", "train")
    Pictures.made(9, seed=5).write_tar(tmp_path / "two", "train")
    IndexedImages(tmp_path / "one", None)
    (tmp_path / "one").rename(tmp_path / "moved")
    assert IndexedImages(tmp_path / "moved", None).encoded([3]) == [PICTURES.blobs[3]]
    assert len(list((tmp_path / "moved" / DIRECTORY).glob("*.index"))) == 1
    for name, count in (("moved", 20), ("two", 9), ("moved", 20)):
        assert len(IndexedImages(tmp_path / name, None, index_dir=tmp_path / "kept")) == count


def test_where_no_index_can_be_written_it_says_what_to_do(tmp_path: Path) -> None:
    PICTURES.write_tar(tmp_path, "train")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.*index_dir"):
        IndexedImages(tmp_path, None, index_dir=tmp_path / "file")


def test_a_label_outside_the_classes_is_named(tmp_path: Path) -> None:
    PICTURES.write_parquet(tmp_path, "train", shards=2)
    with pytest.raises(DataError, match=r"00001-of-00002.parquet, row 4: got label 2, want 0 to 1"):
        IndexedImages(tmp_path, None, classes=("a", "b"))
    assert not list((tmp_path / DIRECTORY).glob("*.index"))


def test_a_label_that_is_no_number_of_a_class_is_named(tmp_path: Path) -> None:
    """Such as a word's or a person's: names of all classes below it would take memory until it ends."""
    Pictures(PICTURES.blobs[:2], [0, 2**20]).write_tar(tmp_path, "train", shards=1)
    with pytest.raises(
        DataError, match=r"train-0000.tar, byte \d+: got label 1048576, want 0 to 1"
    ):
        IndexedImages(tmp_path, None)


def test_a_layout_of_other_classes_is_not_believed(tmp_path: Path) -> None:
    PICTURES.write_tar(tmp_path, "train")
    IndexedImages(tmp_path, None)
    with pytest.raises(DataError, match="it has other classes than the data"):
        IndexedImages(tmp_path, None, classes=("a", "b", "c"))


def test_hidden_files_and_links_to_the_same_image_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PICTURES.write_folder(tmp_path)
    (tmp_path / "class 0/.DS_Store").write_text("")
    (tmp_path / "class 0/zz").symlink_to(tmp_path / "class 0/00000.img")
    outside = tmp_path.with_name("outside.img")
    outside.write_bytes(PICTURES.blobs[0])
    (tmp_path / "class 2/zz").symlink_to(outside)
    (tmp_path / "class 2/zzz").symlink_to(outside)
    assert len(IndexedImages(tmp_path, None)) == 21
    assert "left out 1 hidden files" in caplog.text
    assert caplog.text.count("left out 1 links") == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "train/odd").write_text(""), "odd: got a file, want a folder"),
        (lambda root: (root / "train/class 1/x").mkdir(), "x: got a folder, want an image"),
        (lambda root: (root / "train/empty").mkdir(), "empty: it is empty, want images"),
        (lambda root: shutil.rmtree(root / "train"), "train: no such directory"),
    ],
)
def test_what_is_no_folder_of_classes_is_named(tmp_path: Path, spoil: Any, message: str) -> None:
    for split in ("train", "test"):
        PICTURES.write("folder", tmp_path, split)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        IndexedImages(tmp_path, name="folder")


def test_progress_is_shown_on_a_terminal_only(caplog: pytest.LogCaptureFixture) -> None:
    class Stream:
        def __init__(self, terminal: bool) -> None:
            self.terminal, self.text = terminal, ""

        def isatty(self) -> bool:
            return self.terminal

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    caplog.set_level("INFO", "dynams")
    for terminal in (True, False):
        stream: Any = Stream(terminal)
        progress = _Progress("set", 2, True, stream)
        for _ in range(2):
            progress.scanned(700)
        progress.over()
        assert bool(stream.text) is terminal
        if terminal:
            assert stream.text.endswith("index set: 2 of 2 shards, 1,400 images\x1b[K\n")
    assert caplog.messages == ["index set: 2 of 2 shards, 1,400 images"]


class MadeUp:
    """A layout of as many images as are wanted, in no files."""

    kind, classes, columns = "tar", None, ()

    def __init__(self, root: Path, parts: list[list[int]]) -> None:
        self.root, self.parts = root, parts
        self.shards = tuple(f"{number}" for number in range(len(parts)))
        for name in self.shards:
            (root / name).write_text("")

    def scan(self, shard: int) -> Part:
        labels = np.array(self.parts[shard], np.int64)
        return Part(labels, labels * 7, labels.astype(np.uint32), b"name\0" * len(labels))


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=1, max_size=5))
def test_every_image_has_its_place_whatever_the_shards(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]]
) -> None:
    root = tmp_path_factory.mktemp("made up")
    layout: Any = MadeUp(root, parts)
    index = indexed(root / "x.index", layout)
    flat = [label for part in parts for label in part]
    first = np.cumsum([0, *map(len, parts)])
    assert index.labels.tolist() == index.lengths.tolist() == flat
    assert index.shards.tolist() == [n for n, part in enumerate(parts) for _ in part]
    for number, part in enumerate(parts):
        offsets = [5 * int(first[number]) + 7 * label for label in part]
        assert index.offsets[first[number] : first[number + 1]].tolist() == offsets
    assert index.names.tobytes() == b"name\0" * len(flat)
    assert index.states == tuple(ShardState.of(name, root / name) for name in layout.shards)


def test_names_that_are_no_utf_8_are_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"p\xe4rt.img")
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        try:
            (tmp_path / label / name).write_bytes(PICTURES.blobs[0])
        except OSError:
            pytest.skip("this file system takes no such names")
    images = IndexedImages(tmp_path, None)
    assert images.encoded([1]) == [PICTURES.blobs[0]]
    assert isinstance(find_layout(tmp_path, None), FolderShards)
