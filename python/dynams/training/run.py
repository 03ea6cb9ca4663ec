"""A run in memory: everything the loop works on, and how it is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn

from dynams.cost.clock import Clock
from dynams.data import ImageData
from dynams.data.datasets import DatasetData
from dynams.models import ResNet, smallest_side
from dynams.selection import SubsetSampler, Visits
from dynams.slimmable import SlimmableNetwork
from dynams.training.batches import Batches
from dynams.training.computing import reading_size
from dynams.training.config import TrainConfig
from dynams.training.lookahead import Lookahead
from dynams.training.network import Network, as_module, compiled
from dynams.training.optim import build_optimizer, first_layer
from dynams.training.own_network import OwnNetwork, admit, layout
from dynams.training.proxy_norms import check_norms
from dynams.training.resolve import Resolved, Selector, build_network
from dynams.training.samples import RunSamples, load_samples
from dynams.training.seeds import derive_seed, seed_process
from dynams.training.step import TrainingStep
from dynams.training.step_clock import StepClock, proxy_flop_share
from dynams.training.sums import Sums
from dynams.training.whitening import whiten


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
        samples: what is trained on, measured on and held out.
        network: the bare network.
        model: the user's own, of which it is made; None: the configuration's.
        optimizer: the bare optimiser.
        sampler: which samples are trained on.
        clock: counts seconds and samples by purpose.
        sums: losses of the current epoch.
        train_step: takes one optimisation step.
        first_layer: parameters that are trained in the first optim.first_layer_epochs only.
        lookahead: slow weights of the network; None: there are none.
        visits: what training steps leave behind of the samples; None: nothing needs it.
        given: scores known before the first epoch, (N,) on the device.
        position: where the run is.
    """

    resolved: Resolved
    fabric: Fabric
    samples: RunSamples
    network: Network
    model: nn.Module | None
    optimizer: torch.optim.Optimizer
    sampler: SubsetSampler
    clock: Clock
    sums: Sums
    train_step: TrainingStep
    first_layer: list[nn.Parameter] = field(default_factory=list)
    lookahead: Lookahead | None = None
    visits: Visits | None = None
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

    @property
    def batches(self) -> Batches:
        """The samples that are trained on."""
        return self.samples.train

    @property
    def test(self) -> Batches:
        """The samples that accuracy is measured on."""
        return self.samples.test

    @property
    def held_out(self) -> Batches | None:
        """The samples held out of training; None: none are."""
        return self.samples.held_out

    def reading_size(self, count: int) -> int:
        """How many are scored or evaluated at a time of ``count`` samples, which the processes share."""
        return reading_size(
            self.config.selection.batch_size,
            -(-count // self.fabric.world_size),
            self.batches.shape,
            self.fabric.device,
            own=self.model is not None,
        )

    def seed_network(self, epoch: int, step: int, purpose: str = "draws of the network") -> None:
        """Seed what a user's own network may draw in a step, such as dropout; ours draw nothing."""
        if self.model is not None:
            rank = self.fabric.global_rank
            seed = derive_seed(self.config.run.seed, purpose, epoch, step, rank)
            seed_process(self.fabric.device, seed)

    def proxy_needed(self) -> bool:
        """Whether the proxy has a loss in this epoch: selections that it scores are to come."""
        if self.selector.proxy_width is None or not self.config.proxy.trains:
            return False
        if self.selector.batch is not None:
            times = self.sampler.timetable
            return self.position.epoch < self.config.optim.epochs - times.tail_epochs
        return self.sampler.wanted_after(self.position.epoch)

    def proxy_turn(self) -> bool:
        """Whether the proxy's turn comes with the next step: every ``proxy.every``-th of the run."""
        return self.position.global_step % self.config.proxy.every == 0


def build_run(
    resolved: Resolved,
    fabric: Fabric,
    data: ImageData | DatasetData | None,
    model: nn.Module | None = None,
) -> TrainingRun:
    """Build a run at its beginning, on the device of ``fabric``, which is launched already.

    Args:
        resolved: what the run's configuration comes to.
        fabric: device, precision and processes.
        data: what to train on; None loads what the configuration names.
        model: the user's own network; None builds what the configuration names.

    Raises:
        ValueError, FileNotFoundError: the data or the network cannot be had as configured.
    """
    config, selector, device = resolved.config, resolved.selector, fabric.device
    formats = _formats(resolved, model)
    samples = load_samples(resolved, fabric, data, *formats)
    try:
        # A conversion holds for the autocast that it was made under.
        with fabric.autocast():
            network = _network(resolved, samples.train, model)
    except BaseException:
        samples.close()
        raise
    module = as_module(network)
    if isinstance(network, OwnNetwork):
        module.to(device=device)
    else:
        module.to(device=device, memory_format=formats[0])  # type: ignore[call-overload]
    if model is None:
        whiten(network, samples.train, config.run.seed)
    optimizer = build_optimizer(module, config.optim)
    optimizer.zero_grad()  # a user's network may have some of before
    called = module
    if config.run.compile:
        called = compiled(network, even=config.optim.drop_last)
        if isinstance(network, SlimmableNetwork) and network.widths != (1.0,):
            _forget_compiled(network)
    fabricated, wrapped = fabric.setup(called, optimizer)
    assert isinstance(wrapped, _FabricOptimizer)
    clock = Clock(device)
    return TrainingRun(
        resolved=resolved,
        fabric=fabric,
        samples=samples,
        network=network,
        model=model,
        optimizer=optimizer,
        sampler=build_sampler(resolved, len(samples.train), device),
        clock=clock,
        sums=Sums(device),
        train_step=TrainingStep(
            fabric,
            fabricated,
            network,
            wrapped,
            _step_clock(resolved, network, samples.train, clock),
            label_smoothing=config.optim.label_smoothing,
            proxy_width=selector.proxy_width,
            proxy_weight=config.proxy.weight,
            proxy_part=config.proxy.share,
            distill=config.proxy.recipe == "distill",
        ),
        first_layer=first_layer(module, config.optim.first_layer_epochs),
        lookahead=Lookahead(module, config.optim.lookahead) if config.optim.lookahead else None,
        visits=Visits(len(samples.train), selector.visits, device) if selector.visits else None,
    )


def named_network(
    config: TrainConfig,
    widths: tuple[float, ...],
    batches: Batches,
    *,
    setting: str = "model.name",
    purpose: str = "initial weights",
) -> Network:
    """Build the network that ``config`` names, on the CPU, for the images of ``batches``.

    Args:
        config: the whole run; its seed draws the weights.
        widths: that it runs at.
        batches: what it is to train on.
        setting: what has named it.
        purpose: what the draw of the weights is for.

    Raises:
        ValueError: they are no images, or too small; names the setting.
    """
    # Nobody has pictures of at most four columns and many channels: the channels are last.
    if len(batches.shape) != 3 or batches.shape[0] > 4 >= batches.shape[2]:
        raise ValueError(
            f"data.train: got items of shape {batches.shape}, want (C, H, W) for {setting}="
            f"{config.model.name}, or a network of your own: train(..., model=...)"
        )
    least = smallest_side(config.model.name, config.model.channels)
    if min(batches.shape[1:]) < least:
        raise ValueError(
            f"data.image_size: got images of {batches.shape[1]} x {batches.shape[2]} pixels, want at least "
            f"{least} x {least} for {setting}={config.model.name}"
        )
    channels, classes = batches.shape[0], len(batches.classes)
    return build_network(config, widths, channels=channels, classes=classes, purpose=purpose)


def _network(resolved: Resolved, batches: Batches, model: nn.Module | None) -> Network:
    """The user's network as it is trained, or the configuration's."""
    if model is None:
        return named_network(resolved.config, resolved.widths, batches)
    # Two: a batch-norm in training mode takes no single value for a channel.
    images, _ = next(batches.plain(0, 2, 2))
    selector = resolved.selector
    network = admit(
        model,
        images,
        classes=len(batches.classes),
        proxy_width=selector.proxy_width,
        nested=resolved.config.proxy.nested,
        head=resolved.config.proxy.head,
        needs=selector.scored,
        strategy=resolved.config.selection.strategy,
    )
    if selector.proxy_width is not None and resolved.config.proxy.recipe == "batch_norm":
        check_norms(model, network)
    return cast(Network, network)


def _forget_compiled(network: SlimmableNetwork) -> None:
    """Have torch forget what it compiled of networks of several widths in earlier runs of this process.

    That was for those networks alone, and torch compiles a function eight times, whatever became of them: the
    fifth run would not be compiled, with no more than a warning.
    """
    reset = getattr(torch._C._dynamo.eval_frame, "reset_code", None)
    if reset is not None:
        reset(type(network).forward.__code__)


def _formats(
    resolved: Resolved, model: nn.Module | None
) -> tuple[torch.memory_format, torch.memory_format]:
    """Memory formats of training batches and of those that are read; a user's own network has its own."""
    ours = isinstance(model, SlimmableNetwork) and isinstance(model.network, ResNet)
    if model is None or ours:
        return resolved.memory_format, resolved.reading_format
    own = layout(model)
    if resolved.device.type == "cpu" and resolved.selector.proxy_width is not None:
        own = torch.contiguous_format  # see `Resolved.memory_format`
    return own, own


def build_sampler(resolved: Resolved, samples: int, device: torch.device) -> SubsetSampler:
    """Build what says which of ``samples`` samples each epoch trains on, at its beginning."""
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
        assert isinstance(network, SlimmableNetwork)
        return StepClock(clock, network)
    images, _ = next(batches.plain(0, 1, 1))
    return StepClock(clock, share=proxy_flop_share(network, images, width))
