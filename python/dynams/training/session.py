"""A run in memory: everything the loop works on, how it is built, saved and restored."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn

from dynams.data import ImageData, ImageSet, load_data
from dynams.models import build_model
from dynams.selection import SubsetSampler, build_schedule
from dynams.training.batches import Batches, fingerprint, resolve_augmentation
from dynams.training.checkpoint import Checkpoint
from dynams.training.choosing import Choice, build_choice
from dynams.training.config import DataConfig, TrainConfig, changed_settings
from dynams.training.cost import Cost
from dynams.training.errors import ResumeError
from dynams.training.frozen import Slimmable
from dynams.training.given import read_scores
from dynams.training.holdout import hold_out
from dynams.training.optim import build_optimizer
from dynams.training.seeds import generator
from dynams.training.step import Step, Sums, proxy_flop_share
from dynams.training.visits import Visits


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
        choice: what selects, and what it needs.
        sampler: which samples are trained on.
        batches: makes float batches.
        cost: seconds and samples by purpose.
        sums: losses of the current epoch.
        train_step: takes one optimisation step.
        fingerprint: what tells the data from other data.
        visits: what training steps leave behind of the samples; None: nothing needs it.
        holdout: samples held out of training; None: none are.
        rows: places of the training images among all that were loaded; None: all are trained on.
        given: scores known before the first epoch, (N,) on the device.
        position: where the run is.
    """

    config: TrainConfig
    fabric: Fabric
    data: ImageData
    module: Slimmable
    model: _FabricModule
    optimizer: torch.optim.Optimizer
    choice: Choice
    sampler: SubsetSampler
    batches: Batches
    cost: Cost
    sums: Sums
    train_step: Step
    fingerprint: dict[str, object]
    visits: Visits | None = None
    holdout: ImageSet | None = None
    rows: Tensor | None = None
    given: dict[str, Tensor] = field(default_factory=dict)
    position: Position = field(default_factory=Position)

    def proxy_needed(self) -> bool:
        """Whether the proxy has a loss in this epoch: selections that it scores are to come."""
        if self.choice.proxy_width is None or not self.config.proxy.trains:
            return False
        return self.sampler.wanted_after(self.position.epoch)

    def proxy_turn(self) -> bool:
        """Whether the proxy's turn comes with the next step: every ``proxy.every``-th of the run."""
        return self.position.global_step % self.config.proxy.every == 0


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
    choice = build_choice(config)
    holdout, rows = None, None
    if config.data.holdout:
        data, holdout, rows = hold_out(data, config.data.holdout, config.run.seed)
    _check_data(config, data)
    memory_format = _memory_format(config, device)
    widths = (1.0,) if choice.proxy_width is None else (choice.proxy_width, 1.0)
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
    if config.run.compile and choice.proxy_width is not None and config.proxy.trains:
        images, _ = next(batches.plain(data.train, 0, 1, 1))
        proxy_share = proxy_flop_share(module, images, choice.proxy_width)
    return Session(
        config=config,
        fabric=fabric,
        data=data,
        module=module,
        model=model,
        optimizer=optimizer,
        choice=choice,
        sampler=_build_sampler(config, choice, len(data.train), device),
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
            proxy_width=choice.proxy_width,
            proxy_weight=config.proxy.weight,
            proxy_part=config.proxy.share,
            distill=config.proxy.recipe == "distill",
            proxy_share=proxy_share,
        ),
        fingerprint=fingerprint(data),
        visits=Visits(len(data.train), choice.visits, device) if choice.visits else None,
        holdout=holdout,
        rows=rows,
    )


def read_given(session: Session) -> None:
    """Read the scores that the configuration names a file for.

    Raises:
        ValueError: the file does not hold one number for each training image.
    """
    path, name = session.config.selection.scores, session.choice.given
    if path is None or name is None:
        return
    count = len(session.data.train) + (0 if session.holdout is None else len(session.holdout))
    scores = read_scores(path, count)
    kept = scores if session.rows is None else scores[session.rows]
    session.given[name] = kept.to(session.fabric.device)


def planned_samples(session: Session) -> list[int]:
    """Count the samples that each epoch of the run goes through, at most."""
    return session.sampler.timetable.planned_sizes(session.sampler.num_samples)


def capture(session: Session, total_seconds: float) -> Checkpoint:
    """Capture the state of a run between two steps. All processes must come here together."""
    at = session.position
    if session.visits is not None:
        session.visits.merge(session.fabric)
    return Checkpoint(
        config=session.config.to_dict(),
        data=session.fingerprint,
        epoch=at.epoch,
        step=at.step,
        global_step=at.global_step,
        samples=at.samples,
        model=session.module.state_dict(),
        optimizer=session.optimizer.state_dict(),
        sampler=session.sampler.state_dict(),
        sums=session.sums.state_dict(session.fabric),
        cost=session.cost.state_dict(),
        total_seconds=total_seconds,
        accuracy=at.accuracy,
        proxy_accuracy=at.proxy_accuracy,
        best_accuracy=at.best_accuracy,
        visits={} if session.visits is None else session.visits.state_dict(),
        given={name: values.clone() for name, values in session.given.items()},
        batch_strategy=_batch_state(session),
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
    session.given = {
        name: values.to(session.fabric.device) for name, values in checkpoint.given.items()
    }
    if session.visits is not None:
        session.visits.load_state_dict(checkpoint.visits)
    if checkpoint.batch_strategy:
        cast(Any, session.choice.batch).load_state_dict(checkpoint.batch_strategy)
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


def _batch_state(session: Session) -> dict[str, Any]:
    save = getattr(session.choice.batch, "state_dict", None)
    return {} if save is None else dict(save())


def _build_sampler(
    config: TrainConfig, choice: Choice, samples: int, device: torch.device
) -> SubsetSampler:
    chosen = config.selection
    return SubsetSampler(
        samples,
        choice.strategy,
        budget=build_schedule(
            chosen.schedule, chosen.budget, start=chosen.start, exponent=chosen.exponent
        ),
        epochs=config.optim.epochs,
        refresh_every=chosen.refresh_every,
        warmup_epochs=chosen.warmup_epochs,
        tail=chosen.tail,
        dynamic=chosen.dynamic,
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
