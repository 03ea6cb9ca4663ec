"""The embedded digits."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dynams.data import Augmentation, load_data


def test_digits_are_scaled_to_bytes_by_rounding_and_none_is_lost() -> None:
    data = load_data("digits")
    original = load_digits()
    assert data.train.images.shape == (len(data.train), 1, 8, 8)
    assert data.train.images.dtype == torch.uint8
    expected = np.floor(original.images * 255 / 16 + 0.5).astype(np.uint8).reshape(-1, 64)
    got = torch.cat([data.train.images, data.test.images]).reshape(-1, 64).numpy()
    assert len(got) == 1797
    labelled = np.c_[expected, original.target]
    labels = torch.cat([data.train.labels, data.test.labels]).numpy()
    rows = {row.tobytes() for row in labelled.astype(np.int64)}
    assert {row.tobytes() for row in np.c_[got, labels].astype(np.int64)} == rows
    assert (data.train.images.max(), data.train.images.min()) == (255, 0)


def test_split_is_always_the_same_disjoint_and_stratified() -> None:
    first, second = load_data("digits"), load_data("digits", seed=3)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)
    assert len(first.train) + len(first.test) == 1797
    counts = torch.bincount(torch.cat([first.train.labels, first.test.labels]))
    assert torch.equal(torch.bincount(first.test.labels), counts // 5)
    train = {image.numpy().tobytes() for image in first.train.images}
    assert not any(image.numpy().tobytes() in train for image in first.test.images)


def test_digits_are_not_mirrored_and_hardly_shifted() -> None:
    data = load_data()
    assert data.augmentation == Augmentation(crop_padding=1, flip=False)
    assert data.train.classes == tuple("0123456789")
    assert data.num_classes == 10


def test_statistics_are_those_of_the_training_images() -> None:
    data = load_data("digits")
    pixels = data.train.images.numpy().astype(np.float64) / 255
    assert data.mean == pytest.approx([pixels.mean()], rel=1e-14)
    assert data.std == pytest.approx([pixels.std()], rel=1e-13)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"scikit-learn is .* pip install scikit-learn$"):
        load_data("digits")
