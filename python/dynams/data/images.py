"""Images and labels in memory: one split (`ImageSet`) and a whole data set (`ImageData`).

Images stay uint8 in (N, C, H, W) order wherever they are kept; a batch becomes floating point only
after it has reached the training device, so four to eight times fewer bytes are moved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dynams.data.augmentation import Augmentation


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split of a data set.

    Attributes:
        images: (N, C, H, W) uint8, on the training device, in host memory or mapped from a file.
        labels: (N,) int64 in [0, number of classes), on the device of ``images``.
        classes: name of every class; a label is a position in it.
        name: what the images are, for messages ("cifar10 train").

    Raises:
        TypeError: wrong dtype. ValueError: wrong shape, lengths or devices that differ, or a label
            outside the classes.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8:
            raise TypeError(f"images: got dtype {self.images.dtype}, want uint8")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels: got dtype {self.labels.dtype}, want int64")
        if self.images.dim() != 4:
            raise ValueError(f"images: got shape {tuple(self.images.shape)}, want (N, C, H, W)")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: got shape {tuple(self.labels.shape)}, want ({self.images.shape[0]},)"
            )
        if self.labels.device != self.images.device:
            raise ValueError(
                f"labels: got device {self.labels.device}, want that of images, "
                f"{self.images.device}"
            )
        if len(self) and not self.labels.is_meta:
            low, high = torch.stack(torch.aminmax(self.labels)).tolist()
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"labels: got values from {low} to {high}, want 0 to {len(self.classes) - 1}"
                )

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str) -> ImageSet:
        """Move images and labels to ``device``; nothing already there is copied."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor) -> ImageSet:
        """Copy the samples ``indices`` (K,) int64, in that order."""
        where = indices.to(self.images.device)
        return replace(
            self,
            images=self.images.index_select(0, where),
            labels=self.labels.index_select(0, where),
        )

    def batch(
        self, indices: Tensor, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gather the images (B, C, H, W) uint8 and labels (B,) int64 of some samples.

        Args:
            indices: (B,) int64; best where the images are kept: moving them there waits.
            device: where they are wanted; None: where the images are kept. From host memory to a
                CUDA device they are gathered into page-locked memory and copied without waiting.
        """
        kept = self.images.device
        wanted = kept if device is None else torch.device(device)
        where = indices.to(kept)
        staged = kept.type == "cpu" and wanted.type == "cuda"
        picked = [
            torch.index_select(
                tensor,
                0,
                where,
                out=torch.empty(
                    (where.shape[0], *tensor.shape[1:]),
                    dtype=tensor.dtype,
                    device=kept,
                    pin_memory=staged,
                ),
            )
            for tensor in (self.images, self.labels)
        ]
        images, labels = (tensor.to(wanted, non_blocking=True) for tensor in picked)
        return images, labels


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set ready to train on.

    Attributes:
        train: what is trained on.
        test: what accuracy is measured on; same classes, same image shape.
        mean: mean of each channel of ``train`` over all pixels, in [0, 1] units.
        std: standard deviation of each channel of ``train`` likewise; 1 for a constant channel.
        augmentation: how training images of this kind are sensibly varied.

    Raises:
        ValueError: the splits differ in classes or image shape, or ``mean`` and ``std`` do not have
            one positive entry for each channel.
    """

    train: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation

    def __post_init__(self) -> None:
        shape = self.train.images.shape[1:]
        if self.test.images.shape[1:] != shape:
            raise ValueError(
                f"test: got images of shape {tuple(self.test.images.shape[1:])}, want those of "
                f"train, {tuple(shape)}"
            )
        if self.test.classes != self.train.classes:
            raise ValueError("test: got other classes, want those of train")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != shape[0]:
                raise ValueError(
                    f"{name}: got {len(values)} values, want one for each of {shape[0]} channels"
                )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std: got {self.std}, want positive values")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.train.classes)

    def to(self, device: torch.device | str) -> ImageData:
        """Move both splits to ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))
