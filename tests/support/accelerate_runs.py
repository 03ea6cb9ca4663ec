"""Small trainings with Accelerate, in one process or two, that note what they trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from dynams.integrations.accelerate import prepare_loader, scheduler_steps
from dynams.selection import RankShard, SubsetSampler, score_batches

N, BATCH, EPOCHS, GATHERED = 103, 8, 4, 3
# Where the interrupted training is saved: after so many updates of this epoch.
STOP = (2, 1)


class Points(Dataset[Any]):
    """Points of three classes around their centres; a sample is its point, its label and its number."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.labels = torch.arange(N) % 3
        self.points = torch.randn(N, 6, generator=random) + 2 * torch.eye(3, 6)[self.labels]

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return self.points[index], self.labels[index], index


@dataclass
class Noted:
    """What a training did on one rank, or what a resumed one did.

    Attributes:
        steps: of every epoch, the samples of every batch.
        orders: of every epoch, the sampler's order.
        scorers: the weight and bias of each refresh.
        weights: of the network at the end.
        rates: the learning rate behind each update.
        planned: steps of the scheduler.
    """

    steps: dict[int, list[list[int]]] = field(default_factory=dict)
    orders: dict[int, Tensor] = field(default_factory=dict)
    scorers: list[list[Tensor]] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    planned: int = 0


def parts(noted: Noted) -> tuple[nn.Module, torch.optim.Optimizer, SubsetSampler]:
    """Network, optimizer and sampler of every training here."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
    scoring = DataLoader(Points(), batch_size=10, sampler=RankShard(N))

    def score() -> Any:
        noted.scorers.append(copied(model))
        return score_batches(model, scoring)

    sampler = SubsetSampler(N, budget=0.6, epochs=EPOCHS, warmup_epochs=1, score=score)
    return model, torch.optim.SGD(model.parameters(), lr=0.1), sampler


def copied(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in model.parameters()]


def without_accelerate() -> Noted:
    noted = Noted()
    model, optimizer, sampler = parts(noted)
    noted.planned = sampler.total_steps(BATCH)
    scheduler = LambdaLR(optimizer, lambda step: 1 - step / noted.planned)
    loader = DataLoader(Points(), batch_size=BATCH, sampler=sampler)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        noted.orders[epoch] = sampler.order()
        for points, labels, indices in loader:
            noted.steps.setdefault(epoch, []).append(indices.tolist())
            nn.functional.cross_entropy(model(points), labels).backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            noted.rates.append(optimizer.param_groups[0]["lr"])
    noted.weights = copied(model)
    return noted


def with_accelerate(
    accelerator: Accelerator, batch_size: int, folder: str | None = None, *, resume: bool = False
) -> Noted:
    """The same loop; with a folder it saves its state there at STOP, or begins with that state."""
    noted = Noted()
    model, optimizer, sampler = parts(noted)
    workers = int(resume and accelerator.num_processes == 1)
    loader = prepare_loader(accelerator, Points(), sampler, batch_size, num_workers=workers)
    noted.planned = scheduler_steps(accelerator, sampler, batch_size)
    scheduler = LambdaLR(optimizer, lambda step: 1 - step / noted.planned)
    wrapped, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    accelerator.register_for_checkpointing(sampler)
    if resume:
        accelerator.load_state(folder)
    for epoch in range(sampler.epoch or 0, EPOCHS):
        loader.set_epoch(epoch)
        noted.orders[epoch] = sampler.order()
        updates = 0
        for points, labels, indices in loader:
            noted.steps.setdefault(epoch, []).append(indices.tolist())
            with accelerator.accumulate(wrapped):
                accelerator.backward(nn.functional.cross_entropy(wrapped(points), labels))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            loader.batch_sampler.advance()
            if accelerator.sync_gradients:
                updates += 1
                noted.rates.append(optimizer.param_groups[0]["lr"])
                if folder and not resume and (epoch, updates) == STOP:
                    accelerator.save_state(folder)
    noted.weights = copied(model)
    return noted


def trainings(folder: str) -> Iterator[tuple[str, Noted]]:
    """All trainings of one rank, by name."""
    yield "whole", with_accelerate(Accelerator(cpu=True), BATCH)
    split = DataLoaderConfiguration(split_batches=True)
    yield "split", with_accelerate(Accelerator(cpu=True, dataloader_config=split), 2 * BATCH)
    carried = GradientAccumulationPlugin(num_steps=GATHERED, sync_with_dataloader=False)
    yield (
        "carried",
        with_accelerate(Accelerator(cpu=True, gradient_accumulation_plugin=carried), BATCH),
    )
    for name in ("gathered", "resumed"):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=GATHERED)
        yield name, with_accelerate(accelerator, BATCH, folder, resume=name == "resumed")


def refused() -> str:
    """What splitting a batch of an odd size is answered."""
    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True)
    )
    try:
        prepare_loader(accelerator, Points(), SubsetSampler(N), 7)
    except ValueError as error:
        return str(error)
    return "nothing"


def told_by_rank(state: str, folder: Path) -> dict[str, Any]:
    """The trainings of one of two processes, and one that goes on from a single process' state."""
    forget()
    noted: dict[str, Any] = {name: vars(each) for name, each in trainings(f"{folder}/state")}
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=GATHERED)
    noted["moved"] = vars(with_accelerate(accelerator, BATCH, state, resume=True))
    noted["refused"] = refused()
    return noted


def forget() -> None:
    """Have Accelerate forget its settings, which are the process's."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
