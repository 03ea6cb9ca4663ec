"""The losses that cannot be learned away: those of a network trained on held-out samples alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor

from dynams.cost.clock import Clock
from dynams.training.batches import share, step_bounds
from dynams.training.distributed import Agreement, average_buffers
from dynams.training.errors import NonFiniteLossError
from dynams.training.network import Network, as_module
from dynams.training.optim import build_optimizer, learning_rate, set_learning_rate
from dynams.training.own_network import copy_for_holdout
from dynams.training.resolve import build_network
from dynams.training.run import TrainingRun
from dynams.training.scoring import score_signals
from dynams.training.seeds import generator
from dynams.training.step import TrainingStep
from dynams.training.step_clock import StepClock
from dynams.training.step_sizes import naming_settings
from dynams.training.whitening import whiten


def irreducible_losses(
    run: TrainingRun,
    *,
    stop: Agreement,
    advance: Callable[[int], None],
) -> Tensor | None:
    """Train a network on the held-out samples alone, and take its losses of the candidates.

    The network, its optimiser and its schedule are the run's own, over selection.holdout_epochs, without
    lookahead; its steps are evened out and all its layers trained throughout. It is not kept, and an
    interrupted run trains it again from the start: every draw is a function of seed, epoch and step.

    Args:
        run: the run; its clock gets all of it as "holdout model".
        stop: asked after each step, equally often in every process.
        advance: told the number of samples of each step that is done.

    Returns:
        (N,) float32 on the device, or None if ``stop`` said so.

    Raises:
        NonFiniteLossError: that network diverged: its losses would select by nothing but their order.
    """
    assert run.held_out is not None
    config, fabric, held = run.config, run.fabric, run.held_out
    optim, epochs = config.optim, config.selection.holdout_epochs
    network = _network(run)
    module = as_module(network)
    optimizer = build_optimizer(module, optim)
    model, wrapped = fabric.setup(module, optimizer)
    step = TrainingStep(
        fabric,
        model,
        network,
        cast(_FabricOptimizer, wrapped),
        StepClock(Clock(fabric.device)),
        label_smoothing=optim.label_smoothing,
    )
    bounds = step_bounds(len(held), optim.batch_size)
    with run.clock.measure("holdout model"):
        for epoch in range(epochs):
            network.train()
            draws = generator(
                "cpu", config.run.seed, purpose="order of the holdout model", epoch=epoch
            )
            order = torch.randperm(len(held), generator=draws, device="cpu")
            batches = held.epoch(
                order, bounds, epoch=epoch, purpose="augmentation of the holdout model"
            )
            for place, (images, labels) in enumerate(batches):
                run.seed_network(epoch, place, "draws of the holdout model")
                start, end = bounds[place]
                first, last = share(start, end, fabric.global_rank, fabric.world_size)
                done = (epoch + (place + 0.5) / len(bounds)) / epochs
                set_learning_rate(optimizer, learning_rate(optim, done))
                scale = (last - first) * fabric.world_size / (end - start)
                with naming_settings(run, last - first):
                    step(images, labels, proxy=False, scale=scale)
                run.clock.count("holdout model", last - first)
                advance(end - start)
                if stop():
                    return None
        average_buffers(fabric, module)
        run.clock.count("holdout model", len(run.batches))
        stop.begin()
        known = score_signals(
            fabric,
            network,
            run.batches,
            {"loss"},
            batch_size=run.reading_size(len(run.batches)),
            stop=stop,
        )
    if known is None:
        return None
    losses = known.score("loss")
    if not bool(losses.isfinite().all()):
        raise NonFiniteLossError(
            "the losses of the holdout model are not finite: try a smaller optim.lr, a longer optim.warmup or "
            "a larger data.holdout"
        )
    return losses


def _network(run: TrainingRun) -> Network:
    """A network like the run's on the device: with weights of its own, or those that a user's begins with."""
    if run.model is not None:
        return cast(Network, copy_for_holdout(as_module(run.network)))
    held = run.held_out
    assert held is not None
    network = build_network(
        run.config,
        (1.0,),
        channels=held.shape[0],
        classes=len(held.classes),
        purpose="weights of the holdout model",
    )
    module, memory_format = as_module(network), run.resolved.memory_format
    module.to(device=run.fabric.device, memory_format=memory_format)  # type: ignore[call-overload]
    whiten(network, held, run.config.run.seed)
    return network
