"""Labelled images as uint8 tensors, checked and decoded once, with batched augmentation on the device; or any
map-style Datasets of the user's own; or images that an index finds, decoded when they are needed.
"""

from __future__ import annotations

from dynams.data.augmentation import Augmentation, augment
from dynams.data.datasets import DatasetData
from dynams.data.errors import DataError
from dynams.data.images import ImageData, ImageSet
from dynams.data.indexed import IndexedImages
from dynams.data.load import DataName, load_data
from dynams.data.normalisation import normalise
from dynams.data.packing import write_shards
from dynams.data.storage import Storage

__all__ = [
    "Augmentation",
    "DataError",
    "DataName",
    "DatasetData",
    "ImageData",
    "ImageSet",
    "IndexedImages",
    "Storage",
    "augment",
    "load_data",
    "normalise",
    "write_shards",
]
