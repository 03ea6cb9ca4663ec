"""How far an epoch was walked and trained on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TypeVar

from dynams.checks import whole

Item = TypeVar("Item")


class Walk:
    """The counts of one epoch; the next one, or a state that is loaded, has another.

    Attributes:
        length: samples of the epoch's order.
        start: place in it at which every iterator starts.
        trained: samples trained on from there.
        counts: whether the loop tells what it trained on.
    """

    def __init__(self, length: int, start: int = 0, *, counts: bool = False) -> None:
        self.length = length
        self.start = start
        self.trained = 0
        self.counts = counts
        self._to_its_end = False

    @property
    def consumed(self) -> int:
        """Samples of the epoch's order that were trained on, before a resume too."""
        return self.start + self.trained

    def advance(self, epoch: int, samples: int) -> None:
        """Count samples as trained on, at most what is left.

        Raises:
            ValueError: there are none left, or `samples` is negative.
        """
        samples = whole("samples", samples, 0)
        left = self.length - self.consumed
        if samples > 0 == left:
            raise ValueError(
                f"samples: got {samples}, want 0: all {self.length} of epoch {epoch} were trained on; "
                "call set_epoch(epoch) before every epoch"
            )
        self.trained += min(samples, left)
        self.counts = True

    def check_not_over(self, epoch: int, least: int, stacklevel: int) -> None:
        """Warn where fewer than `least` are left after training, or, if nobody counts, after a walk to the end."""
        over = self.trained > 0 and self.length - self.consumed < least
        if over if self.counts else self._to_its_end:
            # Walked to its end it was by somebody, perhaps by workers of an iterator that was thrown away.
            warnings.warn(
                f"epoch {epoch} {'is' if self.counts else 'may be'} over and is iterated again, in the same "
                "order: call set_epoch(epoch) before every epoch",
                stacklevel=stacklevel + 1,
            )

    def through(self, items: Sequence[Item]) -> Iterator[Item]:
        """Walk to the end."""
        yield from items[:-1]
        # Before the last one: whoever knows the length asks for no more.
        self._to_its_end = True
        yield from items[-1:]
