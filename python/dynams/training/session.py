"""A run in memory: everything the loop works on, how it is built, saved and restored."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import nn

from dynams.data import ImageData, load_data
from dynams.models import build_model
from dynams.selection import MarginSampler, build_schedule, selection_size
from dynams.training.batches import Batches, fingerprint, resolve_augmentation, step_bounds
from dynams.training.checkpoint import Checkpoint
from dynams.training.config import DataConfig, TrainConfig, changed_settings
from dynams.training.cost import Cost
from dynams.training.errors import ResumeError
from dynams.training.frozen import Slimmable
from dynams.training.optim import build_optimizer
from dynams.training.seeds import generator
from dynams.training.step import Step, Sums, proxy_flop_share


@dataclass
class Position:
    """Where a run is, and what it has reached.

    Attributes:
        epoch: the epoch that runs now or next, from 0.
        step: steps of that epoch already taken; 0 means that it has not begun.
        global_step: optimiser steps taken in the whole run.
        samples: training samples used in the whole run, over all processes.
        earlier_seconds: wall-clock seconds before this process took over.
        accuracy: last test accuracy at full width.
        proxy_accuracy: last test accuracy at the proxy's width.
        best_accuracy: best test accuracy so far at full width.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    samples: int = 0
    earlier_seconds: float = 0.0
    accuracy: float | None = None
    proxy_accuracy: float | None = None
    best_accuracy: float | None = None


@dataclass
class Session:
    """All the parts of a run.

    Attributes:
        config: the run's configuration.
        fabric: device, precision and processes.
        data: the images.
        module: the bare network.
        model: the network as set up by ``fabric``.
        optimizer: the bare optimiser.
        sampler: which samples are trained on.
        batches: makes float batches.
        cost: seconds and samples by purpose.
        sums: losses of the current epoch.
        train_step: takes one optimisation step.
        fingerprint: what tells the data from other data.
        position: where the run is.
    """

    config: TrainConfig
    fabric: Fabric
    data: ImageData
    module: Slimmable
    model: _FabricModule
    optimizer: torch.optim.Optimizer
    sampler: MarginSampler
    batches: Batches
    cost: Cost
    sums: Sums
    train_step: Step
    fingerprint: dict[str, object]
    position: Position = field(default_factory=Position)

    def proxy_trains(self) -> bool:
        """Whether the step that comes next trains the proxy too.

        It does at every ``proxy.every``-th step of the run, as long as selections are to come; a
        static selection is made once, right after the warm-up.
        """
        config = self.config
        if config.proxy_width is None or self.position.global_step % config.proxy.every:
            return False
        return (
            config.selection.strategy != "static"
            or self.position.epoch < config.selection.warmup_epochs
        )


def build_session(config: TrainConfig, fabric: Fabric, data: ImageData | None) -> Session:
    """Build a run at its beginning, on the device of ``fabric``, which is launched already.

    Args:
        config: the run's configuration.
        fabric: device, precision and processes.
        data: the images; None loads what ``config.data`` names.

    Raises:
        ValueError, FileNotFoundError: the data or the network cannot be had as configured.
    """
    device = fabric.device
    if data is None:
        data = _load(config.data, fabric)
    _check_data(config, data)
    memory_format = _memory_format(config, device)
    widths = (1.0,) if config.proxy_width is None else (config.proxy_width, 1.0)
    module = build_model(
        config.model.name,
        data.num_classes,
        widths=widths,
        stem=config.model.stem,
        in_channels=data.train.images.shape[1],
        base_channels=config.model.base_channels,
        generator=generator("cpu", config.run.seed, purpose="initial weights"),
    )
    module.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = build_optimizer(module, config.optim)
    batches = Batches(
        device,
        data.mean,
        data.std,
        resolve_augmentation(config.data, data.augmentation),
        memory_format,
        torch.channels_last if config.run.channels_last else torch.contiguous_format,
    )
    compiled = torch.compile(module) if config.run.compile else module
    model, fabric_optimizer = fabric.setup(cast(nn.Module, compiled), optimizer)
    assert isinstance(fabric_optimizer, _FabricOptimizer)
    cost = Cost(device)
    proxy_share = None
    if config.run.compile and config.proxy_width is not None:
        images, _ = next(batches.plain(data.train, 0, 1, 1))
        proxy_share = proxy_flop_share(module, images, config.proxy_width)
    return Session(
        config=config,
        fabric=fabric,
        data=data,
        module=module,
        model=model,
        optimizer=optimizer,
        sampler=_build_sampler(config, len(data.train), device),
        batches=batches,
        cost=cost,
        sums=Sums(device),
        train_step=Step(
            fabric,
            model,
            module,
            fabric_optimizer,
            cost,
            label_smoothing=config.optim.label_smoothing,
            proxy_width=config.proxy_width,
            proxy_weight=config.proxy.weight,
            proxy_share=proxy_share,
        ),
        fingerprint=fingerprint(data),
    )


def consumed(session: Session) -> int:
    """Count the samples of the current epoch already trained on, over all processes."""
    step = session.position.step
    if step == 0:
        return 0
    return step_bounds(len(session.sampler), session.config.optim.batch_size)[step - 1][1]


def planned_samples(session: Session) -> list[int]:
    """Count the samples that each epoch of the run trains on."""
    chosen, total = session.config.selection, len(session.data.train)
    sizes = []
    for epoch in range(session.config.optim.epochs):
        since = max(0, epoch - chosen.warmup_epochs) % chosen.refresh_every
        sizes.append(selection_size(total, session.sampler.budget_at(epoch - since)))
    return sizes


def capture(session: Session, total_seconds: float) -> Checkpoint:
    """Capture the state of a run between two steps. All processes must come here together."""
    at = session.position
    return Checkpoint(
        config=session.config.to_dict(),
        data=session.fingerprint,
        epoch=at.epoch,
        step=at.step,
        global_step=at.global_step,
        samples=at.samples,
        model=session.module.state_dict(),
        optimizer=session.optimizer.state_dict(),
        sampler=session.sampler.state_dict(consumed(session)),
        sums=session.sums.state_dict(session.fabric),
        cost=session.cost.state_dict(),
        total_seconds=total_seconds,
        accuracy=at.accuracy,
        proxy_accuracy=at.proxy_accuracy,
        best_accuracy=at.best_accuracy,
    )


def restore(session: Session, checkpoint: Checkpoint) -> None:
    """Put a freshly built run where the checkpoint was.

    Raises:
        ResumeError: the configuration or the data differ in a way that matters.
    """
    check_config(checkpoint, session.config)
    for name, was in checkpoint.data.items():
        now = session.fingerprint.get(name)
        if now != was:
            raise ResumeError(f"the data changed since the run began: {name} was {was}, is {now}")
    session.module.load_state_dict(checkpoint.model)
    session.optimizer.load_state_dict(checkpoint.optimizer)
    session.sampler.load_state_dict(checkpoint.sampler)
    if session.fabric.is_global_zero:  # they hold the shares of all processes
        session.sums.load_state_dict(checkpoint.sums)
    session.cost.load_state_dict(checkpoint.cost)
    session.position = Position(
        epoch=checkpoint.epoch,
        step=checkpoint.step,
        global_step=checkpoint.global_step,
        samples=checkpoint.samples,
        earlier_seconds=checkpoint.total_seconds,
        accuracy=checkpoint.accuracy,
        proxy_accuracy=checkpoint.proxy_accuracy,
        best_accuracy=checkpoint.best_accuracy,
    )


def check_config(checkpoint: Checkpoint, config: TrainConfig) -> None:
    """Refuse to resume with another configuration than the run began with.

    Raises:
        ResumeError: names each setting that differs and matters to the result.
    """
    try:
        began = TrainConfig.from_dict(checkpoint.config)
    except (TypeError, ValueError) as error:
        raise ResumeError(f"the checkpoint's configuration cannot be read: {error}") from error
    changed = changed_settings(began, config)
    if changed:
        told = "; ".join(f"{name} was {was!r}, is {now!r}" for name, was, now in changed)
        raise ResumeError(f"cannot resume with changed settings: {told}")


def _load(config: DataConfig, fabric: Fabric) -> ImageData:
    # With decoded images kept on disk, one process makes the file and the others find it.
    shared = config.cache is not None or config.storage == "disk"
    with fabric.rank_zero_first(local=True) if shared else nullcontext():
        return load_data(
            config.name,
            config.path,
            limit=config.limit,
            image_size=config.image_size,
            storage=config.storage,
            device=fabric.device,
            cache_dir=config.cache,
        )


def _memory_format(config: TrainConfig, device: torch.device) -> torch.memory_format:
    # Channels last, oneDNN's weight gradient of a strided 1x1 convolution on the CPU writes outside
    # its workspace where a vector register holds more than the channels (oneDNN issue 6035): a slim
    # residual network would crash, or worse. Without gradients it is safe.
    if config.run.channels_last and device.type != "cpu":
        return torch.channels_last
    return torch.contiguous_format


def _build_sampler(config: TrainConfig, samples: int, device: torch.device) -> MarginSampler:
    chosen = config.selection
    return MarginSampler(
        samples,
        budget=build_schedule(
            chosen.schedule, chosen.budget, start=chosen.start, exponent=chosen.exponent
        ),
        epochs=config.optim.epochs,
        refresh_every=chosen.refresh_every,
        warmup_epochs=chosen.warmup_epochs,
        strategy=chosen.strategy,
        seed=config.run.seed,
        device=device,
    )


def _check_data(config: TrainConfig, data: ImageData) -> None:
    least = 2 * config.run.devices
    if len(data.train) < least:
        raise ValueError(
            f"data.train: {config.run.devices} devices need at least {least} images, "
            f"got {len(data.train)}"
        )
