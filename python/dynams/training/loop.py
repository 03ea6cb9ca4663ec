"""The training loop: refresh when due, train on the selection, evaluate, save; epoch by epoch.

Nothing in the loop waits for the device at every step: losses add up on the device and are read
once an epoch and, for the progress display, about once a second. Every random draw is a function
of seed, epoch and step, so a run that was stopped anywhere goes on exactly where it was.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dynams.report import EpochRecord, Summary
from dynams.selection import Signals
from dynams.selection.methods.in_batch import Filter
from dynams.training.batches import share, step_bounds
from dynams.training.checkpoint import save_checkpoint
from dynams.training.choosing import chooser
from dynams.training.distributed import Agreement, average_buffers, own_buffers, put_back
from dynams.training.errors import NonFiniteLossError
from dynams.training.evaluation import evaluate
from dynams.training.filter import filter_choices
from dynams.training.heartbeat import place
from dynams.training.interrupt import Interrupt
from dynams.training.irreducible import irreducible_losses
from dynams.training.journal import Journal
from dynams.training.network import as_module
from dynams.training.optim import learning_rate, set_learning_rate
from dynams.training.processes import Companions
from dynams.training.run import TrainingRun
from dynams.training.rundir import checkpoint_path
from dynams.training.signals import collect_signals, prepare_proxy
from dynams.training.state import capture
from dynams.training.step import StepOutput
from dynams.training.step_sizes import check_steps, naming_settings

_LOSS_READ_SECONDS = 1.0


class Loop:
    """Takes a run from where it is to its end, or until it is asked to stop.

    Args:
        run: all its parts.
        journal: what is told of it.
        companions: its processes.
        interrupt: asks it to stop.
        started: when this process took it over, by `time.perf_counter`.
        on_refresh: see `dynams.training.train`.
    """

    def __init__(
        self,
        run: TrainingRun,
        journal: Journal,
        companions: Companions,
        interrupt: Interrupt,
        started: float,
        on_refresh: Callable[[TrainingRun, Signals], None] | None,
    ) -> None:
        self.run = run
        self.config = run.config
        self.fabric = run.fabric
        self.at = run.position
        self.journal = journal
        self.progress = journal.progress
        self.companions = companions
        self.interrupt = interrupt
        self.stopping = Agreement(run.fabric, lambda: interrupt.requested)
        self.started = started
        self.on_refresh = on_refresh
        # What a network of one's own has without values from the start, as it uses it nowhere, tells nothing.
        weights = list(run.network.parameters())
        self.sound = list(itertools.compress(weights, _finite(weights)))

    def run_epochs(self) -> Summary:
        """From where the run is to the last epoch, or until it is asked to stop."""
        if not self.prepare():
            self.save()
            return self.summary(completed=False)
        while self.at.epoch < self.config.optim.epochs:
            improved = self.finish_epoch() if self.refresh() and self.train_epoch() else None
            if improved is None:
                self.save()
                return self.summary(completed=False)
            last = self.at.epoch == self.config.optim.epochs
            if last or improved or self.at.epoch % self.config.run.save_every == 0:
                self.save(best=improved)
            if not last and self.stopping.now():
                self.save()
                return self.summary(completed=False)
        return self.summary(completed=True)

    def prepare(self) -> bool:
        """Compute what must be known before the first epoch. False: asked to stop."""
        run = self.run
        if run.selector.irreducible and "irreducible_loss" not in run.given:
            assert run.held_out is not None
            count = len(run.held_out) * self.config.selection.holdout_epochs
            self.progress.epoch(0, count, "holdout model")
            advance = self.advancing("holdout model")
            losses = irreducible_losses(run, stop=self.stopping, advance=advance)
            if losses is None:
                return False
            run.given["irreducible_loss"] = losses
            self.save()  # it took epochs, which the next steps are not to put at risk
        chosen = run.selector.batch
        if isinstance(chosen, Filter) and chosen.rows != run.sampler.timetable.selected_epochs:
            epochs = self.config.optim.epochs - run.sampler.timetable.tail_epochs
            self.progress.epoch(0, epochs * len(run.batches), "filter")
            advance = self.advancing("filter")
            chosen.choices = filter_choices(run, chosen, stop=self.stopping, advance=advance)
            if chosen.choices is None:
                return False
            self.save()
        return True

    def refresh(self) -> bool:
        """Begin the epoch, with a new selection when one is due. False: asked to stop."""
        run, epoch = self.run, self.at.epoch
        if self.at.step:
            return True
        if run.selector.batch is not None and run.sampler.phase(epoch) == "selected":
            prepare_proxy(run)
        wanted = run.sampler.wanted(epoch)
        known: Signals | None = None
        if wanted:
            known = collect_signals(
                run,
                wanted,
                stop=self.stopping,
                show=lambda count: self.progress.epoch(epoch, count, "scoring"),
                advance=self.advancing("scoring"),
            )
            if known is None:
                return False
            if self.on_refresh is not None:
                self.on_refresh(run, known)
        with run.clock.measure("selection", 0 if known is None else known.count):
            refresh = run.sampler.begin_epoch(epoch, None if known is None else lambda: known)
        self.journal.refresh(refresh)
        return True

    def train_epoch(self) -> bool:
        """Take the epoch's steps from where it is. False: asked to stop, after some step."""
        run, at = self.run, self.at
        with run.clock.measure("data"):
            order, weights = run.sampler.order(), run.sampler.order_weights()
        check_steps(run, at.epoch, len(order))
        optim = self.config.optim
        bounds = step_bounds(len(order), optim.batch_size, drop_last=optim.drop_last)
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        self.progress.epoch(at.epoch, bounds[-1][1], "training")
        self.progress.advance(run.sampler.consumed)
        self.stopping.begin()
        self.come_to("training", 3 * at.step)
        run.network.train()
        if optim.first_layer_epochs is not None and at.epoch >= optim.first_layer_epochs:
            for parameter in run.first_layer:
                parameter.requires_grad_(False)
        proxy, next_read = run.proxy_needed(), time.perf_counter() + _LOSS_READ_SECONDS
        every = self.config.run.save_every_steps
        batches = run.batches.epoch(
            order, bounds, epoch=at.epoch, first_step=at.step, clock=run.clock
        )
        for (start, stop), (images, labels) in zip(bounds[at.step :], batches, strict=True):
            first, last = share(start, stop, rank, processes)
            mine = order[first:last]
            self.come_to("training", 3 * at.step + 1)
            set_learning_rate(run.optimizer, self.rate(at.step, len(bounds)))
            run.seed_network(at.epoch, at.step)
            with naming_settings(run, last - first):
                output = run.train_step(
                    images,
                    labels,
                    proxy=proxy and run.proxy_turn(),
                    scale=(last - first) * processes / (stop - start),
                    weights=None if weights is None else weights[first:last],
                    choose=chooser(run, labels, mine, first, len(bounds)),
                )
            self.note_step(output, mine, labels)
            run.sampler.advance(stop - start)
            at.step += 1
            at.global_step += 1
            if run.lookahead is not None:
                done = (at.epoch + at.step / len(bounds)) / optim.epochs
                with run.clock.measure("training"):
                    run.lookahead.after_step(at.global_step, done)
            self.interrupt.nothing_to_save = False
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
            if every is not None and at.global_step % every == 0 and at.step < len(bounds):
                self.come_to("training", 3 * at.step - 1)
                self.save()
            self.come_to("training", 3 * at.step)
        return True

    def come_to(self, phase: str, count: int) -> None:
        """Tell the other processes how far this one is."""
        self.companions.come_to(place(self.at.epoch, phase, count))

    def advancing(self, phase: str) -> Callable[[int], None]:
        """What is told, batch by batch, how far a part of the epoch is that begins now."""
        self.stopping.begin()
        done = 0
        self.come_to(phase, done)

        def advance(samples: int) -> None:
            nonlocal done
            done += 1
            self.come_to(phase, done)
            self.progress.advance(samples)

        return advance

    def note_step(self, output: StepOutput, indices: Tensor, labels: Tensor) -> None:
        """Keep what the step leaves behind: its losses, and what is wanted of its samples."""
        run = self.run
        run.sums.add(output.loss, output.proxy_loss, output.samples, output.proxy_samples)
        if run.visits is not None:
            with run.clock.measure("scoring"):
                run.visits.record(self.at.epoch, indices, output.logits, labels)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step of this epoch: at the step's middle, so that none is zero."""
        done = (self.at.epoch + (step + 0.5) / steps) / self.config.optim.epochs
        return learning_rate(self.config.optim, done)

    def read_loss(self) -> float:
        """Read this process' mean loss of the epoch so far; waits for the device.

        Raises:
            NonFiniteLossError: it is not finite, and no other process would wait for this one.
        """
        loss, _ = self.run.sums.means()
        if self.fabric.world_size == 1:
            self.check_loss(loss)
        return loss

    def check_loss(self, loss: float | None, what: str = "loss") -> None:
        """Refuse to go on from a loss that is no number.

        Raises:
            NonFiniteLossError: it is not finite.
        """
        if loss is None or math.isfinite(loss):
            return
        kept = checkpoint_path(self.journal.run_dir)
        # Behind the last step of an epoch the next one has not begun.
        epoch = self.at.epoch + (1 if self.at.step else 0)
        raise NonFiniteLossError(
            f"the {what} became {loss} in epoch {epoch}: try a smaller optim.lr or a longer optim.warmup"
            + (f"; the checkpoint of before is kept in {kept}" if kept.exists() else "")
        )

    def check_diverged(self) -> None:
        """Refuse to take a checkpoint of what nothing can go on from. All processes must come here together.

        Raises:
            NonFiniteLossError: a loss is not finite, or the last step has left weights that are not.
        """
        for loss in self.run.sums.means(self.fabric):
            self.check_loss(loss)
        if not all(_finite(self.sound)):
            self.check_loss(math.nan, "weights")

    def finish_epoch(self) -> bool | None:
        """Read the losses, evaluate when it is time, tell of the epoch.

        Returns:
            Whether it is better than ever before; None: asked to stop, before the epoch's end.
        """
        run, at = self.run, self.at
        loss, proxy_loss = run.sums.means(self.fabric)
        self.check_loss(loss)
        self.check_loss(proxy_loss)
        average_buffers(self.fabric, as_module(run.network))
        if run.visits is not None:
            # Whether this epoch is saved or not, the next one begins with the same knowledge.
            run.visits.merge()
        found = self.evaluate()
        if found is None:
            return None
        accuracy, proxy_accuracy = found
        record = EpochRecord(
            epoch=at.epoch,
            loss=loss,
            proxy_loss=proxy_loss,
            lr=self.rate(at.step - 1, at.step),
            budget=run.sampler.budget_at(at.epoch),
            samples=run.sums.count(self.fabric),
            steps=at.step,
            accuracy=accuracy,
            proxy_accuracy=proxy_accuracy,
            seconds=run.clock.lap(),
        )
        self.journal.epoch(record)
        at.epoch, at.step = at.epoch + 1, 0
        run.sums.clear()
        return at.reached(accuracy, proxy_accuracy)

    def evaluate(self) -> tuple[float | None, float | None] | None:
        """Accuracy at full width and at the proxy's, when it is time; else not known. None: asked to stop."""
        run, done = self.run, self.at.epoch + 1
        if done != self.config.optim.epochs and done % self.config.run.evaluate_every:
            return None, None
        count = len(run.test)
        self.progress.epoch(self.at.epoch, count // self.fabric.world_size, "evaluation")
        with run.clock.measure("evaluation"):
            found = evaluate(
                self.fabric,
                run.network,
                run.test,
                proxy_width=run.selector.proxy_width,
                batch_size=run.reading_size(count),
                views=self.config.run.test_views,
                stop=self.stopping,
                advance=self.advancing("evaluation"),
            )
        if found is None:
            return None
        run.clock.count("evaluation", count)  # one that was given up is done anew
        return found.full, found.proxy

    def total_seconds(self) -> float:
        """Wall-clock seconds of the run, those before it was resumed too."""
        return self.at.earlier_seconds + time.perf_counter() - self.started

    def save(self, *, best: bool = False) -> None:
        """Save the run as it is now, and leave it so. All processes wait for it.

        Raises:
            NonFiniteLossError: it has diverged; the checkpoint of before stays.
        """
        self.check_diverged()
        network = as_module(self.run.network)
        own = own_buffers(self.fabric, network)
        checkpoint = capture(self.run, self.total_seconds())
        if self.fabric.is_global_zero:
            save_checkpoint(self.journal.run_dir, checkpoint, best=best)
        put_back(network, own)
        self.fabric.barrier()

    def summary(self, *, completed: bool, failure: str | None = None) -> Summary:
        """Sum up the run as far as it is."""
        run, at = self.run, self.at
        return Summary(
            accuracy=math.nan if at.accuracy is None else at.accuracy,
            proxy_accuracy=at.proxy_accuracy,
            proxy_width=run.selector.proxy_width,
            epochs=at.epoch,
            samples=at.samples,
            steps=at.global_step,
            seconds=run.clock.seconds(),
            total_seconds=self.total_seconds(),
            completed=completed,
            run_dir=str(self.journal.run_dir),
            failure=failure,
        )


def _finite(weights: list[nn.Parameter]) -> list[bool]:
    """Tell of each whether all of it is finite, by one wait for the device."""
    told = [each.detach().isfinite().all() for each in weights]
    return torch.stack(told).tolist() if told else []
