"""Means and spreads over seeds, and which differences exceed them. Standard library only.

Differences are paired by seed: the runs of two recipes with one seed begin with the same weights,
so what is common to them cancels. A difference is called distinguishable when its 95 % interval,
mean +- t * standard error with Student's t at n - 1 degrees of freedom, leaves out zero. With many
comparisons some are called so by chance; nothing here corrects for that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from dynams.checks import at_least

# Two-sided 95 % points of Student's t, for 1 to 30 degrees of freedom.
_T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip

Verdict = Literal["higher", "lower", "not distinguishable", "one seed", "no common seed"]


@dataclass(frozen=True)
class Spread:
    """Mean of ``n`` values and their standard deviation (n - 1); None of fewer than two."""

    n: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """Mean of ``n`` paired differences and its standard error; None of fewer than two."""

    n: int
    mean: float
    error: float | None

    @property
    def verdict(self) -> Verdict:
        """Whether the difference exceeds what the seeds' spread would explain."""
        if self.n == 0:
            return "no common seed"
        if self.error is None:
            return "one seed"
        if abs(self.mean) <= t95(self.n - 1) * self.error:
            return "not distinguishable"
        return "higher" if self.mean > 0 else "lower"


def spread(values: Iterable[float]) -> Spread:
    """Mean and standard deviation of the values that are finite."""
    kept = [value for value in values if math.isfinite(value)]
    if not kept:
        return Spread(0, math.nan, None)
    deviation = statistics.stdev(kept) if len(kept) > 1 else None
    return Spread(len(kept), statistics.fmean(kept), deviation)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """``first`` minus ``second``, seed by seed; seeds that only one of them has do not count."""
    common = sorted(set(first) & set(second))
    found = spread(first[seed] - second[seed] for seed in common)
    if found.deviation is None:
        return Difference(found.n, found.mean, None)
    return Difference(found.n, found.mean, found.deviation / math.sqrt(found.n))


def t95(degrees: int) -> float:
    """Two-sided 95 % point of Student's t; beyond 30 degrees of freedom by its expansion in 1 / degrees.

    Raises:
        ValueError: ``degrees`` is below 1.
    """
    at_least("degrees", degrees, 1)
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2
