"""What a job of many GPUs pays for a selection, on paper, from measured pieces.

python bench/scale.py                       the tables
python bench/scale.py --into docs/scale.md  between the page's scale:begin and :end marks

Nothing is measured here: every piece names its report below, and what no report holds is an assumption, and called one.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from marks import insert, lines
from units import time

KIB = 1024


@dataclass(frozen=True)
class Network:
    """Assumed: 400 Gb/s InfiniBand to each GPU, of which half is reached; a hop of a tree of ranks, launches included."""

    ranks: int = 1000
    hop: float = 10e-6
    bytes_a_second: float = 25e9

    @property
    def hops(self) -> int:
        return math.ceil(math.log2(self.ranks))

    def all_reduce(self, size: int) -> float:
        """Up a tree and down again, and every byte in and out."""
        return 2 * self.hops * self.hop + 2 * size / self.bytes_a_second

    def all_gather(self, size_of_each: float) -> float:
        """Every rank takes in what all have."""
        return self.hops * self.hop + self.ranks * size_of_each / self.bytes_a_second


# `dk.distributed.smallest_k` of float32: what ranks tell of their arguments, histograms of 11, 11 and 10 bits, ties.
AGREEMENT, HISTOGRAMS, TIES = 512, (16 * KIB, 16 * KIB, 8 * KIB), 8
# `dk.distributed.smallest_k` on one H100 by the clock, its collectives left out, by values: bench/results/h100/2026-11-27-71e0ad9.
LOCAL = {65_536: 276e-6, 1_280_000: 288e-6, 100_000_000: 891e-6}
# Images a second on one H100, CIFAR's ResNet-18, bf16: bench/results/h100/2026-11-27-9f19dd2.
SCORED, TRAINED = 706_179, 39_556
# The most that a stream's sketch takes at 1 % (`StreamSelector`), and seconds to unpack and merge a thousand on one core:
# stream.md in bench/results/epyc-zen4-2-cores.
SKETCH, MERGE = 10_000, 22.1e-3
BUDGET = 0.6
SIZES = (10**6, 10**8, 10**9)


def local_seconds(keys: float) -> float:
    """As long as the next larger selection that was measured."""
    return next(seconds for measured, seconds in LOCAL.items() if keys <= measured)


def exact_seconds(network: Network, samples: int) -> float:
    told = network.all_gather(AGREEMENT) + network.all_gather(TIES)
    rounds = sum(map(network.all_reduce, HISTOGRAMS))
    return rounds + told + local_seconds(samples / network.ranks)


def table(network: Network) -> str:
    """A row for each thing that is paid, a column for each number of samples."""
    ranks = network.ranks
    rows = {
        "scores that a GPU holds": [size(4 * n / ranks) for n in SIZES],
        "exact selection: a GPU sends": [size(sum(HISTOGRAMS) + AGREEMENT + TIES) for _ in SIZES],
        "exact selection: time": [time(exact_seconds(network, n)) for n in SIZES],
        "who is selected, as bits: a GPU sends": [size(n / 8 / ranks) for n in SIZES],
        "who is selected, as bits: a GPU receives": [size(n / 8) for n in SIZES],
        "who is selected, as bits: time": [time(network.all_gather(n / 8 / ranks)) for n in SIZES],
        "for comparison, all scores gathered: a GPU receives": [size(4 * n) for n in SIZES],
        "for comparison, all scores gathered: time": [
            time(network.all_gather(4 * n / ranks)) for n in SIZES
        ],
        "scoring pass of a proxy: time": [time(n / ranks / SCORED) for n in SIZES],
        "an epoch on 60 %: time": [time(BUDGET * n / ranks / TRAINED) for n in SIZES],
        "selection and bits, of scoring, selecting and training": [
            percent(network, n) for n in SIZES
        ],
    }
    head = ["of N samples", *(f"N = 10^{round(math.log10(n))}" for n in SIZES)]
    return lines([head, *([name, *cells] for name, cells in rows.items())])


def percent(network: Network, samples: int) -> str:
    choosing = exact_seconds(network, samples) + network.all_gather(samples / 8 / network.ranks)
    work = samples / network.ranks * (1 / SCORED + BUDGET / TRAINED)
    share = 100 * choosing / (choosing + work)
    return f"{share:.2f} %" if share < 1 else f"{share:.0f} %"


def stream_table() -> str:
    rows = [
        [
            "ranks that agree on a stream's threshold",
            "a rank sends at most",
            "a rank receives",
            "time",
        ]
    ]
    for ranks in (8, 1000):
        seconds = Network(ranks).all_gather(SKETCH) + MERGE * ranks / 1000
        rows.append([f"{ranks:,}", size(SKETCH), size(ranks * SKETCH), time(seconds)])
    return lines(rows)


def size(count: float) -> str:
    """Three figures, in the unit that needs no leading zeros."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)):
        if count >= scale or unit == "B":
            return f"{count / scale:.3g} {unit}"
    raise AssertionError


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    text = f"{table(Network())}\n{stream_table()}"
    if options.into:
        insert(options.into, "scale", text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
