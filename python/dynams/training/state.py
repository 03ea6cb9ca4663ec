"""The state of a run: captured for a checkpoint, and given to a run that goes on from one."""

from __future__ import annotations

from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor

from dynams.training.changed_settings import (
    CHANGE_THE_REST,
    MAY_CHANGE_ON_RESUME,
    changed_settings,
    changes_of_the_rest,
)
from dynams.training.checkpoint import Checkpoint
from dynams.training.config import TrainConfig
from dynams.training.distributed import average_buffers, own_buffers, put_back, told_by_all
from dynams.training.errors import ResumeError
from dynams.training.network import as_module
from dynams.training.run import Position, TrainingRun


def capture(run: TrainingRun, total_seconds: float) -> Checkpoint:
    """Capture the state of a run between two steps. All processes must come here together.

    Batch-norm statistics are averaged for it, and stay so.
    """
    at, network = run.position, as_module(run.network)
    if run.visits is not None:
        run.visits.merge()
    processes = []
    if run.fabric.world_size > 1:
        own = {name: value.cpu() for name, value in own_buffers(run.fabric, network).items()}
        state = {name: _to("cpu", value) for name, value in _batch_state(run).items()}
        slow = {} if run.lookahead is None else run.lookahead.buffers()
        mine = {
            "buffers": own,
            "sums": run.sums.state_dict(),
            "batch_strategy": state,
            "lookahead": {name: value.cpu() for name, value in slow.items()},
        }
        processes = told_by_all(run.fabric, mine)
    average_buffers(run.fabric, network)
    return Checkpoint(
        config=run.config.to_dict(),
        data=run.samples.fingerprint,
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
        lookahead={} if run.lookahead is None else run.lookahead.state_dict(),
        visits={} if run.visits is None else run.visits.state_dict(),
        given={name: values.clone() for name, values in run.given.items()},
        batch_strategy=_batch_state(run),
        processes=processes,
    )


def restore(run: TrainingRun, checkpoint: Checkpoint) -> list[str]:
    """Put a freshly built run where the checkpoint was.

    Returns:
        What is otherwise from here on, a line a setting that was changed.

    Raises:
        ResumeError: the configuration, the data or the network differ in a way that matters.
    """
    began = check_config(checkpoint, run.config)
    for name, was in checkpoint.data.items():
        now = run.samples.fingerprint.get(name)
        if now != was:
            raise ResumeError(f"data: got {name} {now}, want {was}, as when the run began")
    try:
        run.network.load_state_dict(checkpoint.model)
        run.optimizer.load_state_dict(checkpoint.optimizer)
    except (RuntimeError, ValueError, KeyError) as error:
        came = "none" if run.model is None else type(run.model).__name__
        raise ResumeError(
            f"model: got {came}, want the network that the run began with: "
            + shorten(str(error), 300, placeholder=" ...")
        ) from error
    # The tail is of later epochs: where their number has changed, it has too.
    tail = {"tail_epochs": run.sampler.timetable.tail_epochs}
    run.sampler.load_state_dict({**checkpoint.sampler, **tail})
    run.clock.load_state_dict(checkpoint.cost)
    run.given = {name: values.to(run.fabric.device) for name, values in checkpoint.given.items()}
    if run.visits is not None:
        run.visits.load_state_dict(checkpoint.visits)
    _restore_process(run, checkpoint)
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
    return changes_of_the_rest(began, run.config, checkpoint.epoch, checkpoint.step)


def _restore_process(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Give this process what it had for itself, or, with another number of processes, its part of what all had."""
    strategy, processes = checkpoint.batch_strategy, checkpoint.processes
    slow = checkpoint.lookahead
    if len(processes) == run.fabric.world_size > 1:
        mine = processes[run.fabric.global_rank]
        put_back(as_module(run.network), mine["buffers"])
        run.sums.load_state_dict(mine["sums"])
        strategy = mine["batch_strategy"]
        slow = {**slow, **mine.get("lookahead", {})}
    elif run.fabric.is_global_zero:  # they hold the shares of all processes
        run.sums.load_state_dict(checkpoint.sums)
    if run.lookahead is not None:
        run.lookahead.load_state_dict(slow)
    if strategy:
        moved = {name: _to(run.fabric.device, value) for name, value in strategy.items()}
        cast(Any, run.selector.batch).load_state_dict(moved)


def check_config(checkpoint: Checkpoint, config: TrainConfig) -> TrainConfig:
    """Refuse to resume with another configuration than the run began with.

    Returns:
        The configuration that it began with.

    Raises:
        ResumeError: names each setting that differs and matters to the result.
    """
    try:
        began = TrainConfig.from_dict(checkpoint.config)
    except (TypeError, ValueError) as error:
        raise ResumeError(f"the checkpoint's configuration cannot be read: {error}") from error
    may_change = MAY_CHANGE_ON_RESUME.union(CHANGE_THE_REST)
    if None not in (began.selection.scores, config.selection.scores):
        may_change |= {"selection.scores"}  # another path: what it holds is compared
    if changed := changed_settings(began, config, may_change):
        told = "; ".join(f"{name}: got {now!r}, want {was!r}" for name, was, now in changed)
        raise ResumeError(f"{told}: a resumed run keeps its settings")
    begun = checkpoint.epoch + (checkpoint.step > 0)
    if config.optim.epochs < max(begun, 1):
        raise ResumeError(
            f"optim.epochs: got {config.optim.epochs}, want at least {begun}, the epochs that were begun"
        )
    return began


def _batch_state(run: TrainingRun) -> dict[str, Any]:
    save = getattr(run.selector.batch, "state_dict", None)
    return {} if save is None else dict(save())


def _to(device: torch.device | str, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
