"""Selection from a stream whose end is unknown: keep what is at or below the running quantile of its margins."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

import dynams_kernels as dk
from dynams.checks import at_least, fraction, interval, whole
from dynams.selection.draws import random_numbers, selection_generator
from dynams.selection.quantiles import (
    Keys,
    QuantileSketch,
    cut,
    level_size,
    margin_of,
    ordered_keys,
    rank_error,
)
from dynams.selection.ranks import of_world, told_by_all
from dynams.selection.sampler_checks import check_bool

# A window is forgotten in as many steps.
_PARTS = 8


class StreamSelector:
    """Keeps about `budget` of a stream of margins, the smallest, in memory that does not grow with it.

    `keep` answers for a batch by the `budget`-quantile of the margins that came before, then takes up its own. Margins
    are compared as by `smallest_k`: -inf first, +inf before NaN, NaN last. Of margins equal to the threshold a
    seeded draw keeps the part that the budget has left, so that few distinct values are no trouble.

    The quantile comes from a sketch (`dynams.selection.quantiles`) on the CPU. For every order of the stream, with
    probability 99 %, at most `budget + accuracy` of its margins are below the threshold, and at least
    `budget - accuracy` at or below it. The same margins in the same batches and the same seed give the same
    answers, on every device.

    Args:
        budget: share to keep, in (0, 1].
        accuracy: rank error, as a share of the margins that the threshold is of; in (0, 0.5]. The sketch takes
            about 100 / accuracy bytes, and as much for a buffer; with a window there are nine, or up to 18
            where they are of agreements, and one buffer.
        warmup: everything is kept until so many margins are known. None: 1 / (4 accuracy^2), where a quantile of a
            random sample has a standard deviation of `accuracy` at most.
        window: the threshold is of the last `window` to 9/8 `window` margins, as they drift in training. None: of
            all that came.
        tolerance: what was kept since the warm-up stays within (budget +- tolerance) n, and warmup * tolerance
            besides, of the n margins since, for every order and drift; a batch that would leave this range keeps
            its own smallest margins instead. In (0, 1]; 1: the threshold alone decides.
        together: the threshold is that of the last `agree`, the same on all ranks; `warmup` and `window` then count
            the margins of all ranks.
        seed: of the sketch's coins and the draws among equal margins.

    Raises:
        ValueError, TypeError: an argument out of range.
    """

    def __init__(
        self,
        budget: float = 0.6,
        *,
        accuracy: float = 0.01,
        warmup: int | None = None,
        window: int | None = None,
        tolerance: float = 0.05,
        together: bool = False,
        seed: int = 0,
    ) -> None:
        fraction("budget", budget)
        interval("accuracy", accuracy, "(0, 0.5]")
        fraction("tolerance", tolerance)
        at_least("warmup", warmup, 0)
        at_least("window", window, 1)
        self.budget = float(budget)
        self.accuracy = float(accuracy)
        self.warmup = (
            math.ceil(1 / (4 * accuracy**2)) if warmup is None else whole("warmup", warmup)
        )
        self.window = None if window is None else whole("window", window)
        self.tolerance = float(tolerance)
        self.together = check_bool("together", together)
        self.seed = whole("seed", seed)
        self._size = level_size(self.accuracy)
        self._rank = dist.get_rank() if of_world() > 1 else 0
        self._sketches = 0
        self._agreed = 0
        self._batches = 0
        self._judged = 0
        self._kept = 0
        # Those that are done, the same on all ranks that agree; and the one that takes up what comes.
        self._past: list[QuantileSketch] = []
        self._new = self._begun()
        self._cut: tuple[int, float] | None = None

    @property
    def known(self) -> int:
        """How many margins the threshold is of."""
        return sum(each.count for each in self._known())

    @property
    def threshold(self) -> float | None:
        """The running `budget`-quantile of the margins that are known; None before the first."""
        return margin_of(self._threshold()[0]) if self.known else None

    @property
    def rank_error(self) -> float:
        """What the error of the threshold's rank is below, as a share, with probability 99 %: counted, so at most `accuracy`."""
        return rank_error(self._known())

    @property
    def kept_share(self) -> float | None:
        """Which share of the margins since the warm-up was kept by this process; None before the first."""
        return self._kept / self._judged if self._judged else None

    def keep(self, margins: Tensor) -> Tensor:
        """Say which samples of a batch to train on, and take its margins up.

        Args:
            margins: (B,), floating point, on any device, which is waited for: 4 B bytes go to the CPU. float64
                is rounded to float32.

        Returns:
            (B,) bool, on the margins' device.

        Raises:
            ValueError, TypeError: no such tensor.
        """
        keys = _checked_keys(margins)
        if self.known < max(1, self.warmup):
            mask = np.ones(len(keys), dtype=bool)
        else:
            mask = self._within_tolerance(self._at_or_below_threshold(keys), margins)
            self._judged += len(keys)
            self._kept += int(mask.sum())
        self._batches += 1
        self._take_up(keys)
        return torch.from_numpy(mask).to(margins.device)

    def update(self, margins: Tensor) -> None:
        """Take up margins (B,) without an answer; otherwise as `keep`."""
        self._take_up(_checked_keys(margins))

    def merge(self, other: StreamSelector) -> None:
        """Take up what another selector learned of other margins, and its account of what was kept.

        Parts of a window go together by age. The other one stays as it is; give the two different seeds.

        Raises:
            ValueError: of another accuracy or window, or one is `together` and the other is not.
        """
        for name in ("accuracy", "window", "together"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"{name}: got {theirs} of the other selector, want {mine}")
        self._new.merge([other._new])
        older = [each.copy() for each in other._past]
        for mine, theirs in zip(reversed(self._past), reversed(other._past), strict=False):
            mine.merge([theirs])
            older.pop()
        self._past = older + self._past
        self._judged += other._judged
        self._kept += other._kept
        self._settle()

    def agree(self, group: Any = None) -> None:
        """Take up, on every rank, what all of them saw since they last agreed; all ranks come here together.

        A rank sends its sketch of those margins, about 100 / accuracy bytes; until the next time all
        select by the same threshold. Without a process group it is that of this process.

        Raises:
            ValueError: this selector is not `together`, or ranks have other arguments, or agreed on another past.
            RuntimeError: another rank failed.
        """
        if not self.together:
            raise ValueError("agree: got a selector with together=False, want together=True")
        if of_world(group) == 1:
            told = [self._told()]
        else:
            told = told_by_all("agree on a threshold", self._told, group)
        for name, first in told[0]["facts"].items():
            for rank, theirs in enumerate(told):
                if (got := theirs["facts"][name]) != first:
                    raise ValueError(
                        f"{name}: got {got} on rank {rank} and {first} on rank 0, want the same on all"
                    )
        self._agreed += 1
        merged = QuantileSketch(self._size, f"{self.seed}/agreed {self._agreed}")
        merged.merge([QuantileSketch.of_state(theirs["new"]) for theirs in told])
        if self._past and self._past[-1].count + merged.count <= self._part():
            self._past[-1].merge([merged])
        else:
            self._past.append(merged)
        self._new = self._begun()
        self._settle()

    def state_dict(self) -> dict[str, Any]:
        """Return arguments, counts and sketches: numbers, texts and tensors. Saved after `agree` it is of any number of ranks."""
        return {
            **self._arguments(),
            "counts": {name: getattr(self, f"_{name}") for name in _COUNTS},
            "past": [each.state_dict() for each in self._past],
            "new": self._new.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called, with the same answers as without the break.

        Raises:
            ValueError: an entry is missing, of a selector with other arguments, or damaged; nothing was changed.
        """
        if missing := {*self._arguments(), "counts", "past", "new"} - set(state):
            raise ValueError(f"state: got no {', '.join(sorted(missing))}, want all entries")
        for name, mine in self._arguments().items():
            if state[name] != mine:
                raise ValueError(f"state: got {name}={state[name]!r}, want {mine!r}")
        if missing := set(_COUNTS) - set(state["counts"]):
            raise ValueError(f"state: got no {', '.join(sorted(missing))}, want all counts")
        counts = {name: whole(f"state: {name}", state["counts"][name], 0) for name in _COUNTS}
        past = [QuantileSketch.of_state(each) for each in state["past"]]
        self._new = QuantileSketch.of_state(state["new"])
        self._past = past
        for name, count in counts.items():
            setattr(self, f"_{name}", count)
        self._cut = None

    def _arguments(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in _ARGUMENTS}

    def _begun(self) -> QuantileSketch:
        self._sketches += 1
        return QuantileSketch(self._size, f"{self.seed}/rank {self._rank}/{self._sketches}")

    def _known(self) -> list[QuantileSketch]:
        return self._past if self.together else [*self._past, self._new]

    def _part(self) -> float:
        return math.inf if self.window is None else self.window / _PARTS

    def _threshold(self) -> tuple[int, float]:
        if self._cut is None:
            self._cut = cut(self._known(), self.budget)
        return self._cut

    def _at_or_below_threshold(self, keys: Keys) -> NDArray[np.bool_]:
        if self.budget == 1.0:
            return np.ones(len(keys), dtype=bool)  # also what is larger than all that came
        key, part = self._threshold()
        mask = keys < key
        (equal,) = np.nonzero(keys == key)
        if len(equal):
            drawn = random_numbers(
                len(equal), selection_generator(self.seed, self._batches), torch.device("cpu")
            )
            mask[equal] = drawn.numpy() < part
        return mask

    def _within_tolerance(self, mask: NDArray[np.bool_], margins: Tensor) -> NDArray[np.bool_]:
        judged = self._judged + len(mask)
        slack = self.tolerance * (judged + self.warmup)
        fewest = math.ceil(self.budget * judged - slack) - self._kept
        most = math.floor(self.budget * judged + slack) - self._kept
        count = int(mask.sum())
        allowed = min(max(count, fewest), most, len(mask))
        if allowed == count:
            return mask
        smallest = dk.smallest_k(margins.detach().float().cpu(), max(0, allowed)).indices.numpy()
        mask = np.zeros(len(mask), dtype=bool)
        mask[smallest] = True
        return mask

    def _take_up(self, keys: Keys) -> None:
        if self.together or self.window is None:
            self._new.update(keys)
            self._cut = None
            return
        part = math.ceil(self._part())
        keys = keys[-(self.window + part) :]  # a larger batch is a window by itself
        while len(keys):
            room = max(0, part - self._new.count)  # none, where two were merged
            self._new.update(keys[:room])
            keys = keys[room:]
            if self._new.count >= part:
                self._new.shrink()
                self._past.append(self._new)
                self._new = self._begun()
            self._settle()

    def _settle(self) -> None:
        while (
            self.window is not None
            and len(self._past) > 1
            and self.known - self._past[0].count >= self.window
        ):
            del self._past[0]
        self._cut = None

    def _told(self) -> dict[str, Any]:
        past = hashlib.blake2b(digest_size=16)
        for each in self._past:
            past.update(each.state_dict()["keys"].numpy().data)
        self._new.shrink()
        new = self._new.state_dict()
        new["keys"] = new["keys"].numpy()  # a tensor takes much longer to pack
        facts = {**self._arguments(), "past": f"another past ({past.hexdigest()})"}
        return {"facts": {**facts, "agreements": self._agreed}, "new": new}


_ARGUMENTS = "budget accuracy warmup window tolerance together seed".split()
_COUNTS = "sketches agreed batches judged kept".split()


def _checked_keys(margins: object) -> Keys:
    if not isinstance(margins, Tensor) or not margins.is_floating_point():
        came = margins.dtype if isinstance(margins, Tensor) else type(margins).__name__
        raise TypeError(f"margins: got {came}, want a floating point tensor")
    if margins.dim() != 1:
        raise ValueError(f"margins: got shape {tuple(margins.shape)}, want (B,)")
    return ordered_keys(margins)
