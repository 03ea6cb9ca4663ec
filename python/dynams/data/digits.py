"""The handwritten digits that come with scikit-learn: real data with nothing to download.

1,797 images of 8 x 8 pixels in 17 shades of grey. (E. Alpaydin and C. Kaynak, Optical Recognition of
Handwritten Digits, UCI Machine Learning Repository, 1998.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dynams.data.augmentation import Augmentation
from dynams.data.errors import DataError
from dynams.data.source import Bytes, Rows, Source, Sources
from dynams.packages import needed

_SHADES = 16
_EVERY = 5


def digits() -> Sources:
    """Split the digits, always alike: of every class each fifth image is for testing.

    Raises:
        ImportError: scikit-learn is not installed.
        DataError: the installed copy is not the one known.
    """
    loaded = needed("sklearn.datasets", "scikit-learn").load_digits()
    shades = np.asarray(loaded.images)
    labels = np.asarray(loaded.target).astype(np.int64)
    if shades.shape != (len(labels), 8, 8) or not np.isin(shades, np.arange(_SHADES + 1)).all():
        raise DataError(
            f"digits: got images of shape {shades.shape} from scikit-learn, want (N, 8, 8) with "
            f"whole numbers from 0 to {_SHADES}"
        )
    # v * 255 / 16 rounded to the nearest, in whole numbers.
    images = ((shades.astype(np.int64) * 255 + _SHADES // 2) // _SHADES).astype(np.uint8)[:, None]
    place = np.empty(len(labels), np.int64)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        place[members] = np.arange(len(members))
    testing = place % _EVERY == _EVERY - 1
    return Sources(
        train=_source("digits train", images[~testing], labels[~testing]),
        test=_source("digits test", images[testing], labels[testing]),
        augmentation=Augmentation(crop_padding=1, flip=False),
    )


def _source(name: str, images: Bytes, labels: Rows) -> Source:
    def chunks(rows: Rows) -> Iterator[Bytes]:
        yield images[rows]

    return Source(
        name=name,
        classes=tuple("0123456789"),
        labels=labels,
        shape=(1, 8, 8),
        chunks=chunks,
    )
