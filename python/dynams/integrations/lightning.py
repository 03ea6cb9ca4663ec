"""Selection in Lightning: a callback that begins the epochs, and the loader of what they train on.

Lightning measures a loader once; the callback has its own, a `SelectionLoader`, measured for every epoch. Being iterated
for that is what begins the epoch, before anything else of it happens.

`lightning.pytorch` and `pytorch_lightning` are the same code under two names: their trainers take this callback alike.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

import dynams_kernels as dk
from dynams.integrations.lightning_loader import SelectionLoader
from dynams.packages import needed
from dynams.selection import SubsetSampler, score_batches


def _callback_class() -> Any:
    new, old = "lightning.pytorch", "pytorch_lightning"
    installed = [name for name in (new, old) if find_spec(name.partition(".")[0])]
    # Where both are installed, the one in use: importing the other one takes seconds.
    name = next((each for each in installed if each in sys.modules), (*installed, new)[0])
    return needed(name).Callback


_Callback: Any = _callback_class()


class SelectionCallback(_Callback):  # type: ignore[misc]
    """Trains every epoch on the sampler's selection, each sample once over all ranks, and resumes exactly.

        sampler = SubsetSampler(len(train_set), budget=0.6, epochs=10)
        selection = SelectionCallback(sampler, DataLoader(plain_set, 1000, sampler=RankShard(len(plain_set))))
        trainer = Trainer(max_epochs=10, callbacks=[selection])
        trainer.fit(module, selection.loader(train_set, batch_size=128, num_workers=4), val_loader)

    The sampler's state is part of checkpoints; `fit(ckpt_path=...)` goes on behind the last batch trained on.

    Args:
        sampler: what selects; a new one for each training.
        scoring: a loader of all samples in order, without augmentation, for `score_batches`; on several ranks
            with a `RankShard`. The module's forward gives the logits, in the trainer's precision. None: the
            sampler's own `score` is called.
        forward: called as `forward(module, inputs)` for the logits, in place of `module(inputs)`.
        indices: of `score_batches`.
        kind: of score, the one that the sampler's strategy ranks by.

    Attributes:
        sampler: what selects.
        batch: indices of the batch being trained on, of this rank, in its order.
    """

    def __init__(
        self,
        sampler: SubsetSampler,
        scoring: Iterable[Any] | None = None,
        *,
        forward: Callable[[Any, Any], Tensor] | None = None,
        indices: Callable[[Any], tuple[Any, ...]] | None = None,
        kind: dk.ScoreKind = "gap",
    ) -> None:
        if not isinstance(sampler, SubsetSampler):
            raise TypeError(f"sampler: got {type(sampler).__name__}, want a SubsetSampler")
        self.sampler = sampler
        self.batch: list[int] = []
        self._scoring, self._forward, self._indices, self._kind = scoring, forward, indices, kind
        self._loader: SelectionLoader | None = None
        self._trainer: Any = None
        self._running = False  # the network is in place and can be scored
        self._begun: int | None = None  # the epoch that was begun last in this fit
        self._reload = 0  # the trainer's reload_dataloaders_every_n_epochs, as the user has it

    @property
    def weights(self) -> Tensor:
        """Weights (B,) float32 of the losses of `batch`, on the sampler's device; most strategies give all 1."""
        indices, weights = self.sampler.indices, self.sampler.weights
        if weights is None:
            return torch.ones(len(self.batch), device=indices.device)
        # Of the batch alone: this is asked for in every step, and there may be millions of samples.
        batch = torch.tensor(self.batch, dtype=torch.int64, device=indices.device)
        return weights[torch.searchsorted(indices, batch)]

    def loader(
        self, dataset: Any, batch_size: int = 1, drop_last: bool = False, **options: Any
    ) -> SelectionLoader:
        """Return the loader for `fit`, or for `train_dataloader`; one and the same for the same arguments.

        Args:
            dataset: the training set.
            batch_size: of each rank.
            drop_last: leave out what makes no full batch.
            options: of a torch `DataLoader`, but for what decides the order.

        Raises:
            ValueError: `dataset` has another length than the sampler, or an option decides the order.
            TypeError: `dataset` has no length or no items.
        """
        made = SelectionLoader(
            self.sampler, self._begin, self._measured, dataset, batch_size, drop_last, options
        )
        if self._loader is None or not self._loader.same(made):
            self._loader = made
            if self._trainer is not None:
                made.open_for(self._trainer.global_rank, self._trainer.world_size)
        return self._loader

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot go well."""
        if stage != "fit":
            return
        self._trainer, self._running, self._begun = trainer, False, None
        if self._loader is not None:
            self._loader.open_for(trainer.global_rank, trainer.world_size)
        epochs, strategy = self.sampler.timetable.epochs, type(trainer.strategy)
        endless = trainer.max_epochs == -1 and trainer.max_steps == -1
        if epochs is not None and (trainer.max_epochs > epochs or endless):
            raise ValueError(
                f"max_epochs: got {trainer.max_epochs}, want at most {epochs}, the sampler's"
            )
        if trainer.overfit_batches:
            raise ValueError(
                f"overfit_batches: got {trainer.overfit_batches}, want 0: it takes the first samples of the data set"
            )
        kinds = {each.__name__ for each in strategy.mro()}
        apart = "DeepSpeedStrategy" in kinds or not kinds & {"SingleDeviceStrategy", "DDPStrategy"}
        if self._scoring is not None and apart:
            raise ValueError(
                f"strategy: got {strategy.__name__}, want one device or DDP, or a sampler with a score of "
                "your own: a rank that holds a part of the network cannot score alone"
            )
        if _limited(trainer) and not trainer.fast_dev_run:
            _tell(
                trainer,
                f"limit_train_batches: got {trainer.limit_train_batches}, by which epochs end before their "
                "selections do; shorter epochs that do not: SubsetSampler(epoch_length=...)",
            )

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """From here on the loader begins epochs."""
        self._running = True
        self._reload = trainer.reload_dataloaders_every_n_epochs
        trainer.reload_dataloaders_every_n_epochs = 1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse another loader, and plans that the lengths of the epochs do not allow."""
        if self._loader is None or trainer.train_dataloader is not self._loader:
            raise ValueError(
                f"train_dataloaders: got a {type(trainer.train_dataloader).__name__}, want what "
                "SelectionCallback.loader(dataset, batch_size=...) gives"
            )
        epochs = self.sampler.timetable.epochs
        if epochs is not None and trainer.max_epochs > epochs:
            raise ValueError(
                f"max_epochs: got {trainer.max_epochs}, one of them a callback's (StochasticWeightAveraging adds one for "
                f"batch norm), want at most the sampler's {epochs}: SubsetSampler(epochs={trainer.max_epochs})"
            )
        planned, interval = self.planned(trainer), trainer.val_check_interval
        if (
            trainer.check_val_every_n_epoch
            and trainer.limit_val_batches
            and isinstance(interval, int)
            and interval > min(planned)
        ):
            raise ValueError(
                f"val_check_interval: got {interval}, want at most {min(planned)}, the batches of the "
                "shortest epoch, or check_val_every_n_epoch=None"
            )
        steps = _steps(planned, trainer)
        if trainer.max_epochs == -1 and self.sampler.timetable.epochs and trainer.max_steps > steps:
            raise ValueError(
                f"max_steps: got {trainer.max_steps}, want at most {steps}, those of the sampler's "
                f"{len(planned)} epochs"
            )
        # A loader that was measured for estimated_stepping_batches was not measured again.
        if self._begun is None:
            self._begin()
        if trainer.current_epoch != self.sampler.epoch or self.sampler.consumed == 0:
            # A new epoch. Where a checkpoint is of the end of the one before, Lightning may count on from its batches.
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Refuse a batch that is another one than Lightning counts."""
        assert self._loader is not None
        trainer.reload_dataloaders_every_n_epochs = self._reload  # the loaders of validation stay
        if not self._loader.drawn:
            raise ValueError("training_step: got one of dataloader_iter, want one of batch")
        self.batch = self._loader.drawn.popleft()
        consumed, want = self.sampler.consumed, batch_idx * self._loader.stride
        if consumed != want:
            raise RuntimeError(
                f"sampler: got {consumed} samples of epoch {trainer.current_epoch} trained on, want {want} "
                f"before batch {batch_idx}: in the middle of an epoch resume with the same batch size and "
                "number of ranks, and begin a training with a new sampler"
            )
        length = len(self._loader)
        # StochasticWeightAveraging counts one batch more in its epoch for batch norm, which trains nothing.
        averaged = getattr(trainer.fit_loop, "_skip_backward", False)
        if trainer.num_training_batches != length and not (_limited(trainer) or averaged):
            raise RuntimeError(
                f"num_training_batches: got {trainer.num_training_batches} in epoch {trainer.current_epoch}, "
                f"want {length}: want stepping_batches(trainer) in place of trainer.estimated_stepping_batches"
            )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch as trained on; `ModelCheckpoint` saves after this."""
        assert self._loader is not None
        if (
            batch is None
        ):  # a collator's, of no good sample: Lightning skips it, and the start of it
            self._loader.drawn.popleft()
        self._loader.share.advance()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Have the loader measured again."""
        trainer.reload_dataloaders_every_n_epochs = 1

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stop the workers, and give the trainer its setting back."""
        if self._running:
            self.on_exception(trainer, pl_module, None)
            self._trainer, self._running = None, False

    def on_exception(self, trainer: Any, pl_module: Any, exception: Any) -> None:
        """Do what `teardown` would do, which is not called then."""
        if self._running:
            trainer.reload_dataloaders_every_n_epochs = self._reload
            if self._loader is not None:
                self._loader.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state."""
        return self.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the sampler's state."""
        self.sampler.load_state_dict(state_dict)

    def _begin(self) -> None:
        """Begin the trainer's epoch, if that was not done; before the fit there is none."""
        trainer = self._trainer
        if trainer is None or self not in trainer.callbacks:
            raise ValueError(
                "callbacks: got no fit, or a trainer without the SelectionCallback of its loader (a learning-rate finder "
                "leaves it out), want Trainer(callbacks=[selection]).fit, or a plain DataLoader"
            )
        if not self._running or trainer.current_epoch == self._begun:
            return
        try:
            self.sampler.begin_epoch(
                trainer.current_epoch, None if self._scoring is None else self._score
            )
        except TypeError as error:  # which Lightning takes for a loader that cannot be iterated
            raise ValueError(str(error)) from error
        self._begun, self.batch = trainer.current_epoch, []

    def _measured(self) -> int:
        """Count the batches of the epoch on each rank; before the fit, those planned for the first one."""
        assert self._loader is not None
        if self._trainer is None:
            return len(self._loader.share)
        planned = self.planned(self._trainer)
        if 0 in planned:  # at which Lightning ends the training as if it were done
            raise ValueError(
                f"drop_last: got True with batches of {self._loader.stride} samples over all ranks, want False or "
                f"smaller ones: epoch {planned.index(0)} would have none"
            )
        if self._running:
            return len(self._loader.share)
        if self._trainer.max_epochs != -1 and len(set(planned)) > 1:
            _tell(
                self._trainer,
                "trainer.estimated_stepping_batches: got all epochs taken for as long as the first, want "
                f"stepping_batches(trainer): {stepping_batches(self._trainer)}",
            )
        return planned[0]

    def planned(self, trainer: Any) -> list[int]:
        """Count the batches of each epoch on each rank; where the strategy decides, at most."""
        if self._loader is None:
            raise ValueError("loader: got none yet, want SelectionCallback.loader(...) before")
        times, count = self.sampler.timetable, self.sampler.num_samples
        epochs = times.epochs if trainer.max_epochs == -1 else trainer.max_epochs
        # Where nobody knows the end, the budget is constant.
        every = range(times.warmup_epochs + 1 if epochs is None else epochs)
        sizes = [times.walked(times.planned_size(epoch, count)) for epoch in every]
        return [self._loader.batches_of(size) for size in sizes]

    def _score(self) -> Any:
        precision, forward = self._trainer.precision_plugin, self._forward

        def logits(module: Any, inputs: Any) -> Tensor:
            inputs = precision.convert_input(inputs)
            with precision.forward_context():
                return module(inputs) if forward is None else forward(module, inputs)

        module = self._trainer.lightning_module
        assert self._scoring is not None
        return score_batches(
            module,
            self._scoring,
            forward=logits,
            indices=self._indices,
            kind=self._kind,
            device=module.device,
        )


def stepping_batches(trainer: Any) -> int | float:
    """Count the optimizer's steps of a whole training, for learning-rate schedules.

    To be used in `configure_optimizers` in place of `trainer.estimated_stepping_batches`, which takes all epochs for as long
    as the first, with as many batches accumulated. Where the strategy decides how many samples to keep it is the most there
    can be.

    Raises:
        ValueError: the trainer has no `SelectionCallback`, or its `loader` was not called yet.
    """
    most = float("inf") if trainer.max_steps == -1 else int(trainer.max_steps)
    for selection in trainer.callbacks:
        if isinstance(selection, SelectionCallback):
            if trainer.max_epochs == -1:
                return most
            return min(most, _steps(selection.planned(trainer), trainer))
    raise ValueError("trainer: got no SelectionCallback among its callbacks, want one")


def _steps(planned: list[int], trainer: Any) -> int:
    limit, steps = trainer.limit_train_batches, 0
    # Lightning's GradientAccumulationScheduler sets the trainer's number at the start of each epoch.
    schedules = [each for each in trainer.callbacks if hasattr(each, "get_accumulate_grad_batches")]
    for epoch, batches in enumerate(planned):
        if _limited(trainer):
            batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
        gathered = trainer.accumulate_grad_batches
        if schedules:
            gathered = schedules[0].get_accumulate_grad_batches(epoch)
        # At the end of an epoch the optimizer steps with whatever was accumulated.
        steps += -(-batches // gathered)
    return steps


def _limited(trainer: Any) -> bool:
    limit = trainer.limit_train_batches  # 1 is a batch, 1.0 is all
    return not (isinstance(limit, float) and limit == 1.0)


def _tell(trainer: Any, message: str) -> None:
    if trainer.is_global_zero:
        warnings.warn(message, stacklevel=3)
