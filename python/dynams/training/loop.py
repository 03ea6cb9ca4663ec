"""The training loop: refresh when due, train on the selection, evaluate, save; epoch by epoch.

Nothing in the loop waits for the device at every step: losses add up on the device and are read
once an epoch and, for the progress display, about once a second. Every random draw is a function
of seed, epoch and step, so a run that was stopped anywhere goes on exactly where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from dynams.data import ImageData
from dynams.report import EpochRecord, Summary
from dynams.report.html import write_report
from dynams.report.progress import TrainingProgress
from dynams.report.runlog import RunLog
from dynams.selection import Signals
from dynams.training.batches import share, step_bounds
from dynams.training.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from dynams.training.choosing import build_choice
from dynams.training.computing import cpu_threads, tuned_convolutions
from dynams.training.config import TrainConfig
from dynams.training.distributed import Agreement, average_buffers, build_fabric
from dynams.training.early import check_early
from dynams.training.environment import environment
from dynams.training.errors import NonFiniteLossError
from dynams.training.evaluation import evaluate
from dynams.training.interrupt import Interrupt
from dynams.training.irreducible import irreducible_losses
from dynams.training.optim import learning_rate, set_learning_rate
from dynams.training.records import refresh_record, sample_pictures
from dynams.training.rundir import make_run_dir, write_config
from dynams.training.seeds import generator
from dynams.training.session import (
    Session,
    build_session,
    capture,
    check_config,
    planned_samples,
    read_given,
    restore,
)
from dynams.training.signals import choose_of_batch, collect_signals

_LOSS_READ_SECONDS = 1.0


def train(
    config: TrainConfig,
    data: ImageData | None = None,
    *,
    resume: str | Path | None = None,
    interrupt: Interrupt | None = None,
    on_refresh: Callable[[Session, Signals], None] | None = None,
) -> Summary:
    """Train as ``config`` says and leave log, checkpoints and report in the run's directory.

    Args:
        config: the whole run.
        data: images to train on; None loads what ``config.data`` names.
        resume: directory of an earlier run, which goes on where its last checkpoint was. On the
            CPU the result is bit for bit that of a run that was never stopped.
        interrupt: asked after every step whether to stop; None listens for SIGINT and SIGTERM.
        on_refresh: called in every process with the run and what is known of the candidates, at each
            refresh that is to know something, before the selection is made; it must change neither.

    Returns:
        How the run ended. After an interrupt ``completed`` is False and everything is saved.

    Raises:
        ValueError, FileNotFoundError: the data, the network or the devices cannot be had as
            configured.
        ResumeError: ``resume`` cannot be resumed with this configuration.
        NonFiniteLossError: the loss diverged. The last checkpoint, from before, is kept.
    """
    started = time.perf_counter()
    check_early(config, data)
    checkpoint = None
    if resume is not None:
        checkpoint = load_checkpoint(checkpoint_path(resume))
        check_config(checkpoint, config)
    # A proxy rests in some steps, at the latest when no selection is to come any more.
    fabric = build_fabric(
        config.run, unused_parameters=build_choice(config).proxy_width is not None
    )
    with ExitStack() as stack:
        fabric.launch()
        session = build_session(config, fabric, data)
        stack.enter_context(cpu_threads(config.run, _batch_pixels(session)))
        stop = interrupt or stack.enter_context(Interrupt())
        if checkpoint is not None:
            restore(session, checkpoint)
        else:
            read_given(session)
        if fabric.device.type == "cuda":
            stack.enter_context(tuned_convolutions())
        first = fabric.is_global_zero
        run_dir = Path(resume) if resume is not None else _new_run_dir(session)
        log = stack.enter_context(_open_log(session, run_dir)) if first else None
        progress = stack.enter_context(_open_progress(session, first and config.run.progress))
        progress.note(_headline(session, run_dir))
        loop = _Loop(session, run_dir, log, progress, stop, started, on_refresh)
        summary = loop.run()
        if log is not None:
            log.end(summary)
    if first and config.run.report:
        margins = session.sampler.margins
        totals = torch.bincount(session.data.train.labels, minlength=session.data.num_classes)
        write_report(
            run_dir,
            samples=sample_pictures(margins, session.data.train),
            class_totals=totals.tolist(),
        )
    return summary


class _Loop:
    def __init__(
        self,
        session: Session,
        run_dir: Path,
        log: RunLog | None,
        progress: TrainingProgress,
        interrupt: Interrupt,
        started: float,
        on_refresh: Callable[[Session, Signals], None] | None,
    ) -> None:
        self.session = session
        self.config = session.config
        self.fabric = session.fabric
        self.at = session.position
        self.run_dir = run_dir
        self.log = log
        self.progress = progress
        self.stopping = Agreement(session.fabric, lambda: interrupt.requested)
        self.started = started
        self.on_refresh = on_refresh

    def run(self) -> Summary:
        """From where the session is to the last epoch, or until it is asked to stop."""
        if not self.prepare():
            self.save()
            return self.summary(completed=False)
        while self.at.epoch < self.config.optim.epochs:
            if not (self.refresh() and self.train_epoch()):
                self.save()
                return self.summary(completed=False)
            record = self.finish_epoch()
            improved = self.note_accuracy(record)
            self.at.epoch, self.at.step = self.at.epoch + 1, 0
            self.session.sums.clear()
            last = self.at.epoch == self.config.optim.epochs
            if last or improved or self.at.epoch % self.config.run.save_every == 0:
                self.save(best=improved)
            if not last and self.stopping.now():
                self.save()
                return self.summary(completed=False)
        return self.summary(completed=True)

    def prepare(self) -> bool:
        """Compute what must be known before the first epoch. False: asked to stop."""
        session = self.session
        if session.choice.irreducible and "irreducible_loss" not in session.given:
            assert session.holdout is not None
            count = len(session.holdout) * self.config.selection.holdout_epochs
            self.progress.epoch(0, count, "holdout model")
            losses = irreducible_losses(session, stop=self.stopping, advance=self.progress.advance)
            if losses is None:
                return False
            session.given["irreducible_loss"] = losses
        return True

    def refresh(self) -> bool:
        """Begin the epoch, with a new selection when one is due. False: asked to stop."""
        session, epoch = self.session, self.at.epoch
        if self.at.step:
            return True
        wanted = session.sampler.wanted(epoch)
        signals: Signals | None = None
        if wanted:
            signals = collect_signals(
                session,
                wanted,
                stop=self.stopping,
                show=lambda count: self.progress.epoch(epoch, count, "scoring"),
                advance=self.progress.advance,
            )
            if signals is None:
                return False
            if self.on_refresh is not None:
                self.on_refresh(session, signals)
        known = signals
        with session.cost.measure("selection", 0 if known is None else known.count):
            refresh = session.sampler.begin_epoch(epoch, None if known is None else lambda: known)
        if refresh is not None and self.log is not None:
            self.log.refresh(refresh_record(refresh, session.data.train))
        return True

    def train_epoch(self) -> bool:
        """Take the epoch's steps from where it is. False: asked to stop, after some step."""
        session, at, config = self.session, self.at, self.config
        with session.cost.measure("data"):
            places = session.sampler.order()
            order = places.to(session.data.train.images.device)
            weights = session.sampler.order_weights()
        bounds = step_bounds(len(order), config.optim.batch_size)
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        self.progress.epoch(at.epoch, len(order), "training")
        self.progress.advance(session.sampler.consumed)
        session.module.train()
        proxy = session.proxy_needed()
        batch_strategy = session.choice.batch
        if session.sampler.phase(at.epoch) != "selected":
            batch_strategy = None
        next_read = time.perf_counter() + _LOSS_READ_SECONDS
        for start, stop in bounds[at.step :]:
            first, last = share(start, stop, rank, processes)
            with session.cost.measure("data", last - first):
                images, labels = session.batches.training(
                    session.data.train,
                    order[first:last],
                    generator(
                        self.fabric.device,
                        config.run.seed,
                        purpose="augmentation",
                        epoch=at.epoch,
                        step=at.step,
                        rank=rank,
                    ),
                )
            set_learning_rate(session.optimizer, self.rate(at.step, len(bounds)))
            mine = places[first:last]
            choose = None
            if batch_strategy is not None:
                choose = partial(
                    choose_of_batch,
                    session,
                    batch_strategy,
                    labels=labels,
                    indices=mine,
                    progress=(at.epoch + at.step / len(bounds)) / config.optim.epochs,
                )
            output = session.train_step(
                images,
                labels,
                proxy=proxy and session.proxy_turn(),
                scale=(last - first) * processes / (stop - start),
                weights=None if weights is None else weights[first:last],
                choose=choose,
            )
            session.sums.add(output.loss, output.proxy_loss, output.samples, output.proxy_samples)
            if session.visits is not None:
                with session.cost.measure("scoring"):
                    session.visits.record(at.epoch, mine, output.logits, labels)
            session.sampler.advance(stop - start)
            at.step += 1
            at.global_step += 1
            # Of other processes' choices nothing is known here: taken to keep as much.
            at.samples += round((stop - start) * output.samples / (last - first))
            # Else its logits would stay beside those of the next step.
            del output
            loss = None
            if (now := time.perf_counter()) >= next_read:
                next_read = now + _LOSS_READ_SECONDS
                loss = self.read_loss()
            self.progress.advance(stop - start, loss)
            if self.stopping():
                return False
        return True

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step of this epoch: at the step's middle, so that none is zero."""
        done = (self.at.epoch + (step + 0.5) / steps) / self.config.optim.epochs
        return learning_rate(self.config.optim, done)

    def read_loss(self) -> float:
        """Read this process' mean loss of the epoch so far; waits for the device.

        Raises:
            NonFiniteLossError: it is not finite, and no other process would wait for this one.
        """
        loss, _ = self.session.sums.means()
        if self.fabric.world_size == 1:
            self.check_loss(loss)
        return loss

    def check_loss(self, loss: float | None) -> None:
        if loss is None or math.isfinite(loss):
            return
        kept = checkpoint_path(self.run_dir)
        raise NonFiniteLossError(
            f"the loss became {loss} in epoch {self.at.epoch + 1}: try a smaller optim.lr or a "
            "longer optim.warmup"
            + (f"; the checkpoint of before is kept in {kept}" if kept.exists() else "")
        )

    def finish_epoch(self) -> EpochRecord:
        """Read the losses, evaluate when it is time, and log the epoch."""
        session, at = self.session, self.at
        loss, proxy_loss = session.sums.means(self.fabric)
        self.check_loss(loss)
        self.check_loss(proxy_loss)
        average_buffers(self.fabric, session.module)
        accuracy = proxy_accuracy = None
        epochs = self.config.optim.epochs
        if at.epoch + 1 == epochs or (at.epoch + 1) % self.config.run.evaluate_every == 0:
            images = session.data.test
            self.progress.epoch(at.epoch, len(images) // self.fabric.world_size, "evaluation")
            with session.cost.measure("evaluation", len(images)):
                result = evaluate(
                    self.fabric,
                    session.module,
                    images,
                    session.batches,
                    proxy_width=session.choice.proxy_width,
                    batch_size=self.config.selection.batch_size,
                    advance=self.progress.advance,
                )
            accuracy, proxy_accuracy = result.full, result.proxy
        record = EpochRecord(
            epoch=at.epoch,
            loss=loss,
            proxy_loss=proxy_loss,
            lr=self.rate(at.step - 1, at.step),
            budget=session.sampler.budget_at(at.epoch),
            samples=session.sums.count(self.fabric),
            steps=at.step,
            accuracy=accuracy,
            proxy_accuracy=proxy_accuracy,
            seconds=session.cost.lap(),
        )
        if self.log is not None:
            self.log.epoch(record)
        self.progress.finish_epoch(record)
        return record

    def note_accuracy(self, record: EpochRecord) -> bool:
        """Remember what was reached. True: better than ever before."""
        if record.accuracy is None:
            return False
        at = self.at
        at.accuracy, at.proxy_accuracy = record.accuracy, record.proxy_accuracy
        if at.best_accuracy is not None and record.accuracy <= at.best_accuracy:
            return False
        at.best_accuracy = record.accuracy
        return True

    def total_seconds(self) -> float:
        return self.at.earlier_seconds + time.perf_counter() - self.started

    def save(self, *, best: bool = False) -> None:
        """Save the run as it is now. All processes wait for it."""
        average_buffers(self.fabric, self.session.module)
        checkpoint = capture(self.session, self.total_seconds())
        if self.fabric.is_global_zero:
            save_checkpoint(self.run_dir, checkpoint, best=best)
        self.fabric.barrier()

    def summary(self, *, completed: bool) -> Summary:
        session, at = self.session, self.at
        return Summary(
            accuracy=math.nan if at.accuracy is None else at.accuracy,
            proxy_accuracy=at.proxy_accuracy,
            proxy_width=session.choice.proxy_width,
            epochs=at.epoch,
            samples=at.samples,
            steps=at.global_step,
            seconds=session.cost.seconds(),
            total_seconds=self.total_seconds(),
            completed=completed,
            run_dir=str(self.run_dir),
        )


def _new_run_dir(session: Session) -> Path:
    """Make a new directory, the same for every process, holding the configuration."""
    run_dir: Path | None = None
    if session.fabric.is_global_zero:
        run_dir = make_run_dir(session.config)
        write_config(run_dir, session.config)
    return Path(session.fabric.broadcast(str(run_dir)))


def _open_log(session: Session, run_dir: Path) -> RunLog:
    at, tensorboard = session.position, session.config.run.tensorboard
    if at.global_step or at.epoch:
        return RunLog.resume(run_dir, at.epoch, keep_refresh=at.step > 0, tensorboard=tensorboard)
    log = RunLog(run_dir, tensorboard=tensorboard)
    fabric = session.fabric
    log.start(session.config.to_dict(), environment(fabric.device, fabric.world_size))
    return log


def _open_progress(session: Session, enabled: bool) -> TrainingProgress:
    return TrainingProgress(
        session.config.optim.epochs,
        enabled=enabled,
        first_epoch=session.position.epoch,
        epoch_samples=planned_samples(session),
    )


def _headline(session: Session, run_dir: Path) -> str:
    config, data, at = session.config, session.data, session.position
    parameters = sum(parameter.numel() for parameter in session.module.parameters())
    width = session.choice.proxy_width
    proxy = "" if width is None else f", proxy of width {width:g}"
    going_on = f", from epoch {at.epoch + 1}, step {at.step}" if at.epoch or at.step else ""
    return (
        f"{run_dir}: {config.data.name}, {len(data.train):,} training and {len(data.test):,} test "
        f"images; {config.model.name}, {parameters:,} parameters{proxy}; "
        f"{session.fabric.world_size} x {session.fabric.device.type}{going_on}"
    )


def _batch_pixels(session: Session) -> int:
    return session.config.optim.batch_size * session.data.train.images[0, 0].numel()
