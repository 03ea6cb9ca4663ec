"""Room for decoded images: asked for before anything is decoded, and told where there is none."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynams.data import DataError, load_data
from dynams.data.cache import DIRECTORY
from dynams.data.source import Bytes, Rows, Source
from dynams.data.storage import store
from dynams.files import aside

try:
    import resource
except ImportError:  # Not on every system.
    resource = None  # type: ignore[assignment]

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, files: Any) -> Path:
    files.write_folder(tmp_path / "data")
    return tmp_path / "data"


def caches(folder: Path) -> list[Path]:
    return sorted((folder / DIRECTORY).glob("*"))


def leftover(folder: Path) -> Path:
    """What a killed run of this version leaves beside the caches in ``folder``."""
    part = aside(folder / "data-train.images")
    part.write_bytes(b"half")
    return part


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path, folder: Path) -> None:
    caches_dir = tmp_path / "caches"
    caches_dir.mkdir()
    part = leftover(caches_dir)
    load_data("folder", folder, cache_dir=caches_dir)
    assert not part.exists()
    assert len(list(caches_dir.iterdir())) == 2


def test_room_for_both_splits_is_asked_for_before_any_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "train/cat/3.png").write_bytes(b"damaged")  # It would be told if it was decoded.
    usage = shutil.disk_usage(folder)
    one_split = 12 * 3 * 12 * 12
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=one_split + 100))
    with pytest.raises(DataError, match=r"\.dynams-cache: .* do not fit"):
        load_data("folder", folder, storage="disk")
    assert caches(folder) == []


@pytest.mark.skipif(resource is None, reason="this system has no limits on files")
def test_a_limit_on_files_is_told_before_decoding_and_nothing_is_left(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (folder / "train/cat/3.png").write_bytes(b"damaged")  # It would be told if it was decoded.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(DataError) as caught:
            load_data("folder", folder, storage="disk")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "data-train-3x12x12" in str(caught.value)
    assert "cannot be kept there: File too large; name another directory" in str(caught.value)
    assert caches(folder) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fills_up_is_told_and_nothing_is_left(folder: Path, number: int) -> None:
    def chunks(rows: Rows) -> Iterator[Bytes]:
        yield np.zeros((1, 1, 2, 2), np.uint8)
        raise OSError(number, os.strerror(number))

    file = folder / "train/ant/0.png"
    source = Source(
        "made up", ("a", "b"), np.zeros(2, np.int64), (1, 2, 2), chunks, (file,), folder
    )
    with pytest.raises(DataError, match=rf"made-up.*images: .* kept there: {os.strerror(number)};"):
        store(source, np.arange(2), "disk", CPU, None)
    assert caches(folder) == []


def test_images_beyond_all_memory_are_told(folder: Path) -> None:
    def chunks(rows: Rows) -> Iterator[Bytes]:
        raise AssertionError("nothing is decoded")

    shape = (3, 1 << 24, 1 << 24)
    source = Source("made up", ("a", "b"), np.zeros(2, np.int64), shape, chunks)
    with pytest.raises(DataError, match=r"GiB of images do not fit in .* cpu; data.storage disk"):
        store(source, np.arange(2), "host", CPU, None)
