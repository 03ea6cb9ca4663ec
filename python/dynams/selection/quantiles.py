"""Quantiles of a stream in bounded memory: a sketch that can be merged, deterministic by its seed.

The sketch of Karnin, Lang and Liberty (Optimal Quantile Approximation in Streams, FOCS 2016): level h holds values
that each stand for 2^h of the stream. A level that is full is sorted, and every second of its values moves up to stand
for two; a coin says whether the even or the odd ones. One such step moves the rank of any value by 0 or by 2^h, up or
down as the coin fell, so the error of a rank is a martingale. By the Azuma-Hoeffding inequality it is beyond t with a
probability of at most 2 exp(-t^2 / 2V), V being the sum of 4^h over all steps. The sketch counts its V. A coin
is tossed for every step anew, so an order that is made to hurt, and one that follows from earlier answers, gain nothing.

Apache DataSketches' own sketch of this kind has no seed and leaves NaN out, without a word, so that neither would a
resumed run select what the uninterrupted one does, nor would a NaN come last.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Keys = NDArray[np.int32]

# The probability with which the error of a rank is beyond what is stated.
RISK = 0.01
# A level has room for 2/3 of the values of the one above: the share with the least V at a given memory.
_SHARE = 2 / 3
_NAN = np.int32(2**31 - 1)
_LEVEL_BITS = 6


def ordered_keys(margins: Tensor) -> Keys:
    """Map float32 to int32 (n,) in the order of `smallest_k`: -inf, ..., -0.0 = 0.0, ..., +inf, NaN.

    Other floating points are rounded to float32. Waits for the device.
    """
    values = margins.detach().to(device="cpu", dtype=torch.float32).numpy()
    with np.errstate(invalid="ignore"):  # a signalling NaN
        keys: Keys = (values + np.float32(0)).view(np.int32)  # -0.0 + 0 is 0
    keys ^= (keys >> 31) & _NAN  # of negative numbers larger bits are smaller
    keys[np.isnan(values)] = _NAN
    return keys


def margin_of(key: int) -> float:
    """Return the float32 of one of `ordered_keys`."""
    bits = np.int32(key)
    if bits == _NAN:
        return math.nan
    return float((bits ^ ((bits >> 31) & _NAN)).view(np.float32))


def level_size(accuracy: float) -> int:
    """Return how many values the top level needs for ranks that err by `accuracy` N, with probability `RISK` more.

    Level h of H has room for c_h >= k (2/3)^(H-h) values and is halved at most N / (2^h c_h) times, so V is at most
    3 N 2^H / k. Level H came to be when over k values, of 2^(H-1) each, were there: 2^H < 2 N / k, and V < 6 N^2 / k^2.
    """
    return math.ceil(math.sqrt(12 * math.log(2 / RISK)) / accuracy)


class QuantileSketch:
    """What is kept of a stream of int32 keys: about 3 `size` of them and a buffer, however many come.

    Args:
        size: k, values of the top level: see `level_size`.
        coins: a text; all coins are functions of it and of their number. Sketches that are to be merged want
            different ones.

    Attributes:
        count: N, keys of the stream so far.
        variance: V, of which `rank_error` is made.
    """

    def __init__(self, size: int, coins: str) -> None:
        self.size = size
        self.coins = coins
        self.count = 0
        self.variance = 0
        self._tossed = 0
        self._levels: list[list[Keys]] = [[]]

    def update(self, keys: Keys) -> None:
        """Take up keys (n,): any number, in any order."""
        self._levels[0].append(keys)
        self.count += len(keys)
        # Many at a time: a step costs some microseconds, whatever its size.
        if _total(self._levels[0]) > 4 * self.size:
            self.shrink()

    def merge(self, others: Sequence[QuantileSketch]) -> None:
        """Take up what others hold, which stay as they are."""
        for other in others:
            self.count += other.count
            self.variance += other.variance
            while len(self._levels) < len(other._levels):
                self._levels.append([])
            for mine, theirs in zip(self._levels, other._levels, strict=False):
                mine.extend(theirs)
        self.shrink()

    def copy(self) -> QuantileSketch:
        """Return one that holds the same and goes on by itself."""
        other = QuantileSketch(self.size, self.coins)
        other.count, other.variance, other._tossed = self.count, self.variance, self._tossed
        other._levels = [list(level) for level in self._levels]
        return other

    def shrink(self) -> None:
        """Bring what waits in the buffer, and every level, to their least."""
        height = 0
        while height < len(self._levels):
            if _total(self._levels[height]) > self._room(height):
                self._halve(height)
            height += 1

    def state_dict(self) -> dict[str, Any]:
        """Return numbers, a text, and an int32 tensor of the keys, level after level."""
        return {
            "size": self.size,
            "coins": self.coins,
            "count": self.count,
            "variance": self.variance,
            "tossed": self._tossed,
            "levels": [_total(level) for level in self._levels],
            "keys": torch.from_numpy(
                np.concatenate([_EMPTY, *(keys for level in self._levels for keys in level)])
            ),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> QuantileSketch:
        """Return the sketch of a state.

        Raises:
            ValueError: an entry is missing, or what its levels hold is not `count` keys.
        """
        wanted = {"size", "coins", "count", "variance", "tossed", "levels", "keys"}
        if not isinstance(state, Mapping) or (missing := wanted - set(state)):
            lacking = ", ".join(sorted(missing)) if isinstance(state, Mapping) else "entries"
            raise ValueError(f"sketch: got no {lacking}, want all entries")
        sketch = cls(state["size"], state["coins"])
        sketch.count, sketch.variance = state["count"], state["variance"]
        sketch._tossed = state["tossed"]
        keys = np.asarray(state["keys"]).astype(np.int32)
        sketch._levels = [
            [level] for level in np.split(keys, np.cumsum(state["levels"]))[: len(state["levels"])]
        ]
        held = sum(_total(level) << height for height, level in enumerate(sketch._levels))
        if held != sketch.count:
            raise ValueError(f"sketch: got {held} values in its levels, want {sketch.count}")
        return sketch

    def packed(self) -> NDArray[np.int64]:
        """Return what is held, each key above `_LEVEL_BITS` bits for its level; in no order."""
        return np.concatenate(
            [
                (keys.astype(np.int64) << _LEVEL_BITS) | height
                for height, level in enumerate(self._levels)
                for keys in (_EMPTY, *level)
            ]
        )

    def _room(self, height: int) -> int:
        below_top = len(self._levels) - 1 - height
        return max(8, math.ceil(self.size * _SHARE**below_top))

    def _halve(self, height: int) -> None:
        keys = np.concatenate(self._levels[height])
        keys.sort()
        if height + 1 == len(self._levels):
            self._levels.append([])
        paired = len(keys) & ~1
        self._levels[height] = [keys[paired:].copy()]  # one without a partner stays
        self._levels[height + 1].append(keys[self._toss() : paired : 2].copy())
        self.variance += 4**height

    def _toss(self) -> int:
        self._tossed += 1
        digest = hashlib.blake2b(f"{self.coins}/{self._tossed}".encode(), digest_size=1).digest()
        return digest[0] & 1


_EMPTY: Keys = np.empty(0, np.int32)


def _total(level: list[Keys]) -> int:
    return sum(map(len, level))


def rank_error(sketches: Sequence[QuantileSketch]) -> float:
    """Bound the error of a rank among all N that the sketches hold, as a share of N; it is larger with probability `RISK`."""
    count = sum(each.count for each in sketches)
    variance = sum(each.variance for each in sketches)
    return math.sqrt(2 * variance * math.log(2 / RISK)) / count if count else 0.0


def cut(sketches: Sequence[QuantileSketch], share: float) -> tuple[int, float]:
    """Find the key at which a `share` in (0, 1] of all that the sketches hold ends.

    Returns:
        The key, and which part of those equal to it belongs to the share, in (0, 1].
    """
    packed = np.concatenate([each.packed() for each in sketches])
    packed.sort()
    keys = packed >> _LEVEL_BITS
    reached = np.cumsum(np.int64(1) << (packed & (2**_LEVEL_BITS - 1)))
    wanted = share * float(reached[-1])
    key = int(keys[min(int(np.searchsorted(reached, wanted)), len(keys) - 1)])
    first, last = np.searchsorted(keys, key), np.searchsorted(keys, key, side="right") - 1
    below = int(reached[first - 1]) if first else 0
    return key, min(1.0, (wanted - below) / (int(reached[last]) - below))
