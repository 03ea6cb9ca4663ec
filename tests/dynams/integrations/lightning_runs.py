"""Trainings of a small network in Lightning, and the same in a plain loop: what they trained on, and where they ended."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from dynams.integrations.lightning import SelectionCallback
from dynams.selection import RankShard, SubsetSampler, linear, score_batches

N, BATCH, EPOCHS = 50, 8, 4
# 50, 50, 33, 15 samples: 7, 7, 5 and 2 batches.
SHORTER = {"budget": linear(1.0, 0.3), "warmup_epochs": 1}
# 15, 27, 38 and 50 samples: each epoch has more batches than the one before.
LONGER = {"budget": linear(0.3, 1.0)}
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 1,
}

source = torch.Generator().manual_seed(0)
FEATURES = torch.randn(N, 6, generator=source)
LABELS = (FEATURES[:, 0] > 0).long() + (FEATURES[:, 1] > 0).long()
TRAIN = TensorDataset(FEATURES, LABELS, torch.arange(N))
PLAIN = TensorDataset(FEATURES, LABELS)


class Step(NamedTuple):
    """A batch that was trained on, and what Lightning knew of it."""

    epoch: int
    samples: list[int]
    batches: int | float = 0  # of the epoch, as Lightning has it
    last: bool = False


class Network(pl.LightningModule):
    """Notes its steps, and the epochs in which it was validated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
        self.steps: list[Step] = []
        self.validated: list[int] = []
        self.checked = 0  # samples that this rank was validated on
        # Of batches that were scored: training mode, dtype of the logits, samples.
        self.scored: list[tuple[bool, torch.dtype, int]] = []

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layers(features)
        if not torch.is_grad_enabled():
            self.scored.append((self.training, logits.dtype, len(logits)))
        return logits

    def training_step(self, batch: list[Tensor], place: int) -> Tensor:
        features, labels, indices = batch
        trainer = self.trainer
        self.steps.append(
            Step(
                trainer.current_epoch,
                indices.tolist(),
                trainer.num_training_batches,
                trainer.is_last_batch,
            )
        )
        return nn.functional.cross_entropy(self.layers(features), labels)

    def validation_step(self, batch: list[Tensor], place: int) -> None:
        if not self.trainer.sanity_checking:
            self.checked += len(batch[0])
            if place == 0:
                self.validated.append(self.trainer.current_epoch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self)


class Run(NamedTuple):
    """A training that has ended."""

    trainer: Any
    network: Any
    selection: SelectionCallback


def optimizer_of(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


def scoring() -> DataLoader[Any]:
    return DataLoader(PLAIN, 16, sampler=RankShard(N))


def selecting(**arguments: Any) -> SelectionCallback:
    """A new callback, with the scoring loader unless the sampler has a score of its own."""
    arguments = {"epochs": EPOCHS, **arguments}
    return SelectionCallback(
        SubsetSampler(N, **arguments), None if "score" in arguments else scoring()
    )


def fit(
    selection: SelectionCallback,
    *callbacks: pl.Callback,
    network: Network | None = None,
    validation: bool = True,
    checkpoint: Path | None = None,
    loader: dict[str, Any] | None = None,
    **arguments: Any,
) -> Run:
    network = Network() if network is None else network
    arguments = {
        **QUIET,
        "max_epochs": EPOCHS,
        "enable_checkpointing": any(
            isinstance(each, pl.callbacks.ModelCheckpoint) for each in callbacks
        ),
        **arguments,
    }
    with warnings.catch_warnings():
        # Lightning's advice to a quick training, and a deprecation of torch's in its code.
        warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        trainer = pl.Trainer(callbacks=[selection, *callbacks], **arguments)
        trainer.fit(
            network,
            selection.loader(TRAIN, **{"batch_size": BATCH, **(loader or {})}),
            DataLoader(PLAIN, 25) if validation else None,
            ckpt_path=None if checkpoint is None else str(checkpoint),
        )
    return Run(trainer, network, selection)


def loop(epochs: int = EPOCHS, **arguments: Any) -> tuple[list[Step], Network]:
    """The plain loop, on all ranks of the process group if there is one."""
    network = Network()
    trained: Any = network
    rank, world = 0, 1
    if dist.is_initialized():
        rank, world = dist.get_rank(), dist.get_world_size()
        trained = DistributedDataParallel(network)
    loader = scoring()
    sampler = SubsetSampler(
        N, epochs=epochs, score=lambda: score_batches(network, loader), **arguments
    )
    optimizer, steps = optimizer_of(network), []
    batches = DataLoader(TRAIN, batch_sampler=sampler.shard(rank, world, BATCH // world))
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for features, labels, indices in batches:
            steps.append(Step(epoch, indices.tolist()))
            optimizer.zero_grad()
            nn.functional.cross_entropy(trained(features), labels).backward()
            optimizer.step()
    return steps, network


def samples(steps: list[Step]) -> list[tuple[int, list[int]]]:
    return [(step.epoch, step.samples) for step in steps]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    others = other.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.state_dict().items())
