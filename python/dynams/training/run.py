"""A run in memory: everything the loop works on, how it is built, saved and restored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor

from dynams.cost.clock import Clock
from dynams.data import ImageData
from dynams.selection import SubsetSampler
from dynams.training.batches import Batches, ImageBatches, fingerprint, resolve_augmentation
from dynams.training.checkpoint import Checkpoint
from dynams.training.config import TrainConfig, changed_settings
from dynams.training.errors import ResumeError
from dynams.training.given import read_scores
from dynams.training.holdout import hold_out
from dynams.training.network import Network, as_module
from dynams.training.optim import build_optimizer
from dynams.training.resolve import Resolved, Selector, build_network, load_images
from dynams.training.step import TrainingStep
from dynams.training.step_clock import StepClock, proxy_flop_share
from dynams.training.sums import Sums
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

    def reached(self, accuracy: float | None, proxy_accuracy: float | None) -> bool:
        """Remember the accuracies of an evaluation; None: there was none. True: better than ever before."""
        if accuracy is None:
            return False
        self.accuracy, self.proxy_accuracy = accuracy, proxy_accuracy
        if self.best_accuracy is not None and accuracy <= self.best_accuracy:
            return False
        self.best_accuracy = accuracy
        return True


@dataclass
class TrainingRun:
    """All the parts of a run.

    Attributes:
        resolved: what the configuration comes to.
        fabric: device, precision and processes.
        batches: the samples that are trained on.
        test: the samples that accuracy is measured on.
        held_out: samples held out of training; None: none are.
        network: the bare network.
        optimizer: the bare optimiser.
        sampler: which samples are trained on.
        clock: counts seconds and samples by purpose.
        sums: losses of the current epoch.
        train_step: takes one optimisation step.
        fingerprint: what tells the data from other data.
        visits: what training steps leave behind of the samples; None: nothing needs it.
        rows: places of the training samples among all that were loaded; None: all are trained on.
        given: scores known before the first epoch, (N,) on the device.
        position: where the run is.
    """

    resolved: Resolved
    fabric: Fabric
    batches: Batches
    test: Batches
    held_out: Batches | None
    network: Network
    optimizer: torch.optim.Optimizer
    sampler: SubsetSampler
    clock: Clock
    sums: Sums
    train_step: TrainingStep
    fingerprint: dict[str, object]
    visits: Visits | None = None
    rows: Tensor | None = None
    given: dict[str, Tensor] = field(default_factory=dict)
    position: Position = field(default_factory=Position)

    @property
    def config(self) -> TrainConfig:
        """The configuration."""
        return self.resolved.config

    @property
    def selector(self) -> Selector:
        """What selects, and what it needs."""
        return self.resolved.selector

    def proxy_needed(self) -> bool:
        """Whether the proxy has a loss in this epoch: selections that it scores are to come."""
        if self.selector.proxy_width is None or not self.config.proxy.trains:
            return False
        return self.sampler.wanted_after(self.position.epoch)

    def proxy_turn(self) -> bool:
        """Whether the proxy's turn comes with the next step: every ``proxy.every``-th of the run."""
        return self.position.global_step % self.config.proxy.every == 0


def build_run(resolved: Resolved, fabric: Fabric, data: ImageData | None) -> TrainingRun:
    """Build a run at its beginning, on the device of ``fabric``, which is launched already.

    Args:
        resolved: what the run's configuration comes to.
        fabric: device, precision and processes.
        data: the images; None loads what the configuration names.

    Raises:
        ValueError, FileNotFoundError: the data or the network cannot be had as configured.
    """
    config, selector, device = resolved.config, resolved.selector, fabric.device
    if data is None:
        data = load_images(config.data, fabric)
    held, rows = None, None
    if config.data.holdout:
        data, held, rows = hold_out(data, config.data.holdout, config.run.seed)
    _check_data(config, data)
    batches = ImageBatches(
        data.train,
        device,
        data.mean,
        data.std,
        resolve_augmentation(config.data, data.augmentation),
        resolved.memory_format,
        resolved.reading_format,
        config.run.seed,
        fabric.global_rank,
        fabric.world_size,
    )
    network = build_network(
        config, resolved.widths, channels=batches.shape[0], classes=data.num_classes
    )
    module = as_module(network)
    module.to(device=device, memory_format=resolved.memory_format)  # type: ignore[call-overload]
    optimizer = build_optimizer(module, config.optim)
    compiled = cast(torch.nn.Module, torch.compile(module) if config.run.compile else module)
    model, wrapped = fabric.setup(compiled, optimizer)
    assert isinstance(wrapped, _FabricOptimizer)
    clock = Clock(device)
    return TrainingRun(
        resolved=resolved,
        fabric=fabric,
        batches=batches,
        test=replace(batches, images=data.test),
        held_out=None if held is None else replace(batches, images=held),
        network=network,
        optimizer=optimizer,
        sampler=_build_sampler(resolved, len(batches), device),
        clock=clock,
        sums=Sums(device),
        train_step=TrainingStep(
            fabric,
            model,
            network,
            wrapped,
            _step_clock(resolved, network, batches, clock),
            label_smoothing=config.optim.label_smoothing,
            proxy_width=selector.proxy_width,
            proxy_weight=config.proxy.weight,
            proxy_part=config.proxy.share,
            distill=config.proxy.recipe == "distill",
        ),
        fingerprint=fingerprint(data),
        visits=Visits(len(batches), selector.visits, device) if selector.visits else None,
        rows=rows,
    )


def read_given(run: TrainingRun) -> None:
    """Read the scores that the configuration names a file for.

    Raises:
        ValueError: the file does not hold one number for each training image.
    """
    path, name = run.config.selection.scores, run.selector.given
    if path is None or name is None:
        return
    count = len(run.batches) + (0 if run.held_out is None else len(run.held_out))
    scores = read_scores(path, count)
    kept = scores if run.rows is None else scores[run.rows]
    run.given[name] = kept.to(run.fabric.device)


def capture(run: TrainingRun, total_seconds: float) -> Checkpoint:
    """Capture the state of a run between two steps. All processes must come here together."""
    at = run.position
    if run.visits is not None:
        run.visits.merge(run.fabric)
    return Checkpoint(
        config=run.config.to_dict(),
        data=run.fingerprint,
        epoch=at.epoch,
        step=at.step,
        global_step=at.global_step,
        samples=at.samples,
        model=run.network.state_dict(),
        optimizer=run.optimizer.state_dict(),
        sampler=run.sampler.state_dict(),
        sums=run.sums.state_dict(run.fabric),
        cost=run.clock.state_dict(),
        total_seconds=total_seconds,
        accuracy=at.accuracy,
        proxy_accuracy=at.proxy_accuracy,
        best_accuracy=at.best_accuracy,
        visits={} if run.visits is None else run.visits.state_dict(),
        given={name: values.clone() for name, values in run.given.items()},
        batch_strategy=_batch_state(run),
    )


def restore(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Put a freshly built run where the checkpoint was.

    Raises:
        ResumeError: the configuration or the data differ in a way that matters.
    """
    check_config(checkpoint, run.config)
    for name, was in checkpoint.data.items():
        now = run.fingerprint.get(name)
        if now != was:
            raise ResumeError(f"the data changed since the run began: {name} was {was}, is {now}")
    run.network.load_state_dict(checkpoint.model)
    run.optimizer.load_state_dict(checkpoint.optimizer)
    run.sampler.load_state_dict(checkpoint.sampler)
    if run.fabric.is_global_zero:  # they hold the shares of all processes
        run.sums.load_state_dict(checkpoint.sums)
    run.clock.load_state_dict(checkpoint.cost)
    run.given = {name: values.to(run.fabric.device) for name, values in checkpoint.given.items()}
    if run.visits is not None:
        run.visits.load_state_dict(checkpoint.visits)
    if checkpoint.batch_strategy:
        cast(Any, run.selector.batch).load_state_dict(checkpoint.batch_strategy)
    run.position = Position(
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


def _batch_state(run: TrainingRun) -> dict[str, Any]:
    save = getattr(run.selector.batch, "state_dict", None)
    return {} if save is None else dict(save())


def _build_sampler(resolved: Resolved, samples: int, device: torch.device) -> SubsetSampler:
    times = resolved.timetable
    return SubsetSampler(
        samples,
        resolved.selector.strategy,
        budget=times.schedule,
        epochs=times.epochs,
        refresh_every=times.refresh_every,
        warmup_epochs=times.warmup_epochs,
        tail=times.tail,
        dynamic=resolved.config.selection.dynamic,
        seed=resolved.config.run.seed,
        device=device,
    )


def _step_clock(resolved: Resolved, network: Network, batches: Batches, clock: Clock) -> StepClock:
    config, width = resolved.config, resolved.selector.proxy_width
    if width is None or not config.proxy.trains:
        return StepClock(clock)
    if not config.run.compile:
        return StepClock(clock, network.head)
    images, _ = next(batches.plain(0, 1, 1))
    return StepClock(clock, share=proxy_flop_share(network, images, width))


def _check_data(config: TrainConfig, data: ImageData) -> None:
    least = 2 * config.run.devices
    if len(data.train) < least:
        raise ValueError(
            f"data.train: got {len(data.train)} images, want at least {least} for "
            f"{config.run.devices} devices"
        )
