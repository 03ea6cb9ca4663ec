"""Arguments of load_data, what is imported when, and the containers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynams.data import Augmentation, DataError, ImageData, ImageSet, augment, load_data, normalise


def image_set(count: int = 6, device: str = "cpu", **changes: Any) -> ImageSet:
    parts: dict[str, Any] = {
        "images": torch.arange(count * 3 * 4 * 5).remainder(256).to(torch.uint8).view(-1, 3, 4, 5),
        "labels": torch.arange(count) % 3,
        "classes": ("a", "b", "c"),
        "name": "letters",
    }
    parts.update(changes)
    return ImageSet(**parts).to(device)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("mnist",), {}, r"name: got 'mnist', want one of digits, cifar10, folder"),
        (("digits", "."), {}, r"path: got \., want None for digits"),
        (("cifar10",), {}, r"path: got None, want the directory that holds the data of cifar10"),
        (("folder",), {}, r"path: got None"),
        (("digits",), {"limit": 0}, r"limit: got 0, want at least 1"),
        (("digits",), {"limit": 9, "seed": -1}, r"seed: got -1, want at least 0"),
        (("digits",), {"classes": ["3", "x"]}, r"classes: got 'x', want one of 0, 1"),
        (("digits",), {"classes": ["3"]}, r"classes: got \['3'\], want at least two"),
        (("digits",), {"classes": ["3", "3"]}, r"classes: got .*, each of them once"),
        (("digits",), {"image_size": 8}, r"image_size: got 8, want None for digits"),
        (("folder", "."), {"image_size": 0}, r"image_size: got 0, want at least 1"),
        (("digits",), {"storage": "cloud"}, r"storage: got 'cloud'"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_data(*arguments, **options)
    assert not isinstance(caught.value, DataError)
    with pytest.raises(TypeError, match=r"limit: got 1\.5"):
        load_data("digits", limit=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"seed: got '1', want a whole number"):
        load_data("digits", seed="1")  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [None, 7])
def test_chosen_classes_are_as_if_there_were_no_others(limit: int | None) -> None:
    every, chosen = load_data("digits"), load_data("digits", classes=["7", "3"], limit=limit)
    assert chosen.train.classes == chosen.test.classes == ("3", "7")
    for one, part, most in (
        (every.train, chosen.train, limit),
        (every.test, chosen.test, None),
    ):
        labels = one.labels.numpy()
        rows = np.flatnonzero((labels == 3) | (labels == 7))[:most]
        assert np.array_equal(part.images.numpy(), one.images.numpy()[rows])
        assert np.array_equal(part.labels.numpy(), (labels[rows] == 7).astype(np.int64))
    pixels = chosen.train.images.numpy().astype(np.float64) / 255
    assert chosen.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-12)
    assert chosen.std == pytest.approx(pixels.std((0, 2, 3)), abs=1e-12)


def test_chosen_classes_of_a_folder_are_limited_class_by_class_and_cached(
    tmp_path: Path, files: Any
) -> None:
    files.write_folder(tmp_path / "data")
    names = load_data("folder", tmp_path / "data").train.classes
    options: dict[str, Any] = {"classes": names[:2], "limit": 2}
    chosen = load_data("folder", tmp_path / "data", **options)
    assert chosen.train.labels.tolist() == [0, 1]
    for _ in range(2):
        kept = load_data("folder", tmp_path / "data", storage="disk", **options)
        assert torch.equal(kept.train.images, chosen.train.images)
        assert torch.equal(kept.test.labels, chosen.test.labels)


@pytest.mark.parametrize("name", ["cifar10", "folder"])
def test_a_missing_path_is_told(tmp_path: Path, name: Any) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such directory; looked for the data of"):
        load_data(name, tmp_path / "nowhere")


def test_no_known_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    expected = (
        r"none of the known files found; looked for CIFAR-10 as train-\*\.parquet .*"
        r"data_batch_1\.bin .*cifar-10-batches-py\); found parquet files of other names: data\.parquet"
    )
    with pytest.raises(DataError, match=expected):
        load_data("cifar10", tmp_path)
    with pytest.raises(
        DataError, match=r"readme\.txt: got a file, want a directory; looked for the data of"
    ):
        load_data("cifar10", tmp_path / "readme.txt")
    with pytest.raises(DataError, match=r"train: no such directory; looked for train/<class>"):
        load_data("folder", tmp_path)


@pytest.mark.parametrize("name", ["digits", "cifar10", "folder"])
def test_another_default_device_and_numpy_numbers_change_nothing(
    tmp_path: Path, files: Any, cifar: Any, name: Any
) -> None:
    path = {"cifar10": tmp_path, "folder": tmp_path}.get(name)
    if name == "cifar10":
        cifar.write_parquet(tmp_path)
    if name == "folder":
        files.write_folder(tmp_path)
    size = 8 if name == "folder" else None
    for storage in ("host", "disk"):
        expected = load_data(name, path, limit=6, image_size=size, storage=storage)
        torch.set_default_device("meta")
        try:
            data = load_data(
                name,
                path,
                limit=np.int64(6),  # type: ignore[arg-type]
                image_size=None if size is None else np.int32(size),  # type: ignore[arg-type]
                storage=storage,
                cache_dir=tmp_path / "caches",
            )
            batch, generator = data.train.images[:2], torch.Generator("cpu")
            varied = augment(batch, Augmentation(np.int64(1), True), generator)  # type: ignore[arg-type]
            values = normalise(varied, data.mean, (0.123, *data.std[1:]))
        finally:
            torch.set_default_device(None)
        assert torch.equal(data.train.images, expected.train.images)
        assert torch.equal(data.test.labels, expected.test.labels)
        assert (data.mean, data.std) == (expected.mean, expected.std)
        assert values.shape == batch.shape
        assert values.device.type == "cpu"


def run_without(modules: str, code: str) -> subprocess.CompletedProcess[str]:
    script = (
        f"import sys\nfor name in {modules!r}.split(): sys.modules[name] = None\n"
        "import torch\ntorch.set_num_threads(1)\n" + code
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


def test_packages_are_imported_only_where_they_are_needed(tmp_path: Path, cifar: Any) -> None:
    cifar.write_bin(tmp_path)
    done = run_without(
        "PIL pyarrow sklearn",
        "from dynams.data import load_data\n"
        f"print(len(load_data('cifar10', {str(tmp_path)!r}).train))",
    )
    assert done.stdout == "25\n", done.stderr


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("cifar10", "pyarrow", "pyarrow"),
        ("cifar10", "PIL", "Pillow"),
        ("folder", "PIL", "Pillow"),
        ("digits", "sklearn", "scikit-learn"),
    ],
)
def test_a_missing_package_says_what_to_install(
    tmp_path: Path,
    cifar: Any,
    files: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: Any,
    module: str,
    package: str,
) -> None:
    path = None
    if name == "cifar10":
        path = cifar.write_parquet(tmp_path)
    if name == "folder":
        files.write_folder(tmp_path)
        path = tmp_path
    for loaded in [key for key in sys.modules if key.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, loaded, None)
    expected = rf"^{package} is not installed: pip install {package.lower()}$"
    with pytest.raises(ImportError, match=expected):
        load_data(name, path)


def test_a_set_must_agree_with_itself() -> None:
    images = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"images: got dtype torch\.float32, want uint8"):
        image_set(images=images.float(), labels=labels)
    with pytest.raises(TypeError, match=r"labels: got dtype torch\.int32, want int64"):
        image_set(images=images, labels=labels.int())
    with pytest.raises(ValueError, match=r"images: got shape \(3, 4, 5\)"):
        image_set(images=images[0], labels=labels)
    with pytest.raises(ValueError, match=r"labels: got shape \(3,\), want \(2,\)"):
        image_set(images=images, labels=torch.zeros(3, dtype=torch.int64))
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=r"labels: got values from .* want 0 to 2"):
            image_set(images=images, labels=torch.tensor([0, wrong]))
    with pytest.raises(ValueError, match=r"labels: got device meta"):
        image_set(images=images, labels=labels.to("meta"))


def test_a_batch_holds_the_samples_asked_for_in_order(device: str) -> None:
    images = image_set(device=device)
    indices = torch.tensor([4, 0, 4, 5], device=device)
    for wanted in (None, device):
        got, labels = images.batch(indices, wanted)
        assert torch.equal(got, images.images[indices])
        assert torch.equal(labels, images.labels[indices])
        assert got.device == images.images.device
    subset = images.subset(indices.cpu())
    assert len(subset) == 4
    assert torch.equal(subset.images, images.images[indices])
    assert subset.name == images.name
    assert images.to(device).images is images.images


def test_a_data_set_must_agree_with_itself() -> None:
    train = image_set()
    augmentation = Augmentation()
    ok = ImageData(train, image_set(2), (0.5,) * 3, (0.2,) * 3, augmentation)
    assert ok.num_classes == 3
    assert ok.to("cpu").train.images is train.images
    other = image_set(2, images=torch.zeros(2, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"test: got images of shape \(3, 2, 2\)"):
        ImageData(train, other, (0.5,) * 3, (0.2,) * 3, augmentation)
    other = image_set(2, classes=("x", "y", "z"))
    with pytest.raises(ValueError, match="test: got other classes, want those of train"):
        ImageData(train, other, (0.5,) * 3, (0.2,) * 3, augmentation)
    with pytest.raises(ValueError, match="mean: got 1 values, want one for each of 3"):
        ImageData(train, train, (0.5,), (0.2,) * 3, augmentation)
    with pytest.raises(ValueError, match=r"std: got .* want positive"):
        ImageData(train, train, (0.5,) * 3, (0.2, 0.0, 0.2), augmentation)
