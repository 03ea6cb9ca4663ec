"""Trains a user's untouched network on a user's Dataset in two processes; each writes its weights at the end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from own_networks import ViT
from torch.utils.data import Dataset
from training_runs import made_up_data, small_config

from dynams.training.loop import train

torch.set_num_threads(1)
DATA = made_up_data()


class Noisy(Dataset):
    def __init__(self, images) -> None:
        self.images, self.targets = images.images, images.labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        return self.images[index] / 128 - 1 + 0.1 * torch.randn(1, 8, 8), self.targets[index]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = small_config(
        folder,
        proxy={"recipe": "none"},
        data={"workers": 1},
        optim={"epochs": 2},
        run={"devices": 2},
    )
    model = ViT()
    model.register_buffer("table", torch.tensor([0.1, 0.7]))
    torch.manual_seed(os.getpid())  # what a process draws elsewhere is its own affair
    summary = train(config, (Noisy(DATA.train), Noisy(DATA.test)), model=model)
    torch.save((model.state_dict(), summary.samples), folder / f"{os.getpid()}.pt")
