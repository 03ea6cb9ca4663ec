"""Where images are kept, and the cache of decoded images on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynams.data import DataError, ImageData, IndexedImages, load_data
from dynams.data import cache as cache_module
from dynams.data import storage as storage_module
from dynams.data.memory import HostMemory
from dynams.data.storage import choose_place

GIB = 1 << 30
CUDA = torch.device("cuda")
CPU = torch.device("cpu")


Free = Callable[[int | None, int | None], HostMemory]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Free:
    """Set what is free on the device, and give a host with what is free there; None: it does not tell."""

    def set_free(on_device: int | None, on_host: int | None) -> HostMemory:
        monkeypatch.setattr(storage_module, "free_on_device", lambda device: on_device)
        (tmp_path / "proc").mkdir(exist_ok=True)
        told = "" if on_host is None else f"MemAvailable: {on_host // 1024} kB"
        (tmp_path / "proc/meminfo").write_text(told)
        return HostMemory(tmp_path, processes=1)

    return set_free


def assert_equal(first: ImageData, second: ImageData) -> None:
    for one, other in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(one.images.cpu(), other.images.cpu())
        assert torch.equal(one.labels.cpu(), other.labels.cpu())
        assert one.classes == other.classes
    assert (first.mean, first.std) == (second.mean, second.std)


@pytest.mark.parametrize(
    ("size", "on_device", "on_host", "device", "place"),
    [
        (4 * GIB, 8 * GIB, 64 * GIB, CUDA, "device"),
        (5 * GIB, 8 * GIB, 64 * GIB, CUDA, "host"),
        (5 * GIB, 8 * GIB, 9 * GIB, CUDA, "disk"),
        (GIB, None, 64 * GIB, torch.device("mps"), "device"),
        (GIB + 1, None, 64 * GIB, torch.device("mps"), "host"),
        (5 * GIB, 64 * GIB, 10 * GIB, CPU, "host"),
        (5 * GIB, 64 * GIB, 9 * GIB, CPU, "disk"),
        (2 * GIB, None, None, CPU, "disk"),
        (GIB, None, None, CPU, "host"),
    ],
)
def test_the_fastest_place_that_leaves_half_is_taken(
    free: Free,
    size: int,
    on_device: int | None,
    on_host: int | None,
    device: torch.device,
    place: str,
) -> None:
    assert choose_place("auto", size, device, free(on_device, on_host)) == place


def test_an_explicit_place_is_kept_or_refused(free: Free) -> None:
    host = free(8 * GIB, 4 * GIB)
    assert choose_place("device", 8 * GIB, CUDA, host) == "device"
    assert choose_place("host", 4 * GIB, CUDA, host) == "host"
    assert choose_place("device", 4 * GIB, CPU, host) == "host"
    assert choose_place("disk", 1 << 60, CUDA, host) == "disk"
    with pytest.raises(
        ValueError, match=r"storage: got 'device' for 9\.0 GiB .*, want .*: 8\.0 GiB are free"
    ):
        choose_place("device", 9 * GIB, CUDA, host)
    with pytest.raises(
        ValueError,
        match=r"storage: got 'host' for 5\.0 GiB .*: 4\.0 GiB are free; data\.storage disk",
    ):
        choose_place("host", 5 * GIB, CUDA, host)
    with pytest.raises(ValueError, match=r"storage: got 'tape', want one of auto, device, host"):
        choose_place("tape", 1, CPU, host)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["digits", "cifar10", "folder"])
@pytest.mark.parametrize("limit", [None, 6])
def test_every_storage_gives_the_same_data(
    tmp_path: Path, files: Any, cifar: Any, device: str, name: Any, limit: int | None
) -> None:
    path = None
    if name == "cifar10":
        path = cifar.write_parquet(tmp_path / "data")
    if name == "folder":
        files.write_folder(tmp_path / "data")
        path = tmp_path / "data"
    options: dict[str, Any] = {"limit": limit, "device": device}
    expected = load_data(name, path, limit=limit)
    for storage in ("auto", "device", "host", "disk"):
        for cache_dir in (None, tmp_path / "caches"):
            for _ in range(2):
                data = load_data(name, path, storage=storage, cache_dir=cache_dir, **options)
                assert_equal(data, expected)
                kept = device if storage in ("auto", "device") else "cpu"
                assert data.train.images.device.type == kept
                assert data.train.labels.device.type == kept


@pytest.fixture
def folder(tmp_path: Path, files: Any) -> Path:
    files.write_folder(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the splits that were decoded into a cache."""
    names: list[str] = []
    build = cache_module._build

    def noted(file: Path, source: Any, *rest: Any) -> None:
        names.append(source.name)
        build(file, source, *rest)

    monkeypatch.setattr(cache_module, "_build", noted)
    return names


def caches(directory: Path) -> list[Path]:
    return sorted((directory / cache_module.DIRECTORY).iterdir())


def test_a_cache_beside_the_data_is_made_once_and_holds_the_bytes(
    folder: Path, decoded: list[str]
) -> None:
    data = load_data("folder", folder, storage="disk")
    assert decoded == ["data train", "data test"]
    again = load_data("folder", folder, storage="disk")
    assert decoded == ["data train", "data test"]
    assert_equal(data, again)
    held = {file.name.split("-")[1]: file.read_bytes() for file in caches(folder)}
    assert held["train"].startswith(data.train.images.numpy().tobytes())
    assert held["test"].startswith(data.test.images.numpy().tobytes())


def test_a_cache_directory_serves_every_storage(
    tmp_path: Path, folder: Path, decoded: list[str]
) -> None:
    expected = load_data("folder", folder)
    for storage in ("host", "disk", "auto"):
        data = load_data("folder", folder, storage=storage, cache_dir=tmp_path / "caches")  # type: ignore[arg-type]
        assert_equal(data, expected)
    assert decoded == ["data train", "data test"]
    assert not (folder / cache_module.DIRECTORY).exists()


def test_sizes_limits_and_directories_have_caches_of_their_own(
    tmp_path: Path, folder: Path, files: Any, decoded: list[str]
) -> None:
    files.write_folder(tmp_path / "caf\udce9" / "data", seed=1)
    variants: list[tuple[Path, dict[str, Any]]] = [
        (folder, {}),
        (folder, {"image_size": 8}),
        (folder, {"limit": 5}),
        (folder, {"limit": 5, "seed": 2}),
        (tmp_path / "caf\udce9" / "data", {}),
    ]
    for _ in range(2):
        for path, options in variants:
            data = load_data("folder", path, storage="disk", cache_dir=tmp_path / "c", **options)
            assert_equal(data, load_data("folder", path, **options))
    # The limits share one cache of the test images.
    assert (decoded.count("data train"), decoded.count("data test")) == (5, 3)


def test_a_changed_file_makes_the_cache_stale(folder: Path, files: Any, decoded: list[str]) -> None:
    before = load_data("folder", folder, storage="disk").train.images.clone()
    file = folder / "train/ant/0.png"
    files_before = caches(folder)
    file.write_bytes(files.encode(np.zeros((12, 12, 3), np.uint8)))
    os.utime(file, ns=(1, 1))
    after = load_data("folder", folder, storage="disk")
    assert decoded == ["data train", "data test", "data train"]
    assert not after.train.images[0].any()
    assert torch.equal(after.train.images[1:], before[1:])
    assert caches(folder) == files_before


def test_a_renamed_or_touched_file_makes_the_cache_stale(folder: Path, decoded: list[str]) -> None:
    load_data("folder", folder, storage="disk")
    os.utime(folder / "val/ant/0.png", ns=(5, 5))
    load_data("folder", folder, storage="disk")
    (folder / "val/cat/3.png").rename(folder / "val/cat/4.png")
    load_data("folder", folder, storage="disk")
    assert decoded == ["data train", "data test", "data test", "data test"]


def test_an_image_that_is_not_there_is_named(folder: Path) -> None:
    link = folder / "val/cat/9.png"
    link.symlink_to("nowhere.png")
    for storage in ("host", "disk"):
        with pytest.raises(DataError, match=r"9\.png: got a link to nowhere.*, want an image"):
            load_data("folder", folder, storage=storage)


def test_a_folder_of_the_longest_name_is_kept(
    tmp_path: Path, files: Any, decoded: list[str]
) -> None:
    long = tmp_path / ("x" * 255)
    files.write_folder(long)
    for _ in range(2):
        load_data("folder", long, storage="disk")
    assert decoded == [f"{long.name} train", f"{long.name} test"]
    assert len(IndexedImages(long, index_dir=tmp_path / "kept")) == 12


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def cut_images(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def unfinished(file: Path) -> None:
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: size // 2] + b"\0" * (size - size // 2))


def spoil_footer(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"?")


def spoil_trailer(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'{"key"', b'{"kez"'))


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        cut_images,
        lengthen,
        unfinished,
        spoil_footer,
        spoil_trailer,
        lambda file: file.write_bytes(b""),
    ],
    ids=[
        "cut",
        "cut images",
        "lengthened",
        "unfinished",
        "spoilt footer",
        "spoilt trailer",
        "empty",
    ],
)
def test_a_torn_cache_is_made_anew(
    folder: Path, damage: Callable[[Path], Any], decoded: list[str]
) -> None:
    expected = load_data("folder", folder)
    load_data("folder", folder, storage="disk")
    for file in caches(folder):
        damage(file)
    assert_equal(load_data("folder", folder, storage="disk"), expected)
    assert decoded == ["data train", "data test"] * 2


def test_a_damaged_image_leaves_no_cache_behind(folder: Path) -> None:
    (folder / "train/cat/3.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"cat/3\.png: cannot be decoded"):
        load_data("folder", folder, storage="disk")
    assert caches(folder) == []


def test_an_interruption_keeps_the_old_cache_and_leaves_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_data("folder", folder, storage="disk")
    before = {file: file.read_bytes() for file in caches(folder)}
    os.utime(folder / "train/ant/0.png", ns=(1, 1))

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_data("folder", folder, storage="disk")
    assert {file: file.read_bytes() for file in caches(folder)} == before


def test_writing_to_mapped_images_changes_no_file(folder: Path) -> None:
    data = load_data("folder", folder, storage="disk")
    kept = data.train.images.clone()
    data.train.images.zero_()
    assert torch.equal(load_data("folder", folder, storage="disk").train.images, kept)


def test_a_mapped_set_outlives_its_file_being_replaced(folder: Path) -> None:
    data = load_data("folder", folder, storage="disk")
    kept = load_data("folder", folder).train.images
    shutil.rmtree(folder / cache_module.DIRECTORY)
    assert torch.equal(data.train.images, kept)


def test_a_place_that_cannot_be_written_or_is_full_is_named(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/caches: .* cannot be kept there: .*data\.cache DIR"):
        load_data("folder", folder, storage="disk", cache_dir=tmp_path / "file" / "caches")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(DataError, match=r"do not fit, 0\.0 KiB are free; .*data\.cache DIR"):
        load_data("folder", folder, storage="disk")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_host_images_of_a_cuda_device_are_page_locked() -> None:
    data = load_data("digits", storage="host", device="cuda")
    assert data.train.images.is_pinned()
    images, labels = data.train.batch(torch.tensor([3, 1]), "cuda")
    assert torch.equal(images.cpu(), data.train.images[[3, 1]])
    assert torch.equal(labels.cpu(), data.train.labels[[3, 1]])
