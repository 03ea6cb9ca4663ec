"""Small runs that the training tests share: made-up images, a tiny network, runs compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dynams.data import Augmentation, ImageData, ImageSet
from dynams.training.config import TrainConfig
from dynams.training.interrupt import Interrupt

CLASSES = ("dark", "left", "right")


def made_up_images(count: int, seed: int) -> ImageSet:
    """Noisy pictures of three kinds, 8 x 8, easy but not at once."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=random)
    pixels = torch.randint(0, 120, (count, 1, 8, 8), generator=random)
    pixels[labels == 1, :, :, :4] += 70
    pixels[labels == 2, :, :, 4:] += 70
    return ImageSet(pixels.to(torch.uint8), labels, CLASSES, f"made up {seed}")


def made_up_data(train: int = 50, test: int = 30) -> ImageData:
    return ImageData(
        made_up_images(train, 1),
        made_up_images(test, 2),
        mean=(0.35,),
        std=(0.25,),
        augmentation=Augmentation(crop_padding=1, flip=False),
    )


def small_config(folder: Path, **sections: dict[str, Any]) -> TrainConfig:
    """A run of four short epochs; ``sections`` change settings."""
    values: dict[str, dict[str, Any]] = {
        "model": {"name": "resnet8", "base_channels": 4},
        "selection": {"refresh_every": 1, "warmup_epochs": 1, "batch_size": 20},
        "optim": {"epochs": 4, "batch_size": 16, "lr": 0.05},
        "run": {
            "dir": str(folder),
            "accelerator": "cpu",
            "tensorboard": False,
            "report": False,
            "progress": False,
        },
    }
    for name, section in sections.items():
        values.setdefault(name, {}).update(section)
    return TrainConfig.from_dict(values)


class StopAt(Interrupt):
    """Asks to stop when it is asked for the n-th time; counts how often it is asked."""

    def __init__(self, question: int | None = None) -> None:
        super().__init__()
        self.question = question
        self.asked = 0

    @property
    def requested(self) -> bool:
        self.asked += 1
        return self.asked == self.question


def log_lines(run_dir: str | Path) -> list[dict[str, Any]]:
    """The run's log without the times and the name of the directory."""
    lines = []
    for text in (Path(run_dir) / "log.jsonl").read_text().splitlines():
        line = json.loads(text)
        for key in ("seconds", "total_seconds", "run_dir", "environment"):
            line.pop(key, None)
        line.get("config", {}).pop("run", None)
        lines.append(line)
    return lines


def equal(first: Any, second: Any) -> bool:
    """Whether nested values are equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return (
            isinstance(second, torch.Tensor)
            and first.dtype == second.dtype
            and torch.equal(first.nan_to_num(12345.0), second.nan_to_num(12345.0))
        )
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)
