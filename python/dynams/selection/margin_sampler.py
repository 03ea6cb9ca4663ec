"""The margin sampler: `SubsetSampler` with margins handed over in pairs, for any training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

import dynams_kernels as dk
from dynams.selection.checks import check_index_range, check_pair
from dynams.selection.sampler import Refresh, SubsetSampler
from dynams.selection.schedule import Schedule
from dynams.selection.strategies.base import Signals, Strategy
from dynams.selection.strategies.margin import Margin, StaticMargin
from dynams.selection.strategies.uniform import Full, Random

Score = Callable[[], Iterable[tuple[Tensor, Tensor]]]

# Whatever margins are handed over: the sampler does not know their kind.
_MARGIN = "gap"
_STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "margin": lambda: Margin(kind=_MARGIN),
    "static": lambda: StaticMargin(kind=_MARGIN),
    "random": Random,
    "full": Full,
}
MARGIN_STRATEGIES: tuple[str, ...] = tuple(_STRATEGIES)


class MarginSampler(SubsetSampler):
    """Samples of smallest margin, chosen again every few epochs, in a reproducible order.

    Strategies: "margin" (DynaMS) scores all samples at every refresh and keeps those nearest the
    decision boundary; "static" scores once, at the first refresh, and keeps to those scores (the
    ablation: with a constant budget it selects once); "random" draws a new subset at every refresh,
    without scores; "full" keeps everything. During the warm-up all samples are trained on; without
    one, the first scores are those of an untrained network.

    It costs more than it saves unless c + 3 Q b p c < 3 Q (1 - b), with c the cost of the proxy over
    that of the network, b the budget, Q epochs from refresh to refresh and p the fraction of steps
    that train the proxy too (a training step being three forward passes).

    With several processes each holds the same sampler and `score` must give all of them the same
    pairs; sharding the order among ranks is the caller's.

    Args:
        num_samples: N; indices are 0 to N - 1.
        budget: fraction of the samples to keep, or a schedule of it. The default is the authors'.
        epochs: length of the whole training, warm-up and tail included; needed by a budget that varies
            and by a tail.
        refresh_every: Q, epochs that train on one selection.
        warmup_epochs: first epochs, on all samples.
        tail: fraction of the epochs, at the end, on all samples.
        strategy: one of the four above; `SubsetSampler` takes any other.
        shuffle: permute every epoch; otherwise the order is ascending.
        seed: of permutations and random draws; nothing else decides them but the epoch.
        device: where scores and selection live.

    Raises:
        ValueError: an argument out of range, an unknown `strategy` (the message lists the known
            ones), or a budget that varies without `epochs`.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        budget: float | Schedule = 0.6,
        epochs: int | None = None,
        refresh_every: int = 1,
        warmup_epochs: int = 0,
        tail: float = 0.0,
        strategy: str = "margin",
        shuffle: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if strategy not in _STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(_STRATEGIES)}; got {strategy!r}")
        super().__init__(
            num_samples,
            _STRATEGIES[strategy](),
            budget=budget,
            epochs=epochs,
            refresh_every=refresh_every,
            warmup_epochs=warmup_epochs,
            tail=tail,
            shuffle=shuffle,
            seed=seed,
            device=device,
            name=strategy,
        )

    @property
    def selector(self) -> dk.MarginSelector:
        """The margins.

        Raises:
            ValueError: the strategy has none.
        """
        if _MARGIN not in self._scores:
            raise ValueError(f"{self._name} keeps no margins")
        return self._scores[_MARGIN]

    def begin_epoch(  # type: ignore[override]
        self, epoch: int, score: Score | None = None
    ) -> Refresh | None:
        """Make `epoch` the current one, with a new selection if one is due.

        A second call for the current epoch changes nothing, so a resumed loop may call it again.
        Epochs may be skipped, not gone back to. If anything is refused, or `score` fails, the
        sampler stays as it was.

        Args:
            epoch: from 0.
            score: called where `due(epoch)`; gives pairs of indices (n,) int64 and margins (n,),
                floating point, on any device. Samples left out keep their last score; samples never
                scored are selected first.

        Returns:
            What changed, or None if the selection did not.

        Raises:
            ValueError: `epoch` lies before the current one, `score` is missing where it is due or
                gives no pair, or a pair has sizes or indices that do not fit.
            TypeError: a pair has other dtypes.
        """
        if score is None and self.due(epoch) and epoch != self._epoch:
            raise ValueError(f"score must be given: epoch {epoch} starts with a refresh")
        return self._begin(epoch, None if score is None else lambda _: self._scored(score))

    def _scored(self, score: Score) -> Signals:
        pairs = [(indices, margins) for indices, margins in score()]
        for indices, margins in pairs:
            check_pair(indices, margins)
        if sum(indices.shape[0] for indices, _ in pairs) == 0:
            raise ValueError("score gave no margins for the refresh")
        # At once: one transfer and one check, and nothing is written unless all of it is right.
        device = self._indices.device
        indices = torch.cat([indices for indices, _ in pairs]).to(device)
        margins = torch.cat([margins.float() for _, margins in pairs]).to(device)
        check_index_range(indices, self.num_samples)
        self.selector.update(indices, margins)
        return Signals(self.num_samples, device=device)
