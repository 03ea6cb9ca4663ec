"""Handwritten digits in Lightning, trained on the samples nearest the decision boundary.

python examples/lightning_training.py                       # the 60 % with the smallest margins
python examples/lightning_training.py --strategy random     # as many at random, to compare with
python examples/lightning_training.py --devices 2           # on two ranks
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dynams.data import load_data
from dynams.integrations.lightning import SelectionCallback, stepping_batches
from dynams.selection import RankShard, SubsetSampler

Example = tuple[Tensor, Tensor]


class Shifted(Dataset[Example]):
    """Images moved by up to a pixel, at random."""

    def __init__(self, plain: TensorDataset) -> None:
        self.plain = plain

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, index: int) -> Example:
        image, label = self.plain[index]
        down, right = torch.randint(0, 3, (2,)).tolist()
        return nn.functional.pad(image, (1, 1, 1, 1))[:, down : down + 8, right : right + 8], label


class Digits(pl.LightningModule):
    """A small convolutional network. Nothing in it knows of selection but the schedule's length."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 4 * 4, 10)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 10)."""
        logits: Tensor = self.layers(images)
        return logits

    def training_step(self, batch: Example, batch_idx: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: Example, batch_idx: int) -> None:
        """Log the accuracy."""
        images, labels = batch
        right = (self(images).argmax(1) == labels).float().mean()
        self.log("accuracy", right, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return SGD, with a learning rate that ends where the training does."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.1, total_steps=int(stepping_batches(self.trainer))
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def splits() -> tuple[TensorDataset, TensorDataset]:
    """Return images (N, 1, 8, 8) in [0, 1] with their labels, to train and to test on."""
    data = load_data("digits")
    train, test = (
        TensorDataset(split.images.float() / 255, split.labels) for split in (data.train, data.test)
    )
    return train, test


def train(
    strategy: str = "margin",
    *,
    budget: float = 0.6,
    epochs: int = 15,
    **trainer_options: Any,
) -> tuple[pl.Trainer, SelectionCallback]:
    """Train on `budget` of the digits; return the trainer, with the last accuracy among its metrics."""
    pl.seed_everything(0, workers=True, verbose=False)
    plain, test = splits()
    sampler = SubsetSampler(
        len(plain), strategy, budget=budget, epochs=epochs, warmup_epochs=min(2, epochs - 1)
    )
    scoring = DataLoader(plain, batch_size=512, sampler=RankShard(len(plain)))
    selection = SelectionCallback(sampler, scoring)
    options = {"max_epochs": epochs, "callbacks": [selection], "log_every_n_steps": 10}
    trainer = pl.Trainer(**{**options, **trainer_options})
    trainer.fit(
        Digits(),
        selection.loader(Shifted(plain), batch_size=64 // trainer.world_size),
        DataLoader(test, batch_size=512),
    )
    return trainer, selection


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--strategy", default="margin", help="margin, random or full")
    parser.add_argument("--budget", type=float, default=0.6, help="fraction of the samples to keep")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    trainer, selection = train(
        options.strategy,
        budget=options.budget,
        epochs=options.epochs,
        devices=options.devices,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    if trainer.is_global_zero:
        of = selection.sampler.num_samples
        print(f"trained on {len(selection.sampler)} of {of} digits in the last epoch")
        print(f"{trainer.global_step} steps, accuracy {trainer.callback_metrics['accuracy']:.4f}")


if __name__ == "__main__":
    main()
