"""Margin selection in the Trainer of Hugging Face transformers: a mixin over its public hooks.

Trainer plans a training from the length of its loader, once; epochs of a selection differ in length. So the
loader given to it here has none, and Trainer is told the number of updates, `max_steps`, as for any stream:
the sampler alone knows where epochs begin and end, and what of them was trained on.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from dynams.packages import needs
from dynams.selection import RankShard, SubsetSampler, score_batches

with needs("transformers"):
    from transformers import TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

if TYPE_CHECKING:
    from typing import Any as _Trainer  # it comes behind, and its types differ between its versions
else:
    _Trainer = object

_FILE = "sampler.pt"  # in the folder of a checkpoint
# What a loader made here takes over from Trainer's: the data set without unused columns, workers and so on.
_TAKEN_OVER = (
    "dataset num_workers pin_memory timeout worker_init_fn multiprocessing_context prefetch_factor "
    "persistent_workers"
).split()


class MarginSelection(_Trainer):  # type: ignore[misc]
    """A Trainer that trains each epoch on a selection of `train_dataset`.

        class SelectiveTrainer(MarginSelection, Trainer):
            pass

        trainer = SelectiveTrainer(model=model, args=args, train_dataset=data, selection={"budget": 0.6})

    An update's samples are dealt to all processes and micro-batches: none twice, none filled up. The last
    update of an epoch, which is smaller, is dealt evenly; fewer samples than there are micro-batches join the
    update before. Steps and learning rate are planned from the sizes of all epochs; checkpoints hold the
    sampler's state, and a resumed training goes on with the very next sample.

    Args:
        selection: arguments of `SubsetSampler` beside `num_samples`. Where not given, `epochs` is
            `num_train_epochs`, `seed` that of the arguments, and `score` is `score_samples`.
        scoring_dataset: the samples of `train_dataset`, in its order, as they are to be scored: without random
            augmentation, say. None: `train_dataset`.
        args, callbacks, kwargs: Trainer's.

    Attributes:
        sampler: the `SubsetSampler`.

    Raises:
        ValueError: an argument of Trainer's asks for another order or size of batches, or does not fit to
            `selection`.
        TypeError: `train_dataset` has no length or no items, or `selection` is no mapping.
    """

    def __init__(
        self,
        *args: Any,
        selection: Mapping[str, Any],
        scoring_dataset: Any = None,
        callbacks: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(selection, Mapping):
            raise TypeError(
                f"selection: got {selection!r}, want SubsetSampler's arguments by name, such as {{'budget': 0.6}}"
            )
        # Not itself, or a circle would keep the trainer, and the worker processes of its loader, for a while.
        trainer: Any = weakref.proxy(self)
        super().__init__(*args, callbacks=[_Bookkeeping(trainer), *(callbacks or ())], **kwargs)
        _check(self)
        self.scoring_dataset = self.train_dataset if scoring_dataset is None else scoring_dataset
        if len(self.scoring_dataset) != len(self.train_dataset):
            raise ValueError(
                f"scoring_dataset: got {len(self.scoring_dataset)} samples, want the "
                f"{len(self.train_dataset)} of train_dataset"
            )
        asked, data_seed = self.args, self.args.data_seed
        defaults = {
            "seed": asked.seed if data_seed is None else data_seed,
            "epochs": _epochs(asked) if asked.max_steps <= 0 else None,
            "score": lambda: trainer.score_samples(),
        }
        self.sampler = SubsetSampler(len(self.train_dataset), **{**defaults, **selection})
        strategy = self.sampler.strategy
        if strategy.needs and not strategy.budgeted and selection.get("epoch_length") is None:
            raise ValueError(
                "strategy: got one that decides itself how many samples to keep, want epoch_length beside it"
            )
        self._untouched = self.sampler.state_dict()

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, **kwargs: Any
    ) -> Any:
        """Train as Trainer does, from the start or from a checkpoint; see there.

        Raises:
            ValueError: the arguments do not fit to the epochs of the selection, the checkpoint is of another
                training, or a search of hyperparameters is asked for.
        """
        if trial is not None:
            raise ValueError("trial: got one, want None: the selection is planned for one training")
        steps = self.planned_steps()
        if resume_from_checkpoint is True:
            newest: Any = get_last_checkpoint
            resume_from_checkpoint = newest(self.args.output_dir) or True
        if isinstance(resume_from_checkpoint, (str, Path)):
            self._load(Path(resume_from_checkpoint))
        else:
            self.sampler.load_state_dict(self._untouched)
        asked = self.args
        before = asked.max_steps, asked.ignore_data_skip
        # The sampler resumes itself, in the middle of an epoch too: nothing of its order is to be skipped.
        asked.max_steps, asked.ignore_data_skip = steps, True
        try:
            return super().train(resume_from_checkpoint, **kwargs)
        finally:
            asked.max_steps, asked.ignore_data_skip = before

    def planned_steps(self) -> int:
        """Count the updates of the whole training: what `max_steps` asks for, or all of `num_train_epochs`.

        Raises:
            ValueError: there are fewer than `max_steps`, the epochs are others than the selection's, or one of
                them has no update.
        """
        asked, sampler = self.args, self.sampler
        epochs = sampler.timetable.epochs
        if asked.max_steps <= 0 and epochs != _epochs(asked):
            raise ValueError(f"epochs: got {epochs}, want {_epochs(asked)}, the num_train_epochs")
        size, parts = self._dealt
        least = size * parts if asked.dataloader_drop_last else parts
        if (shortest := self._shortest_epoch()) < least:
            raise ValueError(
                f"selection: got {shortest} samples in an epoch, want at least {least}, those of an update "
                f"of {parts} micro-batches"
            )
        if epochs is None:
            return int(asked.max_steps)
        steps = sampler.total_steps(size, asked.dataloader_drop_last, world=parts)
        if asked.max_steps > steps:
            raise ValueError(
                f"max_steps: got {asked.max_steps}, want at most {steps}, all of epochs={epochs}"
            )
        return int(asked.max_steps) if asked.max_steps > 0 else steps

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process' share, of the epoch at hand whenever it is iterated."""
        given = super().get_train_dataloader()
        generator = torch.Generator()
        self._batches = batches = _Batches(self, generator)
        # Its own generator: one that is made in the middle of an epoch leaves dropout's numbers as they were.
        return _loader(given, given.collate_fn, batch_sampler=batches, generator=generator)

    def score_samples(self) -> Any:
        """Score all samples, by this process its share of them: what the sampler's `score` is to give.

        Override it where a strategy needs more than one score of the network's logits.
        """
        wanted: list[Any] = sorted(self.sampler.strategy.needs)
        if len(wanted) != 1:
            raise ValueError(
                f"strategy: got one that needs {', '.join(wanted)}, want one of a single score, or "
                "score_samples overridden to give them"
            )
        given = self.get_test_dataloader(self.scoring_dataset)
        loader = _loader(
            given,
            _Labelled(given.collate_fn, list(self.label_names)),
            batch_size=self.args.eval_batch_size,
            sampler=RankShard(len(self.scoring_dataset)),
            generator=torch.Generator(),
        )
        return score_batches(self.model, loader, forward=self.selection_logits, kind=wanted[0])

    def selection_logits(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits (B, C) of a batch without labels, in the training's precision."""
        with self.accelerator.autocast():
            output = model(**inputs)
        logits: Tensor = output["logits"] if isinstance(output, dict) else output[0]
        return logits

    @property
    def _dealt(self) -> tuple[int, int]:
        """Most samples of a micro-batch, and micro-batches of an update over all processes."""
        asked = self.args
        return asked.train_batch_size, asked.world_size * asked.gradient_accumulation_steps

    def _shortest_epoch(self) -> int:
        times, count = self.sampler.timetable, self.sampler.num_samples
        if times.epochs is not None:
            return min(times.planned_sizes(count))
        return times.walked(times.planned_size(times.warmup_epochs, count))

    def _load(self, folder: Path) -> None:
        file = folder / _FILE
        if not file.is_file():
            raise ValueError(
                f"resume_from_checkpoint: got {folder} without {_FILE}, want a checkpoint of this trainer"
            )
        saved = torch.load(file, weights_only=True)
        if tuple(saved["dealt"]) != self._dealt:
            raise ValueError(
                "resume_from_checkpoint: got updates of {} samples in {} parts, want {} in {}, those of the "
                "arguments (a part is a process' micro-batch)".format(*saved["dealt"], *self._dealt)
            )
        self.sampler.load_state_dict(saved["sampler"])


class _Batches(Sampler[list[int]]):
    """One process' micro-batches of the epoch at hand. No length: epochs differ in it."""

    def __init__(self, trainer: MarginSelection, generator: torch.Generator) -> None:
        asked = trainer.args
        size, parts = trainer._dealt
        steps = asked.gradient_accumulation_steps
        first = asked.process_index * steps
        self.sampler = trainer.sampler
        # Each micro-batch of an update is a rank of its own, so that every update has all of them.
        self.shares = [
            self.sampler.shard(part, parts, size, asked.dataloader_drop_last)
            for part in range(first, first + steps)
        ]
        self.full = size * parts
        self.generator = generator
        self.process = asked.process_index

    def __iter__(self) -> Iterator[list[int]]:
        """Begin the next epoch where none is open, and walk what is left of it."""
        sampler = self.sampler
        if sampler.epoch is None or sampler.consumed == len(sampler):
            epoch = 0 if sampler.epoch is None else sampler.epoch + 1
            if epoch == sampler.timetable.epochs:  # resumed behind the last one
                return iter(())
            sampler.begin_epoch(epoch)
            if sampler.weights is not None:
                raise ValueError("strategy: got one whose samples have weights, want one without")
        self.generator.manual_seed(sampler.seed + 1_000_003 * (sampler.epoch or 0) + self.process)
        return chain.from_iterable(zip(*self.shares, strict=True))


class _Bookkeeping(TrainerCallback):
    """Tells the sampler what was trained on, and Trainer where the epoch ends; saves the sampler's state."""

    def __init__(self, trainer: MarginSelection) -> None:
        self.trainer = trainer
        self.save_due = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.num_train_epochs = self.trainer.sampler.timetable.epochs or state.num_train_epochs

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        batches = self.trainer._batches
        sampler = batches.sampler
        batches.shares[0].advance()
        left = len(sampler) - sampler.consumed
        if left < (batches.full if args.dataloader_drop_last else 1):
            sampler.advance(left)
            control.should_epoch_stop = True
            # A checkpoint of an epoch's last update resumes behind the epoch: all that ends it comes before.
            self.save_due, control.should_save = control.should_save, False
        state.epoch = (sampler.epoch or 0) + sampler.consumed / len(sampler)
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        sampler = self.trainer.sampler
        control.should_save, self.save_due = control.should_save or self.save_due, False
        if not control.should_training_stop:  # whoever broke the epoch off wants the next one
            sampler.advance(len(sampler) - sampler.consumed)
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.should_save:
            folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
            saved = {"sampler": self.trainer.sampler.state_dict(), "dealt": self.trainer._dealt}
            torch.save(saved, folder / _FILE)


class _Labelled:
    """A collator whose batches are (inputs, labels): scores are of logits, and no loss need be computed."""

    def __init__(self, collate: Callable[[Any], Any], names: list[str]) -> None:
        self.collate = collate
        self.names = names

    def __call__(self, items: Any) -> tuple[dict[str, Any], Any]:
        batch = dict(self.collate(items))
        labels = [batch.pop(name, None) for name in self.names]
        return batch, labels[0] if labels else None


def _loader(given: Any, collate: Any, **how: Any) -> DataLoader[Any]:
    kept = {name: getattr(given, name) for name in _TAKEN_OVER}
    return DataLoader(**kept, collate_fn=collate, **how)


def _epochs(asked: Any) -> int:
    if asked.num_train_epochs != int(asked.num_train_epochs):
        raise ValueError(
            f"num_train_epochs: got {asked.num_train_epochs}, want a whole number, or max_steps"
        )
    return int(asked.num_train_epochs)


def _check(trainer: Any) -> None:
    """Refuse what asks for another order or size of batches than the selection's, or cannot be scored."""
    asked, dataset = trainer.args, trainer.train_dataset
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if isinstance(dataset, IterableDataset) or not indexed:
        raise TypeError(
            f"train_dataset: got {type(dataset).__name__}, want one with a length and items by index"
        )
    for name, got, wanted in (
        ("auto_find_batch_size", asked.auto_find_batch_size, (False,)),
        ("accelerator_config.split_batches", asked.accelerator_config.split_batches, (False,)),
        (
            "accelerator_config.dispatch_batches",
            asked.accelerator_config.dispatch_batches,
            (None, False),
        ),
        (
            "train_sampling_strategy",
            getattr(asked, "train_sampling_strategy", "random"),
            ("random",),
        ),
        ("group_by_length", getattr(asked, "group_by_length", False), (False,)),  # before version 5
        ("dataloader_in_order", getattr(asked, "dataloader_in_order", True), (True,)),
        ("parallelism_config", getattr(asked, "parallelism_config", None), (None,)),
    ):
        if got not in wanted:
            raise ValueError(
                f"{name}: got {got!r}, want {wanted[0]!r}: the selection makes the batches"
            )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError("model: got one sharded over processes, want all of it on each, to score")
