"""On what bench/gpu.sh trains: sizes, images, configurations, and the log that a run leaves.

CIFAR-10 is read from $DYNAMS_CIFAR10; noise of its size stands for it where that is unset, which costs the accuracy alone. The trainer is
imported where it is used: what cannot be imported costs one part.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynams.data import ImageData
    from dynams.report import Summary
    from dynams.report.records import Run
    from dynams.training import TrainConfig

# What only shows a run, and is left out where its package is missing.
SHOWN = {"report": "matplotlib", "tensorboard": "tensorboard", "progress": "rich"}

Sections = dict[str, dict[str, Any]]
# What was found, its value, and the unit: "s", "share", "images/s" or nothing.
Found = list[tuple[str, float | str, str]]


class NotHereError(Exception):
    """A part that cannot run here, and why."""


@dataclass(frozen=True)
class Sizes:
    """How much is trained. Every step, batch scored and batch evaluated has the same size: cuDNN tries its algorithms once."""

    images: int = 50_000
    batch: int = 500
    small_images: int = 10_000
    small_batch: int = 125
    digits_epochs: int = 30
    channels: int | None = None


TINY = Sizes(images=60, batch=10, small_images=40, small_batch=10, digits_epochs=3, channels=4)


@dataclass
class Bench:
    """Where and on what the parts run."""

    device: str
    sizes: Sizes
    folder: Path
    _images: ImageData | None = None

    def config(self, *layers: Sections) -> TrainConfig:
        """A configuration that shows nothing; later layers change earlier ones."""
        from dynams.training import TrainConfig

        quiet = dict.fromkeys(SHOWN, False)
        merged: Sections = {"run": {"dir": str(self.folder), "accelerator": self.device, **quiet}}
        for layer in layers:
            for section, values in layer.items():
                merged.setdefault(section, {}).update(values)
        return TrainConfig.from_dict(merged)

    @property
    def real(self) -> bool:
        """Whether there is CIFAR-10."""
        return bool(os.environ.get("DYNAMS_CIFAR10"))

    def images(self, count: int) -> ImageData:
        """The first of CIFAR-10's images, or some of their size, on the device."""
        import torch

        from dynams.data import load_data

        if self._images is None:
            self._images = (
                load_data(
                    "cifar10",
                    os.environ["DYNAMS_CIFAR10"],
                    limit=self.sizes.images,
                    storage="device" if self.device == "cuda" else "host",
                    device=self.device,
                )
                if self.real
                else made_up(self.sizes.images, 32, 10, self.device)
            )
        if count == self.sizes.images:
            return self._images
        return replace(self._images, train=self._images.train.subset(torch.arange(count)))


def made_up(count: int, side: int, classes: int, device: str) -> ImageData:
    """Noise, a fifth as many images to test on."""
    import torch

    from dynams.data import Augmentation, ImageData, ImageSet

    draw = torch.Generator(device).manual_seed(0)
    channels = 3 if side == 32 else 1

    def split(size: int, name: str) -> ImageSet:
        pixels = torch.randint(
            0, 256, (size, channels, side, side), dtype=torch.uint8, device=device, generator=draw
        )
        labels = torch.arange(size, device=device) % classes
        return ImageSet(pixels, labels, tuple(map(str, range(classes))), name)

    return ImageData(
        split(count, "noise"),
        split(max(classes, count // 5), "other noise"),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        augmentation=Augmentation(crop_padding=1, flip=False),
    )


def log_of(summary: Summary) -> Run:
    """What a run wrote down. Raises AssertionError where it did not end well."""
    from dynams.report.runlog import read_run

    run = read_run(summary.run_dir)
    assert summary.completed, "the run did not complete"
    losses = [record.loss for record in run.epochs]
    assert all(map(math.isfinite, losses)), f"losses {losses}"
    return run
