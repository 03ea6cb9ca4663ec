"""The losses that cannot be learned away: those of a network trained on held-out samples alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn

from dynams.models import build_model
from dynams.training.batches import share, step_bounds
from dynams.training.cost import Cost
from dynams.training.distributed import average_buffers
from dynams.training.optim import build_optimizer, learning_rate, set_learning_rate
from dynams.training.scoring import score_signals
from dynams.training.seeds import generator
from dynams.training.session import Session
from dynams.training.step import Step


def irreducible_losses(
    session: Session,
    *,
    stop: Callable[[], bool],
    advance: Callable[[int], None],
) -> Tensor | None:
    """Train a network on the held-out samples alone, and take its losses of the candidates.

    The network, its optimiser and its schedule are the run's own, over selection.holdout_epochs. It is
    not kept, and an interrupted run trains it again from the start: every draw is a function of seed,
    epoch and step.

    Args:
        session: the run; its cost gets all of it as "holdout model".
        stop: asked after each step, equally often in every process.
        advance: told the number of samples of each step that is done.

    Returns:
        (N,) float32 on the device, or None if ``stop`` said so.
    """
    assert session.holdout is not None
    config, fabric, held = session.config, session.fabric, session.holdout
    optim, epochs = config.optim, config.selection.holdout_epochs
    rank, processes = fabric.global_rank, fabric.world_size
    module = build_model(
        config.model.name,
        session.data.num_classes,
        widths=(1.0,),
        stem=config.model.stem,
        in_channels=held.images.shape[1],
        base_channels=config.model.base_channels,
        generator=generator("cpu", config.run.seed, purpose="weights of the holdout model"),
    )
    module.to(device=fabric.device, memory_format=session.batches.memory_format)  # type: ignore[call-overload]
    optimizer = build_optimizer(module, optim)
    model, wrapped = fabric.setup(cast(nn.Module, module), optimizer)
    step = Step(
        fabric,
        model,
        module,
        cast(_FabricOptimizer, wrapped),
        Cost(fabric.device),
        label_smoothing=optim.label_smoothing,
    )
    bounds = step_bounds(len(held), optim.batch_size)

    def random(purpose: str, epoch: int, place: int = 0, rank: int = 0) -> torch.Generator:
        device = fabric.device if purpose == "augmentation" else "cpu"
        return generator(
            device,
            config.run.seed,
            purpose=f"{purpose} of the holdout model",
            epoch=epoch,
            step=place,
            rank=rank,
        )

    with session.cost.measure("holdout model"):
        for epoch in range(epochs):
            module.train()
            order = torch.randperm(len(held), generator=random("order", epoch))
            order = order.to(held.images.device)
            for place, (start, end) in enumerate(bounds):
                first, last = share(start, end, rank, processes)
                images, labels = session.batches.training(
                    held, order[first:last], random("augmentation", epoch, place, rank)
                )
                done = (epoch + (place + 0.5) / len(bounds)) / epochs
                set_learning_rate(optimizer, learning_rate(optim, done))
                step(images, labels, proxy=False, scale=(last - first) * processes / (end - start))
                session.cost.count("holdout model", last - first)
                advance(end - start)
                if stop():
                    return None
        average_buffers(fabric, module)
        session.cost.count("holdout model", len(session.data.train))
        known = score_signals(
            fabric,
            module,
            session.data.train,
            session.batches,
            {"loss"},
            batch_size=config.selection.batch_size,
            stop=stop,
        )
    return None if known is None else known.score("loss")
