"""A configuration, resolved once: what computes, what selects, when, and how network and data are had."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from lightning_fabric import Fabric

from dynams.checks import one_of
from dynams.data import DatasetData, ImageData
from dynams.data.load import FoundData, find_data
from dynams.data.memory import HostMemory
from dynams.data.places import what_is
from dynams.data.storage import Place
from dynams.models import MODEL_NAMES, build_model, check_options, has_strided_1x1
from dynams.selection.methods.in_batch import Filter, RankedBatch
from dynams.selection.methods.interface import BatchStrategy, Strategy
from dynams.selection.methods.registry import build_strategy, strategy_options
from dynams.selection.methods.uniform import Full
from dynams.selection.signals import (
    ALIGNMENT,
    GIVEN_SCORES,
    TENSORS,
    VALIDATION,
    VISIT_SCORES,
)
from dynams.selection.switches import with_switches
from dynams.selection.timetable import Timetable
from dynams.training.computing import single_precision
from dynams.training.config import DataConfig, ModelConfig, TrainConfig
from dynams.training.devices import World, resolve_device, resolve_world
from dynams.training.network import Network
from dynams.training.options import with_absolute_paths
from dynams.training.own_network import check_model
from dynams.training.seeds import generator
from dynams.training.selection_config import SelectionConfig
from dynams.training.timetable import timetable_of

# Scores that come from a row of logits alone.
ROW_SCORES: frozenset[str] = frozenset(
    {"gap", "probability", "label", "loss", "el2n", "entropy", "confidence"}
)
# Settings that have no place inside a batch, where `with_switches` does nothing.
_SWITCHES = ("age_weight", "softness", "class_balance", "exploration", "unbiased", "noise_guard")
_IRREDUCIBLE = "irreducible_loss"
# Where images may be kept, the fastest first.
_PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Resolved:
    """What a configuration comes to here.

    Attributes:
        config: the configuration; its run.devices are the processes that there are.
        device: what the processes compute on.
        world: the processes.
        selector: what selects, and what it needs.
        timetable: when selections are due and how large they are.
        own_model: the network is the user's own.
    """

    config: TrainConfig
    device: torch.device
    world: World
    selector: Selector
    timetable: Timetable
    own_model: bool = False

    @property
    def widths(self) -> tuple[float, ...]:
        """The widths that the network runs at, ascending."""
        proxy = self.selector.proxy_width
        return (1.0,) if proxy is None else (proxy, 1.0)

    @property
    def memory_format(self) -> torch.memory_format:
        """Of weights and training batches."""
        # Channels last, oneDNN's weight gradient of a strided 1x1 convolution on the CPU writes outside
        # its workspace where a vector register holds more than the channels (oneDNN issue 6035): a slim
        # residual network would crash, or worse. Without gradients it is safe.
        unsafe = self.device.type == "cpu" and (
            self.own_model or has_strided_1x1(self.config.model.name)
        )
        if self.config.run.channels_last and not unsafe:
            return torch.channels_last
        return torch.contiguous_format

    @property
    def reading_format(self) -> torch.memory_format:
        """Of what scores and evaluates, weights and batches."""
        return torch.channels_last if self.config.run.channels_last else torch.contiguous_format


def resolve(
    config: TrainConfig, data: object = None, model: object = None, *, resumed: bool = False
) -> Resolved:
    """Resolve a configuration, refusing early what can be refused before anything is loaded or started.

    Args:
        config: the whole run.
        data: what was given to train on; None: what ``config.data`` names.
        model: the network that was given; None: what ``config.model`` names.
        resumed: whether a checkpoint has the scores of ``selection.scores``, whose file may be gone.

    Raises:
        ValueError, TypeError: a setting, or the device, cannot be had; names the setting.
    """
    selector = check_early(config, data, model, resumed=resumed)
    device = resolve_device(config.run.accelerator)
    world = resolve_world(config.run.devices, device)
    if world.size != config.run.devices:
        config = replace(config, run=replace(config.run, devices=world.size))
    if isinstance(selector.batch, Filter) and world.size > 1:
        raise ValueError(
            f"run.devices: got {world.size}, want 1 with selection.strategy=filter, whose network one process trains"
        )
    config = with_absolute_paths(config, apart=("run.dir",))
    times = timetable_of(config, budgeted=selector.strategy.budgeted)
    return Resolved(config, device, world, selector, times, model is not None)


def check_early(
    config: TrainConfig, data: object = None, model: object = None, *, resumed: bool = False
) -> Selector:
    """Refuse what can be refused without loading or starting anything: else every process would say it.

    Args:
        config: the whole run.
        data: what was given to train on; None: what ``config.data`` names.
        model: the network that was given; None: what ``config.model`` names.
        resumed: as in `resolve`.

    Returns:
        What selects.

    Raises:
        ValueError, TypeError: naming the setting.
    """
    if model is not None:
        check_model(model)
    else:
        try:
            check_options(**asdict(config.model))
        except (TypeError, ValueError) as error:
            raise type(error)(f"model.{error}") from error
    if isinstance(data, DatasetData) and config.run.test_views != 1:
        raise ValueError(
            f"run.test_views: got {config.run.test_views} with Datasets of your own, want 1: what they give need be no pictures"
        )
    selector = build_selector(config)
    if isinstance(selector.batch, Filter):
        filter_config(config, selector.batch)
    scores = config.selection.scores
    if scores is not None and not resumed and not Path(scores).is_file():
        raise ValueError(f"selection.scores: no file {scores}")
    path = config.data.path
    if data is None and config.data.name == "digits" and path is not None:
        raise ValueError(
            f"data.path: got {path}, want null for digits, which come with scikit-learn; or data.name"
        )
    if data is None and config.data.name != "digits":
        if path is None:
            raise ValueError(
                f"data.path: got None, want the directory that holds {config.data.name}"
            )
        if not os.path.isdir(path):
            raise ValueError(f"data.path: no directory {path}, there is {what_is(Path(path))}")
    return selector


def build_network(
    config: TrainConfig,
    widths: tuple[float, ...],
    *,
    channels: int,
    classes: int,
    purpose: str = "initial weights",
) -> Network:
    """Build the network that ``config`` names, on the CPU.

    Args:
        config: the whole run; its seed draws the weights.
        widths: that it runs at.
        channels: of the images.
        classes: of the labels.
        purpose: what the draw of the weights is for.

    Raises:
        ValueError: it cannot be had as configured.
    """
    with single_precision():
        return build_model(
            config.model.name,
            classes,
            widths=widths,
            stem=config.model.stem,
            in_channels=channels,
            base_channels=config.model.base_channels,
            channels=config.model.channels,
            depth=config.model.depth,
            generator=generator("cpu", config.run.seed, purpose=purpose),
            nested=config.proxy.nested and len(widths) > 1,
            head=config.proxy.head if len(widths) > 1 else "shared",
        )


def filter_config(config: TrainConfig, strategy: Filter) -> TrainConfig:
    """Return ``config`` with the filter's small network in place of its own.

    Raises:
        ValueError: there is no such network; names the option.
    """
    sizes: dict[str, Any] = {"stem": config.model.stem}
    if strategy.model == "sprint":
        sizes = {"channels": list(strategy.channels), "depth": strategy.depth}
    try:
        one_of("model", strategy.model, MODEL_NAMES)
        check_options(strategy.model, **sizes)
    except ValueError as error:
        raise ValueError(f"selection.options.filter.{error}") from error
    return replace(config, model=ModelConfig(name=strategy.model, **sizes))


def find_images(
    config: DataConfig,
    device: torch.device,
    host: HostMemory = HostMemory(),  # noqa: B008 (frozen)
) -> FoundData:
    """Find and check the images that ``config`` names; arguments as in `load_images`.

    Raises:
        ValueError: they are not decoded beforehand, besides what `dynams.data.load_data` raises.
    """
    if config.storage == "index" or config.name == "shards":
        raise ValueError(
            f"data.storage: got {config.storage} with data.name {config.name}, want images that are decoded beforehand"
        )
    return find_data(
        config.name,
        config.path,
        classes=config.classes,
        limit=config.limit,
        image_size=config.image_size,
        image_column=config.image_column,
        label_column=config.label_column,
        storage=config.storage,
        device=device,
        cache_dir=config.cache,
        host=host,
    )


def load_images(config: DataConfig, fabric: Fabric, host: HostMemory | None = None) -> ImageData:
    """Load the images that ``config`` names, in every process.

    All processes keep them in the same kind of place: the slowest that any of them has to take. Where decoded
    images are kept on disk, one process of a host makes the file and the others find it.

    Args:
        config: names the images.
        fabric: device and processes.
        host: tells how much memory is free; None: that of this host, shared with the other processes on it.

    Raises:
        ValueError, FileNotFoundError: they cannot be had as configured.
    """
    if host is None:
        host = HostMemory(processes=getattr(fabric.strategy, "num_processes", 1))
    found = find_images(config, fabric.device, host)
    if fabric.world_size > 1:
        # What is free is asked by each process for itself, at its own moment.
        mine = torch.tensor(_PLACES.index(found.place), device=fabric.device)
        slowest = int(torch.as_tensor(fabric.all_gather(mine)).max())
        found = replace(found, place=_PLACES[slowest])
    with fabric.rank_zero_first(local=True) if found.keeps_files else nullcontext():
        return found.load(tell=fabric.global_rank == 0)


@dataclass(frozen=True)
class Selector:
    """What selects, and what it needs.

    Attributes:
        strategy: chooses the samples of the next epochs; everything where `batch` chooses.
        batch: chooses inside every step; None: nothing does.
        scored: signals that a scoring pass computes.
        given: the score that is read from selection.scores; None without a file.
        irreducible: a network has to be trained on held-out samples for the irreducible losses.
        visits: scores that training steps leave behind.
        proxy_width: width that scores the candidates, or looks at batches, if it is a proxy; None at full width
            or unscored.
    """

    strategy: Strategy
    batch: BatchStrategy | None
    scored: frozenset[str]
    given: str | None
    irreducible: bool
    visits: frozenset[str]
    proxy_width: float | None


def build_selector(config: TrainConfig) -> Selector:
    """Build what ``config`` describes.

    Raises:
        ValueError: an option is unknown or out of range, a switch does not fit the strategy, or
            something that the strategy needs is not configured; names the setting.
    """
    chosen = config.selection
    bare = _bare(chosen)
    batch = bare if isinstance(bare, BatchStrategy) else None
    strategy = Full() if isinstance(bare, BatchStrategy) else _switched(chosen, bare)
    needs = strategy.needs if batch is None else batch.needs
    given = None if chosen.scores is None else _given(chosen, bare.needs)
    missing = (needs & GIVEN_SCORES) - {given}
    irreducible = missing == {_IRREDUCIBLE}
    if missing and not irreducible:
        raise ValueError(
            f"selection.scores: got None, want a file of the scores that {chosen.strategy} ranks by"
        )
    # Alignment is with the held-out samples' losses.
    held_out = irreducible or any(n == ALIGNMENT or n.startswith(VALIDATION) for n in needs)
    if held_out and config.data.holdout == 0.0:
        raise ValueError(
            f"data.holdout: got 0.0, want samples held out for {chosen.strategy}"
            f"{', or selection.scores' if irreducible else ''}"
        )
    scored = needs - VISIT_SCORES - GIVEN_SCORES - {given, "labels"}
    visits = needs & VISIT_SCORES - {given}
    if batch is not None:
        if unknown := scored - ROW_SCORES:
            raise ValueError(
                f"selection.options.{chosen.strategy}: got the score {', '.join(sorted(unknown))}, "
                f"want one that a batch has: {', '.join(sorted(ROW_SCORES))}"
            )
        scored = frozenset()
        for name in _SWITCHES:
            value, off = getattr(chosen, name), getattr(SelectionConfig, name)
            if value != off:
                raise ValueError(
                    f"selection.{name}: got {value!r}, want {off!r} with {chosen.strategy}, which "
                    "chooses inside a batch"
                )
    if chosen.free:
        if not scored or scored - ROW_SCORES:
            raise ValueError(
                f"selection.free: got True, want False with {chosen.strategy}, which scores "
                f"{', '.join(sorted(scored)) or 'nothing'}: training steps give "
                f"{', '.join(sorted(ROW_SCORES))}"
            )
        visits |= scored
    slim = config.proxy.recipe != "none" and config.proxy.width < 1.0
    proxied = scored or isinstance(batch, RankedBatch)
    width = config.proxy.width if proxied and slim else None
    return Selector(strategy, batch, scored, given, irreducible, visits, width)


def _bare(chosen: SelectionConfig) -> Strategy | BatchStrategy:
    """The strategy in use. Options of the others are checked, no more."""
    made = {chosen.strategy: build_strategy(chosen.strategy)}
    try:
        for name, own in chosen.options.items():
            for option in own:
                one_of(name, option, strategy_options(name))
            made[name] = build_strategy(name, **own)
    except (TypeError, ValueError) as error:
        raise ValueError(f"selection.options.{error}") from error
    return made[chosen.strategy]


def _switched(chosen: SelectionConfig, strategy: Strategy) -> Strategy:
    try:
        return with_switches(
            strategy,
            age_weight=chosen.age_weight,
            softness=chosen.softness,
            class_shares=None if chosen.class_balance == "none" else chosen.class_balance,
            exploration=chosen.exploration,
            unbiased=chosen.unbiased,
            noise_share=chosen.noise_guard,
            noise_score=chosen.noise_score,
        )
    except ValueError as error:
        raise ValueError(f"selection.{error}") from error


def _given(chosen: SelectionConfig, needs: frozenset[str]) -> str:
    """The one score of a strategy that a file may hold."""
    one_number = {name for name in needs if name not in TENSORS and not name.startswith(VALIDATION)}
    names = sorted((one_number & GIVEN_SCORES) or one_number)
    if len(names) != 1:
        raise ValueError(
            f"selection.scores: got {chosen.scores!r}, want None with {chosen.strategy}, which ranks "
            "by no one score"
        )
    return names[0]
