"""Switches for any strategy: age and chance in a ranking, exploration, quotas by class, a guard against label noise.

They wrap a strategy and are strategies themselves, so they combine. `with_switches` puts them in the
order that makes sense: the guard first takes suspects out of everyone's sight, then every class gets
its share, within it some are drawn at random, and the rest is ranked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from dynams.checks import interval, one_of, whole
from dynams.selection.draws import random_numbers, random_order
from dynams.selection.methods.interface import Around, Selection, Strategy
from dynams.selection.methods.ranked import Ranked, largest, smallest
from dynams.selection.precision import wide_dtype
from dynams.selection.quotas import class_members, equal_quotas, proportional_quotas
from dynams.selection.signals import LAST_EPOCH, Signals

Shares = Literal["proportional", "equal"]
SHARES: tuple[str, ...] = ("proportional", "equal")


def aged_ranks(
    ranking: Tensor,
    skipped: Tensor,
    *,
    age_weight: float,
    softness: float = 0.0,
    generator: Generator | None = None,
) -> Tensor:
    """Rank samples by difficulty and by how long they were left out: the largest are to be trained on.

    With r_i the place of a sample from the easiest, over N, in [0, 1), and s_i the epochs since it was
    trained on last, it is r_i + age_weight * s_i + softness * u_i, u_i drawn evenly from [0, 1). A sample
    never trained on comes first: inf. So a score may be as old as the sample's last training step: with an
    age_weight a > 0 a sample that was skipped 1 / a times in a row ranks above any that was not.

    Args:
        ranking: (N,) floating point, the hardest smallest; NaN counts as the easiest.
        skipped: (N,) floating point, epochs left out since the last visit, at least 0; inf: never visited.
        age_weight: what an epoch counts, in places over N.
        softness: what chance counts.
        generator: of the draw; needed with a softness.

    Returns:
        (N,) in the widest floating point of the device.

    Raises:
        ValueError: the two differ in shape, or there is a softness and no generator.
    """
    if ranking.dim() != 1 or ranking.shape != skipped.shape:
        came = f"{tuple(ranking.shape)} and {tuple(skipped.shape)}"
        raise ValueError(f"ranking and skipped: got shapes {came}, want (N,) for both")
    count = ranking.shape[0]
    wide = wide_dtype(ranking.device)
    hardest_first = ranking.argsort(stable=True)
    places = torch.empty_like(hardest_first)
    places[hardest_first] = torch.arange(count - 1, -1, -1, device=ranking.device)
    ranks = places.to(wide) / max(count, 1)
    # A weight of 0 leaves those never visited, inf, to come first all the same.
    ranks += torch.where(skipped.isinf(), torch.inf, age_weight * skipped.to(wide))
    if softness > 0.0:
        if generator is None:
            raise ValueError(f"generator: got None, want one with softness {softness:g}")
        ranks += softness * random_numbers(count, generator, ranking.device)
    return ranks


@dataclass(frozen=True)
class Aged(Around):
    """`aged_ranks` of a strategy that ranks by one score, which may be as old as a sample's last training step.

    Cost: one sort of the scores. Does not pay: where all scores are computed anew and softness is 0: the age then
    only makes up for a sample being hard to the end, as exploration does.

    Attributes:
        strategy: whose scores rank; equal ones go by index.
        age_weight: see `aged_ranks`, at least 0.
        softness: see `aged_ranks`, at least 0.

    Raises:
        ValueError: the strategy does not rank by one score, or an argument is out of range.
    """

    age_weight: float = 0.25
    softness: float = 0.0

    def __post_init__(self) -> None:
        for name in ("age_weight", "softness"):
            interval(name, getattr(self, name), "[0, inf)")
            if not isinstance(self.strategy, Ranked):
                came = type(self.strategy).__name__
                raise ValueError(f"{name}: got {came}, want a strategy that ranks by one score")

    @property
    def needs(self) -> frozenset[str]:
        """What the strategy needs, and the epoch of each sample's last visit."""
        return self.strategy.needs | {LAST_EPOCH}

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Keep the `size` samples that rank highest; see `Strategy.select`."""
        assert isinstance(self.strategy, Ranked)
        last = signals.score(LAST_EPOCH)
        ranks = aged_ranks(
            self.strategy.ranking(signals),
            torch.where(last < 0, torch.inf, epoch - 1 - last),
            age_weight=self.age_weight,
            softness=self.softness,
            generator=generator,
        )
        return Selection(largest(ranks, size))


@dataclass(frozen=True)
class ClassBalanced(Around):
    """Every class is selected from on its own, with a share of the size.

    Shares are proportional to the classes' numbers, or equal (as far as classes have samples enough),
    by largest remainder. The strategy's weights in class c are multiplied by n_c k / (N k_c), with N the
    samples of classes that got a share, so that weighted means remain means over all samples; without
    weights equal shares do rebalance.

    Cost: one call of the strategy for each class; of one that ranks by a score, a single selection for all
    of them. Does not pay: where batches are balanced anyway.

    Attributes:
        strategy: what selects within a class; it must keep to a size.
        shares: "proportional" or "equal".

    Raises:
        ValueError: the strategy decides its size itself, or `shares` is unknown.
    """

    shares: Shares = "proportional"

    def __post_init__(self) -> None:
        _check_budgeted(self.strategy, "class_balance")
        one_of("shares", self.shares, SHARES)

    @property
    def needs(self) -> frozenset[str]:
        """What the strategy needs, and labels."""
        return self.strategy.needs | {"labels"}

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Select class by class; see `Strategy.select`."""
        size = whole("size", size, 0, signals.count)
        share = proportional_quotas if self.shares == "proportional" else equal_quotas
        labels = signals.tensor("labels")
        strategy = self.strategy
        if isinstance(strategy, Ranked) and strategy.is_plain_ranking:
            _, groups, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
            return strategy.select_grouped(signals, groups, share(sizes.tolist(), size))
        classes = class_members(labels)
        quotas = share([members.shape[0] for members in classes], size)
        chosen: list[Selection] = []
        represented = 0
        for members, quota in zip(classes, quotas, strict=True):
            if quota == 0:
                continue
            part = self.strategy.select(
                signals.subset(members),
                quota,
                epoch=epoch,
                progress=progress,
                generator=generator,
            )
            represented += members.shape[0]
            weights = part.weights
            if weights is not None:
                # Times k / N below, where k is known: a draw with replacement may give less than size.
                weights = weights * (members.shape[0] / max(part.indices.shape[0], 1))
            chosen.append(Selection(members[part.indices], weights))
        return _joined(signals, chosen, represented)


@dataclass(frozen=True)
class Exploring(Around):
    """A share of the size is drawn at random from what the strategy did not take.

    Explored samples weigh 1, as the average sample of a weighted selection does. So weights of
    importance sampling are no longer unbiased: give those a `smoothing` instead.

    `unbiased`: of N samples t are taken for certain and m of the other N - t explored; with weights
    k / N and k (N - t) / (N m), k = t + m, the explored stand for all that were not taken. That is
    stratified sampling (Neyman 1934): the weighted mean over the selection is an unbiased estimate of
    the mean over all samples, however wrong or old the scores are, with a variance that comes from the
    others alone. Where nothing is explored nobody can stand for them, and nothing is weighed.

    Cost: none. Does not pay: beside `Random`, or a strategy that draws every sample now and then.
    Unbiased, with a small share: few samples of large weight stand for many.

    Attributes:
        strategy: what takes the rest of the size; it must keep to a size.
        share: of the size, in [0, 1], to the nearest number.
        unbiased: weigh, so that nothing is biased; for strategies that rank by one score.

    Raises:
        ValueError: the strategy decides its size itself, `share` is out of range, or `unbiased` does
            not fit the strategy.
    """

    share: float = 0.1
    unbiased: bool = False

    def __post_init__(self) -> None:
        _check_budgeted(self.strategy, "exploration")
        interval("share", self.share, "[0, 1]")
        if self.unbiased and not isinstance(self.strategy, Ranked):
            came = type(self.strategy).__name__
            raise ValueError(f"unbiased: got {came}, want a strategy that ranks by one score")

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Select, then explore; see `Strategy.select`."""
        size = whole("size", size, 0, signals.count)
        explored = math.floor(self.share * size + 0.5)
        taken = self.strategy.select(
            signals, size - explored, epoch=epoch, progress=progress, generator=generator
        )
        # First of a random order in which those taken stand behind all others.
        order = random_order(signals.count, generator, signals.device)
        behind = torch.zeros(signals.count, device=signals.device)
        behind[taken.indices] = 1.0
        drawn = smallest(behind, explored, order=order)
        indices, places = torch.cat([taken.indices, drawn]).sort()
        own, theirs = taken.weights, 1.0
        if self.unbiased and explored > 0:
            own = torch.full_like(taken.indices, size / signals.count, dtype=torch.float32)
            others = signals.count - taken.indices.shape[0]
            theirs = size * others / (signals.count * explored)
        if own is None:
            return Selection(indices)
        weights = torch.cat([own, torch.full_like(drawn, theirs, dtype=torch.float32)])
        return Selection(indices, weights[places])


@dataclass(frozen=True)
class NoiseGuard(Around):
    """The most suspicious samples are out of sight of the strategy.

    Suspicious are the largest losses, or the most negative label margins z_y - max over c != y of z_c;
    a score of NaN is the most suspicious of all. Never so many are left out that fewer than the size
    remain.

    Cost: the score, from the same pass. Does not pay: on clean labels, where it withholds the hardest.

    Attributes:
        strategy: what selects from the rest.
        share: of all samples to leave out, in [0, 1).
        score: "loss" or "label".

    Raises:
        ValueError: `share` or `score` is out of range.
    """

    share: float = 0.05
    score: Literal["loss", "label"] = "loss"

    def __post_init__(self) -> None:
        interval("share", self.share, "[0, 1)")
        one_of("score", self.score, ("loss", "label"))

    @property
    def needs(self) -> frozenset[str]:
        """What the strategy needs, and the score."""
        return self.strategy.needs | {self.score}

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Leave out, then select; see `Strategy.select`."""
        size = whole("size", size, 0, signals.count)
        suspects = math.floor(self.share * signals.count + 0.5)
        if self.strategy.budgeted:
            suspects = min(suspects, signals.count - size)
        trust = signals.score(self.score)
        # Trusted are the smallest losses or the largest margins; in both NaN comes last.
        trusted = smallest(trust if self.score == "loss" else -trust, signals.count - suspects)
        part = self.strategy.select(
            signals.subset(trusted),
            min(size, trusted.shape[0]),
            epoch=epoch,
            progress=progress,
            generator=generator,
        )
        return Selection(trusted[part.indices], part.weights)


def with_switches(
    strategy: Strategy,
    *,
    age_weight: float = 0.0,
    softness: float = 0.0,
    class_shares: Shares | None = None,
    exploration: float = 0.0,
    unbiased: bool = False,
    noise_share: float = 0.0,
    noise_score: Literal["loss", "label"] = "loss",
) -> Strategy:
    """Wrap a strategy as a configuration says; what is not switched on is not there.

    Args:
        strategy: what selects.
        age_weight: what an epoch of being left out counts in the ranking, see `Aged`.
        softness: what chance counts in the ranking.
        class_shares: see `ClassBalanced`; None: classes play no part.
        exploration: share of the size drawn at random, see `Exploring`.
        unbiased: weigh what is drawn so that it stands for all that were not taken.
        noise_share: share of the samples left out, see `NoiseGuard`.
        noise_score: by which score.

    Raises:
        ValueError: a switch does not fit the strategy, or is out of range.
    """
    interval("age_weight", age_weight, "[0, inf)")
    interval("softness", softness, "[0, inf)")
    interval("exploration", exploration, "[0, 1]")
    interval("noise_share", noise_share, "[0, 1)")
    if unbiased and exploration == 0.0:
        raise ValueError("exploration: got 0.0, want above 0 where it is to be unbiased")
    if age_weight > 0.0 or softness > 0.0:
        strategy = Aged(strategy, age_weight, softness)
    if exploration > 0.0:
        strategy = Exploring(strategy, exploration, unbiased)
    if class_shares is not None:
        strategy = ClassBalanced(strategy, class_shares)
    if noise_share > 0.0:
        strategy = NoiseGuard(strategy, noise_share, noise_score)
    return strategy


def _joined(signals: Signals, parts: list[Selection], represented: int) -> Selection:
    """Disjoint selections as one; weights, already times n_c / k_c, times k / N, N the represented."""
    if not parts:
        return Selection(torch.empty(0, dtype=torch.int64, device=signals.device))
    indices, places = torch.cat([part.indices for part in parts]).sort()
    weights: list[Tensor] = [part.weights for part in parts if part.weights is not None]
    if not weights:
        return Selection(indices)
    scale = indices.shape[0] / represented
    return Selection(indices, torch.cat(weights)[places] * scale)


def _check_budgeted(strategy: Strategy, switch: str) -> None:
    if not strategy.budgeted:
        came = type(strategy).__name__
        raise ValueError(f"{switch}: got {came}, want a strategy that keeps to a size")
