"""The sampler: the subset that an epoch trains on, its order, and how much of it was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from torch.utils.data import Sampler

from dynams.checks import number, whole
from dynams.selection.draws import epoch_places
from dynams.selection.kept_scores import KeptScores
from dynams.selection.methods.interface import Strategy
from dynams.selection.methods.registry import build_strategy
from dynams.selection.over_ranks import over_ranks
from dynams.selection.part_scores import PartScores
from dynams.selection.ranks import agreed
from dynams.selection.refresh import Current, Refresh, Refresher, Score
from dynams.selection.sampler_checks import (
    check_bool,
    check_score,
    check_state,
    check_strategy_object,
    strategy_name,
)
from dynams.selection.schedule import Schedule, constant
from dynams.selection.shares import BatchShare, SamplerShare
from dynams.selection.timetable import Phase, Timetable
from dynams.selection.walk import Walk

Item = TypeVar("Item")


class SubsetSampler(Sampler[int]):
    """Samples that a strategy selects, chosen again every few epochs, in a reproducible order.

    In a loop::

        sampler = SubsetSampler(len(train_set), score=lambda: score_batches(model, scoring_loader))
        loader = DataLoader(train_set, batch_size=128, sampler=sampler)
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            for images, labels in loader:
                ...

    A dynamic strategy selects at every refresh; a static one at the first refresh, and again from the
    scores of then only where a schedule changes the budget. During the warm-up, and in the tail at the
    end, all samples are trained on; without a warm-up, the first scores are those of an untrained
    network. Scores (one number a sample) of the last refresh are kept; features and residuals are not.

    Every iterator has its own position: two of one epoch give the same samples and know nothing of each
    other, however far loader workers read ahead. What was trained on only the training loop knows: it
    says so with `advance`, and a state resumes behind that. Without it a state resumes where the epoch
    began: samples may be trained on twice, and none is left out.

    With several processes (torch.distributed) each holds the same sampler, begins every epoch, and must be
    given the same scores: a rank with another selection is an error on all. `shard` gives each its share of
    the order.

    Args:
        num_samples: N; indices are 0 to N - 1.
        strategy: what selects, by name (`STRATEGIES`) or as an object, `with_switches` included.
        budget: fraction of the samples to keep, or a schedule of it. The default is the authors'.
        epochs: length of the whole training, warm-up and tail included; needed by a budget that varies
            and by a tail.
        refresh_every: Q, epochs that train on one selection.
        warmup_epochs: first epochs, on all samples.
        tail: fraction of the epochs, at the end, on all samples.
        score: called where a refresh is due. It gives pairs of indices (n,) int64 and scores (n,), floating
            point, on any device, as `score_batches` does; or the `Signals` of all samples that
            `wanted(epoch)` names, for strategies that need more than one score. Pairs of margins may
            leave samples out: those keep their last margin, and one never scored is selected first.
        dynamic: select again at every refresh; None: as the strategy was published.
        shuffle: permute every epoch; otherwise the order is ascending.
        seed: of permutations and random draws; nothing else decides them but the epoch.
        epoch_length: samples that every epoch walks, warm-up and tail too, for schedules that plan once; what
            is selected stays the same. A smaller selection is walked again, each pass in an order of its own;
            of a larger one each epoch trains on the first so many of its order. None: the selection, once.
        sharded: each rank holds the scores of its part of the samples alone (`RankShard`'s), and is given no
            others; selection and order are those of all scores. For strategies that rank by one score, equal
            ones by index. A state holds this rank's scores: `gather_state` makes one with all.
        device: where scores and selection live.

    Attributes:
        num_samples: N.
        strategy: what selects.
        timetable: when selections are due and how large they are.
        dynamic: whether it selects again at every refresh.

    Raises:
        ValueError: an argument out of range, an unknown strategy (the message lists the known ones), one
            that chooses inside a batch, or a budget that varies, or a tail, without `epochs`.
        TypeError: an argument of another type.
    """

    def __init__(
        self,
        num_samples: int,
        strategy: str | Strategy = "margin",
        *,
        budget: float | Schedule = 0.6,
        epochs: int | None = None,
        refresh_every: int = 1,
        warmup_epochs: int = 0,
        tail: float = 0.0,
        score: Score | None = None,
        dynamic: bool | None = None,
        shuffle: bool = True,
        seed: int = 0,
        epoch_length: int | None = None,
        sharded: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        num_samples = whole("num_samples", num_samples, 1)
        made = build_strategy(strategy) if isinstance(strategy, str) else strategy
        self.strategy = check_strategy_object(made)
        self.timetable = Timetable(
            budget if isinstance(budget, Schedule) else constant(budget),
            self.strategy.budgeted,
            None if epochs is None else whole("epochs", epochs, 1),
            whole("refresh_every", refresh_every, 1),
            whole("warmup_epochs", warmup_epochs, 0),
            number("tail", tail, "[0, 1)"),
            None if epoch_length is None else whole("epoch_length", epoch_length, 1),
        )
        self.num_samples = num_samples
        self.dynamic = self.strategy.dynamic if dynamic is None else check_bool("dynamic", dynamic)
        self.shuffle = check_bool("shuffle", shuffle)
        self.seed = whole("seed", seed)
        self._score = check_score(score)
        self.sharded = check_bool("sharded", sharded)
        everything = torch.arange(num_samples, device=device)
        selects = over_ranks(self.strategy, num_samples) if sharded else self.strategy
        self._refresher = Refresher(
            num_samples, selects, self.timetable, self.dynamic, self.seed, everything.device
        )
        kept = PartScores if sharded else KeptScores
        scores = kept(num_samples, self.strategy.needs, everything.device)
        self._current = Current(None, None, everything, None, scores)
        self._walk = Walk(self.timetable.walked(num_samples))
        self._warned_of_going_back = False

    @property
    def indices(self) -> Tensor:
        """The current selection: (k,) int64 ascending, on the sampler's device; not to be written to."""
        return self._current.indices

    @property
    def weights(self) -> Tensor | None:
        """Weights (k,) float32 of the selection's losses, in the order of `indices`; None: all 1."""
        return self._current.weights

    @property
    def margins(self) -> Tensor:
        """A copy of all margins (N,) float32, sharded of this rank's; -inf where never scored, or nothing scores them."""
        return self._current.scores.margins

    @property
    def epoch(self) -> int | None:
        """The epoch begun last; None before the first."""
        return self._current.epoch

    @property
    def consumed(self) -> int:
        """Samples of this epoch's order that were trained on, as `advance` was told, before a resume too."""
        return self._walk.consumed

    def phase(self, epoch: int) -> Phase:
        """Tell whether `epoch` is of the warm-up, the tail, or trains on a selection."""
        return self.timetable.phase(epoch)

    def budget_at(self, epoch: int) -> float:
        """Return the budget that `epoch` trains with: that of the first epoch with the same selection.

        It is 1.0 in the warm-up, in the tail, and with a strategy that decides itself how many to keep.

        Raises:
            ValueError: a foreign schedule gave a budget outside (0, 1].
        """
        return self.timetable.planned_budget(epoch)

    def total_steps(self, batch_size: int, drop_last: bool = False, world: int = 1) -> int:
        """Count the steps of the whole training, for learning-rate schedules; `len` is of one epoch.

        Where the strategy decides how many samples to keep, or draws some twice, it is the most there can be.

        Args:
            batch_size: of each rank.
            drop_last: count full batches only.
            world: how many ranks walk shares of the order; see `shard`.

        Raises:
            ValueError: the sampler was made without `epochs`, an epoch has fewer samples than ranks, or
                `batch_size` or `world` is not positive.
        """
        return self.timetable.total_steps(
            self.num_samples, batch_size, drop_last=drop_last, world=world
        )

    @overload
    def shard(self, rank: int, world: int) -> SamplerShare: ...

    @overload
    def shard(
        self, rank: int, world: int, batch_size: int, drop_last: bool = False
    ) -> BatchShare: ...

    def shard(
        self, rank: int, world: int, batch_size: int | None = None, drop_last: bool = False
    ) -> SamplerShare | BatchShare:
        """Return one rank's share of every epoch's order, to be walked in place of the sampler.

        Without `batch_size` it is a sampler of samples: all ranks get equally many, and those left over, fewer
        than ranks, are left out of the epoch. With it, it is a batch sampler,
        `DataLoader(train_set, batch_sampler=sampler.shard(rank, world, 128))`: all ranks get equally many
        batches, and every sample of the epoch is in one of them; the last ones have other sizes. Neither
        fills up, and none is given twice.

        Args:
            rank: from 0.
            world: how many ranks there are.
            batch_size: of each rank.
            drop_last: only full batches.

        Raises:
            ValueError: an argument out of range, or `drop_last` without `batch_size`.
        """
        check_bool("drop_last", drop_last)
        if batch_size is not None:
            return BatchShare(self, rank, world, batch_size, drop_last)
        if drop_last:
            raise ValueError("drop_last: got True without batch_size, want both")
        return SamplerShare(self, rank, world)

    def wanted(self, epoch: int) -> frozenset[str]:
        """Return the names of the scores and signals that `begin_epoch(epoch)` asks for; empty: none."""
        return self._refresher.wanted(self._current, epoch)

    def wanted_after(self, epoch: int) -> bool:
        """Tell whether a refresh of an epoch after `epoch`, the current one, will call `score`."""
        return self._refresher.wanted_after(self._current, epoch)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch` with the `score` given at construction; see `begin_epoch`. Many frameworks call it.

        After a resume some of them count from 0 again: an epoch before the current one leaves the sampler
        as it is, with a warning.
        """
        self._begin(epoch, None, back=True)

    def begin_epoch(self, epoch: int, score: Score | None = None) -> Refresh | None:
        """Make `epoch` the current one, with a new selection if one is due.

        A second call for the current epoch changes nothing, so a resumed loop may call it again.
        Epochs may be skipped, not gone back to. If anything is refused, or `score` fails, the
        sampler stays as it was, scores included.

        Args:
            epoch: from 0.
            score: in place of the one given at construction; see there.

        Returns:
            What changed, or None if the selection did not.

        Raises:
            ValueError: `epoch` lies before the current one or not below `epochs`, there is no `score` where
                one is due, what it gave does not fit, or other ranks selected something else or stand at
                another place.
            TypeError: what it gave has other types.
            RuntimeError: another rank could not begin the epoch.
        """
        return self._begin(epoch, score, back=False)

    def advance(self, samples: int) -> None:
        """Count the next `samples` of the epoch's order as trained on: a state resumes behind them.

        Call it after each step, with the size of its batch over all ranks. Of a last batch that was filled
        up, to be the same on all ranks, what is left of the epoch counts.

        Raises:
            ValueError: there are none left, or `samples` is negative.
            RuntimeError: no epoch was begun.
        """
        self._walk.advance(self._begun_epoch(), samples)

    def order(self) -> Tensor:
        """Return the current epoch's whole order: (len,) int64 on the sampler's device.

        Raises:
            RuntimeError: no epoch was begun.
        """
        return self._ordered(self._current.indices)

    def order_weights(self) -> Tensor | None:
        """Return the weights of `order()`'s samples: (len,) float32; None: all 1.

        Raises:
            RuntimeError: no epoch was begun.
        """
        weights = self._current.weights
        return None if weights is None else self._ordered(weights)

    def __len__(self) -> int:
        """Return the size of the selection or `epoch_length`, also where a resumed epoch has fewer left."""
        return self._walk.length

    def __iter__(self) -> Iterator[int]:
        """Walk the epoch's order from its start, or, resumed, from where training was.

        Before any epoch was begun this begins epoch 0, as frameworks count on. An epoch that is over, and not
        begun anew, is walked again in the same order, with a warning: it is over once all of it was trained
        on, or, where nobody calls `advance`, once it was walked to its end.

        Raises:
            ValueError: epoch 0 has to be begun, and needs a `score`.
        """
        return self.walk(Tensor.tolist)

    def walk(self, deal: Callable[[Tensor], Sequence[Item]], least: int = 1) -> Iterator[Item]:
        """Walk what `deal` makes of the order's rest, as `iter` walks the rest itself: for shares and batches.

        Args:
            deal: called with what the epoch's order has left (n,) int64; gives what is to be walked.
            least: the epoch is over where fewer samples than this are left: `deal` makes nothing of them.

        Raises:
            ValueError: as of `iter`.
        """
        if self._current.epoch is None:
            self.set_epoch(0)
        else:
            self._walk.check_not_over(self._current.epoch, least, stacklevel=3)
        return self._walk.through(deal(self.order()[self._walk.start :]))

    def state_dict(self) -> dict[str, Any]:
        """Return all that an exact resume needs, as copies: tensors, numbers and strings."""
        current = self._current
        return {
            **self._identity(),
            "epoch": current.epoch,
            "selected_at": current.selected_at,
            "consumed": self.consumed,
            "indices": current.indices.clone(),
            "weights": None if current.weights is None else current.weights.clone(),
            "scores": current.scores.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state: the same selection and order, and every walk starts behind what was trained on.

        Budget and `refresh_every` may differ from those of the sampler that made the state: they
        decide later epochs only.

        Raises:
            ValueError: it lacks an entry, is of another number of samples, seed, strategy, warm-up, tail,
                shuffling or length of epochs, or holds what no sampler saves; nothing is changed then.
            TypeError: an entry is of another type.
        """
        check_state(state, self._identity())
        scores = self._current.scores.loaded(state["scores"])
        weights = state["weights"]
        self._become(
            Current(
                epoch=state["epoch"],
                selected_at=state["selected_at"],
                indices=state["indices"].to(self._device, copy=True),
                weights=None if weights is None else weights.to(self._device, copy=True),
                scores=scores,
                start=state["consumed"],
            )
        )
        self._walk.counts = state["consumed"] > 0

    @property
    def _device(self) -> torch.device:
        return self._current.indices.device

    def _begin(self, epoch: int, score: Score | None, *, back: bool) -> Refresh | None:
        epoch = whole("epoch", epoch)
        length = self.timetable.epoch_length
        order = {"seed": self.seed, "shuffle": self.shuffle, "epoch_length": length}
        begun, refresh = agreed(
            epoch, lambda: self._begun(epoch, score, back=back), lambda made: made[0].facts | order
        )
        if begun is not self._current:
            self._become(begun)
        elif begun.epoch != epoch and not self._warned_of_going_back:
            self._warned_of_going_back = True
            warnings.warn(
                f"epoch: got {epoch}, want at least {begun.epoch}, the current one, which stays: after a "
                "resume, tell the framework to count on from it",
                stacklevel=3,
            )
        return refresh

    def _begun(
        self, epoch: int, score: Score | None, *, back: bool
    ) -> tuple[Current, Refresh | None]:
        """What holds once `epoch` has begun, and the refresh where there is one; nothing is changed."""
        whole("epoch", epoch, 0)
        epochs = self.timetable.epochs
        if epochs is not None and epoch >= epochs:
            raise ValueError(f"epoch: got {epoch}, want below epochs={epochs}")
        score = self._score if score is None else check_score(score)
        current = self._current
        if current.epoch is not None and epoch <= current.epoch:
            if epoch < current.epoch and not back:
                raise ValueError(
                    f"epoch: got {epoch}, want at least {current.epoch}, the current one; to go back, "
                    "load a state or make a new sampler"
                )
            return current, None
        return self._refresher.begun(current, epoch, score)

    def _become(self, current: Current) -> None:
        """Commit: beside counts of the walk, nothing changes anywhere else."""
        length = self.timetable.walked(current.size)
        self._current = current
        self._walk = Walk(length, current.start, counts=self._walk.counts)

    def _identity(self) -> dict[str, int | str | bool | None]:
        return {
            "num_samples": self.num_samples,
            "seed": self.seed,
            "strategy": strategy_name(self.strategy),
            "shuffle": self.shuffle,
            "warmup_epochs": self.timetable.warmup_epochs,
            "tail_epochs": self.timetable.tail_epochs,
            "epoch_length": self.timetable.epoch_length,
        }

    def _begun_epoch(self) -> int:
        if self._current.epoch is None:
            raise RuntimeError(
                "epoch: got none yet, want set_epoch(epoch) before the sampler is used"
            )
        return self._current.epoch

    def _ordered(self, values: Tensor) -> Tensor:
        epoch = self._begun_epoch()
        places = epoch_places(len(values), len(self), self.seed, epoch, shuffle=self.shuffle)
        return values[places.to(values.device)]
