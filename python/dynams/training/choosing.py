"""What a step trains on of its batch: chosen by a first look at it, or by what a filter kept of it beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from dynams.selection.methods.in_batch import Filter
from dynams.selection.methods.interface import BatchSelection
from dynams.selection.signals import Signals
from dynams.training.computing import autocast_dtype
from dynams.training.network import Classifier, evaluated
from dynams.training.scoring import head_scores
from dynams.training.seeds import generator

if TYPE_CHECKING:
    from dynams.training.run import TrainingRun


def chooser(
    run: TrainingRun, labels: Tensor, indices: Tensor, start: int, steps: int
) -> Callable[[Tensor], BatchSelection] | None:
    """Return what chooses of the next step's images; None: all of them are trained on.

    Args:
        run: the run; its position seeds the draws.
        labels: (B,) int64, of this process' part of the batch.
        indices: (B,) int64, which samples they are, on the device.
        start: place in the epoch's order of the first of them.
        steps: of the epoch.
    """
    strategy, at = run.selector.batch, run.position
    if strategy is None or run.sampler.phase(at.epoch) != "selected":
        return None
    if isinstance(strategy, Filter):
        row = at.epoch - run.sampler.timetable.warmup_epochs
        kept = strategy.replay(row, start, start + len(indices))
        return lambda images: kept

    def choose(images: Tensor) -> BatchSelection:
        given = {name: values[indices] for name, values in run.given.items()}
        with run.clock.measure("scoring", len(images)):
            features, head = look(run, images)
            scores = head_scores(head, features, labels, strategy.needs - given.keys())
            return strategy.keep(
                Signals(len(labels), {**scores, **given}, labels),
                progress=(at.epoch + at.step / steps) / run.config.optim.epochs,
                generator=generator(
                    "cpu",
                    run.config.run.seed,
                    purpose="choice of a batch",
                    epoch=at.epoch,
                    step=at.step,
                    rank=run.fabric.global_rank,
                ),
            )

    return choose


def look(run: TrainingRun, images: Tensor) -> tuple[Tensor, Classifier | None]:
    """Look at a batch by the proxy, or by the whole network where there is none.

    It evaluates, by a frozen copy: batch-norms take up only what is trained on.

    Args:
        run: its network looks.
        images: (B, C, H, W) floating point.

    Returns:
        (B, D) what the head takes, and the head; without a head they are logits.
    """
    network, width = run.network, run.selector.proxy_width
    layout, layers = run.resolved.reading_format, autocast_dtype(run.fabric)
    with evaluated(network, width or 1.0, layout, layers) as frozen, run.fabric.autocast():
        features = frozen.features(images)
    head = network.head if width is None else cast(Any, network).head_at(width)
    # What is made in inference mode can be in no backward pass, as weights of losses are.
    return features.clone(), head
