"""The filter: a small network trained before the run's own, on its very batches, that keeps part of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor

from dynams.cost.clock import Clock
from dynams.selection.methods.filter import Filter
from dynams.slimmable import SlimmableNetwork
from dynams.slimmable.moulds import filled_copy
from dynams.slimmable.plain import PlainNetwork
from dynams.training.batches import step_bounds
from dynams.training.computing import autocast_dtype
from dynams.training.config import ModelConfig, TrainConfig
from dynams.training.network import as_module
from dynams.training.optim import build_optimizer, learning_rate, set_learning_rate
from dynams.training.resolve import build_network
from dynams.training.run import TrainingRun, build_sampler
from dynams.training.scoring import head_scores
from dynams.training.step import TrainingStep
from dynams.training.step_clock import StepClock
from dynams.training.step_sizes import naming_settings


def filter_choices(
    run: TrainingRun,
    strategy: Filter,
    *,
    stop: Callable[[], bool],
    advance: Callable[[int], None],
) -> Tensor | None:
    """Train the small network through all epochs up to the last that selects, and note what it keeps of each batch.

    Order, augmentation and learning rate are those of the training to come: draws are functions of seed, epoch and
    step. It looks by a frozen copy, whose batch-norms are folded, which is filled anew after each of its updates;
    an update computes what was kept once more, with gradients: 1/3 + f of a step on the batch, where gradients of
    the look itself would have cost the whole of it. While the run trains on everything, it looks only to be updated.
    It is not kept. An interrupted run trains it again, unless it was done.

    Args:
        run: the run; its clock gets all of it as "scoring".
        strategy: how much to keep, and which network.
        stop: asked after each step.
        advance: told the number of samples of each step that is done.

    Returns:
        (epochs that select, N) bool on the device: which places of each epoch's order are kept; or None if
        ``stop`` said so.

    Raises:
        ValueError: such a network cannot be had for these images.
    """
    config, device = run.config, run.fabric.device
    optim, times = config.optim, run.sampler.timetable
    step, network, optimizer = _small(run, strategy)

    def frozen() -> PlainNetwork:
        layers = autocast_dtype(run.fabric)
        return filled_copy(network, 1.0, run.resolved.reading_format, layers)

    sampler = build_sampler(run.resolved, len(run.batches), device)
    rows, last = times.selected_epochs, optim.epochs - times.tail_epochs
    choices = torch.zeros((rows, len(run.batches)), dtype=torch.bool, device=device)
    taken = 0
    with run.clock.measure("scoring"):
        scorer = frozen()
        for epoch in range(last if rows else 0):
            sampler.begin_epoch(epoch)
            order = sampler.order()
            bounds = step_bounds(len(order), optim.batch_size)
            batches = run.batches.epoch(order, bounds, epoch=epoch)
            for (start, end), (images, labels) in zip(bounds, batches, strict=True):
                selects, updates = epoch >= times.warmup_epochs, taken % strategy.every == 0
                if selects or updates:
                    with torch.no_grad(), run.fabric.autocast():
                        features = scorer.features(images)
                    losses = head_scores(scorer.head, features, labels, strategy.needs)["loss"]
                    kept = strategy.kept_of(losses)
                    run.clock.count("scoring", len(images))
                    if selects:
                        choices[epoch - times.warmup_epochs, start:end] = kept.mask
                if updates:
                    place = kept.indices
                    done = (epoch + (start + 0.5 * (end - start)) / bounds[-1][1]) / optim.epochs
                    set_learning_rate(optimizer, learning_rate(optim, done))
                    with naming_settings(run, len(place)):
                        step(images[place], labels[place], proxy=False)
                    scorer = frozen()
                taken += 1
                advance(end - start)
                if stop():
                    return None
    return choices


def _config_of(config: TrainConfig, strategy: Filter) -> TrainConfig:
    """The run's configuration with the small network in place of its own."""
    sizes: dict[str, Any] = {"stem": config.model.stem}
    if strategy.model == "sprint":
        sizes = {"channels": list(strategy.channels), "depth": strategy.depth}
    return replace(config, model=ModelConfig(name=strategy.model, **sizes))


def _small(
    run: TrainingRun, strategy: Filter
) -> tuple[TrainingStep, SlimmableNetwork, torch.optim.Optimizer]:
    """The small network on the device, what trains it, and its optimiser."""
    config, fabric, optim = run.config, run.fabric, run.config.optim
    network = build_network(
        _config_of(config, strategy),
        (1.0,),
        channels=run.batches.shape[0],
        classes=len(run.batches.classes),
        purpose="weights of the filter",
    )
    module = as_module(network)
    module.to(device=fabric.device, memory_format=run.resolved.memory_format)  # type: ignore[call-overload]
    optimizer = build_optimizer(module, optim)
    model, wrapped = fabric.setup(
        torch.compile(module) if config.run.compile else module, optimizer
    )
    step = TrainingStep(
        fabric,
        model,
        network,
        cast(_FabricOptimizer, wrapped),
        StepClock(Clock(fabric.device)),
        label_smoothing=optim.label_smoothing,
    )
    network.train()
    return step, cast(SlimmableNetwork, network), optimizer
