"""The filter: a small network trained before the run's own, on its very batches, that keeps part of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor

from dynams.cost.clock import Clock
from dynams.selection.methods.in_batch import Filter
from dynams.selection.methods.interface import BatchSelection
from dynams.slimmable import SlimmableNetwork
from dynams.slimmable.moulds import filled_copy
from dynams.training.batches import step_bounds
from dynams.training.computing import autocast_dtype
from dynams.training.lookahead import Lookahead
from dynams.training.network import compiled
from dynams.training.optim import build_optimizer, first_layer, learning_rate, set_learning_rate
from dynams.training.resolve import filter_config
from dynams.training.run import TrainingRun, build_sampler, named_network
from dynams.training.scoring import head_scores
from dynams.training.step import TrainingStep
from dynams.training.step_clock import StepClock
from dynams.training.step_sizes import naming_settings
from dynams.training.whitening import whiten


def filter_choices(
    run: TrainingRun,
    strategy: Filter,
    *,
    stop: Callable[[], bool],
    advance: Callable[[int], None],
) -> Tensor | None:
    """Train the small network through all epochs up to the last that selects, and note what it keeps of each batch.

    Order, augmentation and optimiser are those of the training to come: draws are functions of seed, epoch and
    step. While the run trains on everything, the small network looks only to be updated. It is not kept; an
    interrupted run trains it again, unless it was done.

    Args:
        run: the run; its clock gets all of it as "scoring".
        strategy: how much to keep, and which network.
        stop: asked after each step.
        advance: told the number of samples of each step that is done.

    Returns:
        (epochs that select, N) bool on the device: which places of each epoch's order are kept; or None if
        ``stop`` said so.
    """
    optim, times, device = run.config.optim, run.sampler.timetable, run.fabric.device
    small, taken = _Small(run, strategy), 0
    sampler = build_sampler(run.resolved, len(run.batches), device)
    rows, last = times.selected_epochs, optim.epochs - times.tail_epochs
    choices = torch.zeros((rows, len(run.batches)), dtype=torch.bool, device=device)
    with run.clock.measure("scoring"):
        for epoch in range(last if rows else 0):
            sampler.begin_epoch(epoch)
            order = sampler.order()
            bounds = step_bounds(len(order), optim.batch_size, drop_last=optim.drop_last)
            batches = run.batches.epoch(order, bounds, epoch=epoch)
            for place, (images, labels) in enumerate(batches):
                start, end = bounds[place]
                selects, trains = epoch >= times.warmup_epochs, taken % strategy.every == 0
                if selects or trains:
                    kept = small.look(images, labels)
                    run.clock.count("scoring", len(images))
                    if selects:
                        choices[epoch - times.warmup_epochs, start:end] = kept.mask
                    if trains:
                        small.train(images, labels, kept, epoch, place, len(bounds))
                taken += 1
                advance(end - start)
                if stop():
                    return None
    return choices


class _Small:
    """The small network, and its optimiser.

    It looks by a frozen copy, whose batch-norms are folded and which is filled anew after each update. An update
    computes the kept part of the batch again, with gradients: look and update are 1/3 + ratio of a step on the
    batch, where a look with gradients would have had to go back through all of it.

    Raises:
        ValueError: such a network cannot be had for the images of ``run``.
    """

    def __init__(self, run: TrainingRun, strategy: Filter) -> None:
        fabric, optim = run.fabric, run.config.optim
        self._run, self._strategy = run, strategy
        self._network = cast(
            SlimmableNetwork,
            named_network(
                filter_config(run.config, strategy),
                (1.0,),
                run.batches,
                setting="selection.options.filter.model",
                purpose="weights of the filter",
            ),
        )
        layout = run.resolved.memory_format
        self._network.to(device=fabric.device, memory_format=layout)  # type: ignore[call-overload]
        whiten(cast(Any, self._network), run.batches, run.config.run.seed)
        self._network.train()
        self._first_layer = first_layer(self._network, optim.first_layer_epochs)
        self._lookahead = Lookahead(self._network, optim.lookahead) if optim.lookahead else None
        self._optimizer = build_optimizer(self._network, optim)
        called: torch.nn.Module = self._network
        if run.config.run.compile:
            called = compiled(cast(Any, self._network), even=optim.drop_last)
        model, wrapped = fabric.setup(called, self._optimizer)
        self._step = TrainingStep(
            fabric,
            model,
            cast(Any, self._network),
            cast(_FabricOptimizer, wrapped),
            StepClock(Clock(fabric.device)),
            label_smoothing=optim.label_smoothing,
        )
        self._updates = 0
        self._copy = self._frozen()

    @torch.no_grad()
    def look(self, images: Tensor, labels: Tensor) -> BatchSelection:
        """Choose of a batch (B, C, H, W) with labels (B,)."""
        with self._run.fabric.autocast():
            features = self._copy.features(images)
        losses = head_scores(cast(Any, self._copy.head), features, labels, {"loss"})["loss"]
        return self._strategy.kept_of(losses)

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        kept: BatchSelection,
        epoch: int,
        step: int,
        steps: int,
    ) -> None:
        """Update it by what is kept of a batch, as the ``step``-th of ``steps`` of an epoch."""
        optim, places = self._run.config.optim, kept.indices
        if self._first_layer and epoch >= cast(int, optim.first_layer_epochs):
            for parameter in self._first_layer:
                parameter.requires_grad_(False)
        done = (epoch + (step + 0.5) / steps) / optim.epochs
        set_learning_rate(self._optimizer, learning_rate(optim, done))
        with naming_settings(self._run, len(places)):
            self._step(images[places], labels[places], proxy=False)
        self._updates += 1
        if self._lookahead is not None:
            self._lookahead.after_step(self._updates, (epoch + (step + 1) / steps) / optim.epochs)
        self._copy = self._frozen()

    def _frozen(self) -> Any:
        resolved, layers = self._run.resolved, autocast_dtype(self._run.fabric)
        return filled_copy(self._network, 1.0, resolved.reading_format, layers)
