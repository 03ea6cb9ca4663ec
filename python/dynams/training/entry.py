"""`train`: from a configuration, data and perhaps a network to a run that has ended, and what it lent given back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dynams.data import ImageData
from dynams.data.datasets import DatasetData, Items
from dynams.data.seeding import drawn_apart
from dynams.report import Summary
from dynams.selection import Signals
from dynams.training.computing import cpu_threads, tuned_convolutions
from dynams.training.config import TrainConfig
from dynams.training.distributed import build_fabric
from dynams.training.earlier import Earlier, check_same_state, run_to_resume
from dynams.training.given import check_given, read_given
from dynams.training.interrupt import Interrupt
from dynams.training.journal import Journal
from dynams.training.loop import Loop
from dynams.training.network import as_module
from dynams.training.own_network import returned
from dynams.training.preflight import check_built, check_needs
from dynams.training.processes import Companions, joined, told_environment
from dynams.training.resolve import Resolved, resolve
from dynams.training.run import TrainingRun, build_run
from dynams.training.samples import given_data
from dynams.training.state import check_config, restore


@torch.inference_mode(False)  # both may be otherwise around the call, and neither may here
@torch.enable_grad()
def train(
    config: TrainConfig,
    data: ImageData | DatasetData | tuple[Items, Items] | None = None,
    *,
    model: nn.Module | None = None,
    resume: str | Path | None = None,
    interrupt: Interrupt | None = None,
    on_refresh: Callable[[TrainingRun, Signals], None] | None = None,
) -> Summary:
    """Train as ``config`` says and leave log, checkpoints and report in the run's directory.

    Args:
        config: the whole run.
        data: what to train on: images in memory, or Datasets of your own, in a `DatasetData` or as a
            pair (train, test); None loads what ``config.data`` names.
        model: a network of your own that gives logits, in place of what ``config.model`` names, with
            the weights that it has. Where a proxy is wanted it is converted (`dynams.slimmable.convert`),
            unless it is slimmable already; else (proxy.recipe none) it is taken as it is. At the end,
            however it comes, it has the trained weights, its modes are as they were, and it is on the
            device that it was trained on, or, if it was converted, where it was. Its order in memory
            stays too. Where it draws at random, each step is seeded.
        resume: directory of an earlier run, which goes on where its last checkpoint was, or a checkpoint
            of one, such as RUN/checkpoints/best.pt, from which it goes on. On the CPU the result is bit
            for bit that of a run that was never stopped. Or "auto": the run is in ``run.dir``/``run.name``;
            it goes on there if it has saved anything, and begins there if not.
        interrupt: asked after every step whether to stop; None listens for signals, of which one that
            comes before there is anything to save raises KeyboardInterrupt.
        on_refresh: called in every process with the run and what is known of the candidates, at each
            refresh that is to know something, before the selection is made; it must change neither.

    Returns:
        How the run ended. After an interrupt ``completed`` is False and everything is saved.

    Raises:
        ValueError, TypeError, FileNotFoundError: the data, the network or the devices cannot be had
            as configured.
        ResumeError: ``resume`` cannot be resumed with this configuration.
        NonFiniteLossError: the loss diverged. The last checkpoint, from before, is kept.
        LostProcessError: another process of the run failed or was killed.
        ImportError: a package is missing that the run will need.
        StorageError: something cannot be written. The last checkpoint, from before, is kept.
        ReportError: the run ended well, but for its report; has the summary.
    """
    started = time.perf_counter()
    listening = Interrupt(nothing_to_save=True) if interrupt is None else nullcontext(interrupt)
    with listening as stop:
        stop.heed()
        given = given_data(data, config.data)
        run_dir, earlier = run_to_resume(config, resume)
        resolved = resolve(config, given, model, resumed=earlier is not None)
        if earlier is not None:
            check_config(earlier.checkpoint, resolved.config)
        check_needs(config.run, None if earlier is None else run_dir)
        with joined(resolved.world, resolved.device, config.run.timeout, stop) as companions:
            # In a frame of its own: what belongs to the process group goes before it.
            return _trained(
                resolved, companions, given, model, run_dir, earlier, stop, started, on_refresh
            )


def _trained(
    resolved: Resolved,
    companions: Companions,
    given: ImageData | DatasetData | None,
    model: nn.Module | None,
    run_dir: Path | None,
    earlier: Earlier | None,
    stop: Interrupt,
    started: float,
    on_refresh: Callable[[TrainingRun, Signals], None] | None,
) -> Summary:
    config = resolved.config
    fabric = build_fabric(resolved, companions.world)
    with ExitStack() as stack:
        stack.enter_context(told_environment(companions.world))
        fabric.launch()
        check_same_state(fabric, earlier)
        run = build_run(resolved, fabric, given, model)
        stack.enter_context(_lent(run))
        shape = run.batches.shape
        pixels = config.optim.batch_size * math.prod(shape[1:] if len(shape) == 3 else shape)
        stack.enter_context(cpu_threads(config.run, pixels))
        changes: list[str] = []
        if earlier is not None:
            changes = restore(run, earlier.checkpoint)
            check_given(run, earlier.checkpoint)
        else:
            read_given(run)
        if fabric.device.type == "cuda":
            stack.enter_context(tuned_convolutions())
        check_built(run, None if earlier is None else run_dir)
        with Journal(run, run_dir, changes, earlier=earlier) as journal:
            companions.run_dir = journal.run_dir
            # The first step of a network that is compiled may take minutes, longer than who asks it to stop waits.
            stop.nothing_to_save &= config.run.compile
            loop = Loop(run, journal, companions, stop, started, on_refresh)
            try:
                with companions.losses_told():
                    if earlier is not None and not earlier.is_last:
                        loop.save()  # the log has just forgotten what the last checkpoint knows, if that is whole
                    summary = loop.run_epochs()
            except Exception as error:
                journal.fail(error, partial(loop.summary, completed=False))
                raise
            journal.end(summary)
        companions.over()
        journal.report(summary)  # while Datasets can still be read: it shows some of their pictures
    return summary


@contextmanager
def _lent(run: TrainingRun) -> Iterator[None]:
    """Give back, whatever ends the block, what a user lent: workers, the network, the process' generators."""
    with ExitStack() as stack:
        stack.callback(run.samples.close)
        if run.model is not None:
            stack.enter_context(drawn_apart())
            gpus = [run.fabric.device] if run.fabric.device.type == "cuda" else []
            stack.enter_context(torch.random.fork_rng(gpus))
            stack.enter_context(returned(run.model, as_module(run.network)))
            for each in run.first_layer:  # which may have come to rest
                stack.callback(each.requires_grad_, each.requires_grad)
        stack.callback(run.train_step.close)
        yield
