"""Links, and what is no file: followed, or called what it is, and never waited for."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from dynams.data import DataError, load_data
from dynams.data.places import cannot_be_read, files_below, what_is


def names(root: Path) -> list[str]:
    found = files_below(root, lambda file: file.suffix != ".blob")
    return [str(file.relative_to(root)) for file in found.files]


def test_links_are_followed_and_each_file_counts_once(tmp_path: Path) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    (root / "real").mkdir(parents=True)
    (away / "deep").mkdir(parents=True)
    for file in (root / "real/a", away / "b", away / "deep/c"):
        file.write_text("")
    (root / "again").symlink_to(
        root / "real"
    )  # Before real in the alphabet, and found there all the same.
    (root / "link").symlink_to(away)
    (root / "link2").symlink_to(away / "deep")
    (root / "a").symlink_to(root / "real/a")
    (root / "z").symlink_to(away / "b")
    (root / "gone").symlink_to("nowhere")
    (root / "real/0123.blob").write_text("")
    (root / "named").symlink_to("real/0123.blob")  # As a hub's cache keeps files.
    (away / "deep/back").symlink_to(root)
    (away / "deep/up").symlink_to(tmp_path)  # Leads out of the data.
    (tmp_path / "beside").write_text("")
    assert names(root) == ["gone", "link/b", "link/deep/c", "named", "real/a"]
    assert names(root / "again") == ["a"]


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert files_below(tmp_path / "file", bool).unreadable == [f"{tmp_path}/file (Not a directory)"]


def test_cifar_is_found_behind_links_and_not_twice(tmp_path: Path, cifar: Any) -> None:
    expected = load_data("cifar10", cifar.write_parquet(tmp_path / "disk")).train
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cifar10").symlink_to(tmp_path / "disk")
    (tmp_path / "data/latest").symlink_to("cifar10")
    (tmp_path / "data/cifar10/loop").symlink_to("..")
    assert torch.equal(load_data("cifar10", tmp_path / "data").train.images, expected.images)
    batches = cifar.write_bin(tmp_path / "batches")
    (batches / "more").symlink_to(batches)
    assert len(load_data("cifar10", batches).train) == len(expected)


def specials(folder: Path) -> dict[str, str]:
    """Make what is no file, by name; how a message calls it."""
    (folder / "gone").symlink_to(folder / "nowhere.png")
    (folder / "ring").symlink_to("ring")
    (folder / "circle").symlink_to(folder / "ring")
    os.mkfifo(folder / "pipe")
    (folder / "linked").symlink_to(folder / "pipe")
    (folder / "device").symlink_to("/dev/null")
    return {
        "gone": f"a link to {folder}/nowhere.png, which is not there",
        "circle": f"a link to {folder}/ring, too many levels of symbolic links",
        "pipe": "a pipe",
        "linked": f"a link to {folder}/pipe, a pipe",
        "device": "a link to /dev/null, a device",
    }


@pytest.mark.parametrize("name", ["gone", "circle", "pipe", "linked", "device"])
@pytest.mark.parametrize("place", ["0.png", "images", "class", "split", "path", "shard", "batch"])
def test_what_is_no_file_is_called_what_it_is(
    tmp_path: Path, files: Any, cifar: Any, name: str, place: str
) -> None:
    (tmp_path / "other").mkdir()
    called = specials(tmp_path / "other")[name]
    special, root = tmp_path / "other" / name, tmp_path / "data"
    kind, taken = "folder", root / f"train/ant/{place}"
    if place == "shard":
        kind, taken = "cifar10", cifar.write_parquet(root) / "test-00000-of-00001.parquet"
    elif place == "batch":
        kind, taken = "cifar10", cifar.write_py(root) / "data_batch_3"
    else:
        files.write_folder(root, count=1)
        taken = {"class": root / "train/cow", "split": root / "val", "path": root}.get(place, taken)
    if taken.is_dir():
        taken.rename(tmp_path / "aside")
    taken.unlink(missing_ok=True)
    special.rename(taken)
    with pytest.raises(DataError) as caught:
        load_data(kind, root)  # type: ignore[arg-type]
    assert f"{taken}: got {called}, want a" in str(caught.value)


def test_a_socket_and_what_may_not_be_read_are_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # The name of a socket must be short.
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        assert what_is(Path("socket")) == "a socket"
    error = PermissionError(13, "Permission denied", "secret")
    assert str(cannot_be_read("secret", error)) == "secret: cannot be read: Permission denied"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied_is_told(tmp_path: Path, files: Any, cifar: Any) -> None:
    files.write_folder(tmp_path / "folder")
    locked = tmp_path / "folder/train/ant"
    cifar.write_parquet(tmp_path / "cifar" / "locked")
    for place, kind in ((locked, "folder"), (tmp_path / "cifar" / "locked", "cifar10")):
        place.chmod(0)
        with pytest.raises(DataError, match=rf"{place.name}.*ermission denied"):
            load_data(kind, tmp_path / kind.removesuffix("10"))  # type: ignore[arg-type]
        place.chmod(0o700)


def test_an_image_that_links_repeat_counts_once(
    tmp_path: Path, files: Any, caplog: pytest.LogCaptureFixture
) -> None:
    files.write_folder(tmp_path / "disk")
    files.write_folder(tmp_path / "data", classes=("bee", "cat"))
    (tmp_path / "data/train/ant").symlink_to(tmp_path / "disk/train/ant")
    (tmp_path / "data/val/ant").symlink_to(tmp_path / "disk/val/ant")
    (tmp_path / "data/train/bee/link.png").symlink_to(tmp_path / "disk/train/bee/0.png")
    assert len(load_data("folder", tmp_path / "data").train) == 13
    assert not caplog.messages
    (tmp_path / "data/train/bee/00.png").symlink_to(tmp_path / "data/train/bee/1.png")
    (tmp_path / "data/train/ant/more.png").symlink_to("2.png")
    with caplog.at_level(logging.WARNING):
        assert len(load_data("folder", tmp_path / "data").train) == 13
    assert "left out 2 links to images that are there already" in caplog.text
    (tmp_path / "data/train/cat/ant.png").symlink_to(tmp_path / "disk/train/ant/0.png")
    with pytest.raises(DataError, match=r"cat/ant\.png: it is the same file as .*ant/0\.png"):
        load_data("folder", tmp_path / "data")


def test_a_home_directory_is_written_as_a_tilde(
    tmp_path: Path, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    files.write_folder(tmp_path / "data", count=1)
    data = load_data("folder", "~/data", storage="disk", cache_dir="~/caches")
    assert len(data.train) == 3
    assert len(list((tmp_path / "caches").iterdir())) == 2


def test_names_that_are_no_utf8_are_read_kept_and_told(
    tmp_path: Path, files: Any, cifar: Any
) -> None:
    odd = os.fsdecode(b"caf\xe9")
    root = tmp_path / odd
    files.write_folder(root, classes=(odd, "bee"), count=1)
    (root / "train" / "bee" / "0.png").rename(root / "train" / "bee" / f"{odd}.png")
    for _ in range(2):
        data = load_data("folder", root, storage="disk")
        assert data.train.classes == ("bee", "caf\\udce9")
        assert " ".join([data.train.name, *data.train.classes]).encode("utf-8")
    (root / "train" / "bee" / f"{odd}.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"bee/caf\\udce9\.png: cannot be decoded") as caught:
        load_data("folder", root)
    assert str(caught.value).encode("utf-8")
    (tmp_path / "cifar").mkdir()
    cifar.write_parquet(tmp_path / "plain").rename(tmp_path / "cifar" / odd)
    assert len(load_data("cifar10", tmp_path / "cifar", storage="disk").train) == 25
    cifar.write_bin(tmp_path / "bin" / odd)
    assert len(load_data("cifar10", tmp_path / "bin").train) == 25
