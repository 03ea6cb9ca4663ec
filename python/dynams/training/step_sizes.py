"""Steps too small to train on are told with the setting that makes them so, early where it can be known.

In training a batch-norm wants more than one value for each channel: of a single sample on a map of
1 x 1 it has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynams.selection.evaluating import evaluating
from dynams.training.batches import step_bounds
from dynams.training.network import as_module

if TYPE_CHECKING:
    from dynams.training.run import TrainingRun

# What torch says of it, under torch.compile within more.
_SINGLE = "more than 1 value per channel"


def check_planned_steps(run: TrainingRun) -> None:
    """Refuse a run that plans steps which its network cannot train on.

    Raises:
        ValueError: names the setting.
    """
    sizes = run.sampler.timetable.planned_sizes(len(run.batches))
    small = [(size, epoch) for epoch, size in enumerate(sizes) if _least(run, size) < 2]
    small = [each for each in small if each[1] >= run.position.epoch]
    if not small:
        return
    size, epoch = min(small)
    check_steps(run, epoch, size)
    if _wants_two(run):
        raise ValueError(_told(run, epoch, size, 1))


def check_steps(run: TrainingRun, epoch: int, size: int) -> None:
    """Refuse an epoch of ``size`` samples if a process has none of them in some step.

    Raises:
        ValueError: names the setting.
    """
    if _least(run, size) < 1:
        raise ValueError(_told(run, epoch, size, 0))


@contextmanager
def naming_settings(run: TrainingRun, samples: int) -> Iterator[None]:
    """Take a step of ``samples`` samples of this process inside this block.

    Raises:
        ValueError: in place of what torch says of a batch-norm that has one value for a channel.
    """
    try:
        yield
    except Exception as error:
        if _SINGLE not in str(error):
            raise
        settings = ["optim.batch_size", "selection.budget"]
        if run.selector.batch is not None:
            settings.append(
                f"what selection.options.{run.config.selection.strategy} keeps of a batch"
            )
        if run.held_out is not None:
            settings.append("data.holdout")
        raise ValueError(
            f"optim.batch_size: got a step with one value for each channel of a batch-norm ({samples} samples "
            f"in this process), want at least two; raise {', '.join(settings[:-1])} or {settings[-1]}"
        ) from error


def _least(run: TrainingRun, size: int) -> int:
    """The fewest samples that a process has in a step of an epoch of ``size`` samples; 0 where it has no step."""
    optim = run.config.optim
    if optim.drop_last:
        return optim.batch_size // run.fabric.world_size if size >= optim.batch_size else 0
    steps = len(step_bounds(size, optim.batch_size))
    return size // max(steps, 1) // run.fabric.world_size


def _wants_two(run: TrainingRun) -> bool:
    """Whether a batch-norm would have one value for a channel of one sample: seen in eval mode, which keeps nothing."""
    run.network.train()
    module, single = as_module(run.network), []

    def watch(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        single.append(given[0].numel() == given[0].shape[1])

    hooks = [
        each.register_forward_pre_hook(watch)
        for each in module.modules()
        if isinstance(each, _BatchNorm) and each.training and not isinstance(each, nn.SyncBatchNorm)
    ]
    images, _ = next(run.batches.plain(0, 1, 1))
    try:
        with torch.no_grad(), evaluating([module], watch=False), run.fabric.autocast():
            module(images)
    except ValueError as error:
        if _SINGLE not in str(error):
            raise
        return True  # one without running statistics
    finally:
        for hook in hooks:
            hook.remove()
    return any(single)


def _told(run: TrainingRun, epoch: int, size: int, got: int) -> str:
    config, processes = run.config, run.fabric.world_size
    want = 2 * processes if got else processes
    why = "a batch-norm would have one value for a channel" if got else "each process needs one"
    unit = "sample" if size == 1 else "samples"
    if config.optim.drop_last:
        return (
            f"optim.batch_size: got {config.optim.batch_size} with optim.drop_last, want at most {size}: "
            f"epoch {epoch + 1} has {size} {unit}, which make no step"
        )
    steps = f"epoch {epoch + 1} has {size} {unit}, in steps of at most {config.optim.batch_size}"
    if size < want:
        setting, value = "selection.budget", config.selection.budget
        least = f"at least {want / len(run.batches):.2g}"
    else:
        setting, value = "optim.batch_size", config.optim.batch_size
        least = f"at least {2 * want}"
    return f"{setting}: got {value}, want {least}: {steps}, which leaves {got} for a step of a process, and {why}"
