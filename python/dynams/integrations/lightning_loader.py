"""The loader that Lightning trains from: batches of what an epoch selects, dealt among the ranks.

Lightning shards a torch `DataLoader` itself, as long as it is when it is first measured, and fills up to that. Of anything else
that gives batches it asks for no more than their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, Sampler

from dynams.selection import SubsetSampler
from dynams.selection.timetable import epoch_steps


class SelectionLoader:
    """One rank's batches of each epoch; `SelectionCallback.loader` makes it.

    Args:
        sampler: whose order is dealt.
        begin: called before an epoch is walked.
        measured: called for the number of batches.
        dataset: as many samples as the sampler has.
        batch_size: of each rank.
        drop_last: leave out what makes no full batch.
        options: of a torch `DataLoader`.

    Attributes:
        worker_init_fn: of the workers; `seed_everything(..., workers=True)` sets it.
        drawn: indices of the batches that were drawn and are still to be trained on.
    """

    def __init__(
        self,
        sampler: SubsetSampler,
        begin: Callable[[], None],
        measured: Callable[[], int],
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        options: Mapping[str, Any],
    ) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise TypeError(
                f"dataset: got {type(dataset).__name__}, want one with a length and items by index"
            )
        if len(dataset) != sampler.num_samples:
            raise ValueError(
                f"dataset: got {len(dataset)} samples, want {sampler.num_samples}, the sampler's"
            )
        for name in ("shuffle", "sampler", "batch_sampler", "in_order"):
            if name in options:
                raise ValueError(f"{name}: got {options[name]!r}, want none: the sampler orders")
        self.worker_init_fn = options.get("worker_init_fn")
        self.drawn: deque[list[int]] = deque()
        self._sampler, self._begin, self._measured = sampler, begin, measured
        self._dataset = dataset
        self._arguments = (batch_size, drop_last, dict(options))
        self._ranks = (0, 1)
        self._opened: DataLoader[Any] | None = None

    def same(self, other: SelectionLoader) -> bool:
        """Tell whether the other was made of the same."""
        return self._dataset is other._dataset and self._arguments == other._arguments

    def open_for(self, rank: int, world: int) -> None:
        """Load the batches of a rank from now on; workers of before stop."""
        self._ranks, self._opened = (rank, world), None

    def close(self) -> None:
        """Stop the workers."""
        self._opened = None

    @property
    def share(self) -> Any:
        """The rank's share of the sampler's order, in batches."""
        return self._torch_loader().batch_sampler.share  # type: ignore[union-attr]

    @property
    def stride(self) -> int:
        """Samples of a full batch over all ranks."""
        return self._arguments[0] * self._ranks[1]

    def batches_of(self, size: int) -> int:
        """Count the batches on each rank that an epoch of `size` samples makes."""
        batch_size, drop_last, _ = self._arguments
        return epoch_steps(size, batch_size, world=self._ranks[1], drop_last=drop_last)

    def __len__(self) -> int:
        """Return the batches of the epoch on each rank."""
        return self._measured()

    def __iter__(self) -> Iterator[Any]:
        """Begin the epoch where it is due, and walk it from where training stands.

        Lightning does so before it measures, and again to train: until a batch is asked for, nothing is drawn.
        """
        self._begin()
        return self._walk()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing, as the callback has the state; without this Lightning warns that it cannot resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up nothing."""

    def _walk(self) -> Iterator[Any]:
        yield from self._torch_loader()

    def _torch_loader(self) -> DataLoader[Any]:
        if self._opened is None:  # kept, as its workers may be persistent
            batch_size, drop_last, options = self._arguments
            share = self._sampler.shard(*self._ranks, batch_size, drop_last)
            options = {**options, "worker_init_fn": self.worker_init_fn}
            batches = _Drawn(share, self.drawn)
            self._opened = DataLoader(self._dataset, batch_sampler=batches, **options)
        return self._opened


class _Drawn(Sampler[list[int]]):
    """Batches that are noted as they are drawn."""

    def __init__(self, share: Any, drawn: deque[list[int]]) -> None:
        self.share = share
        self._drawn = drawn

    def __iter__(self) -> Iterator[list[int]]:
        self._drawn.clear()
        for batch in self.share:
            self._drawn.append(batch)
            yield batch

    def __len__(self) -> int:
        return len(self.share)
