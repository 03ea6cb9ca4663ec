"""The search for the last selected key over all ranks: digit by digit, a sum of histograms a digit.

Keys are signed integers of `width` bits, in the order of selection. Round by round, from the top digit on, every rank counts the
digits of its keys that agree with the digits chosen so far; the counts of all ranks are summed, and each rank chooses the
bin that holds the wanted rank. After the last digit the key is known, and how many keys equal to it are selected.

Nothing here reads a value on the host, and the rounds depend on `width` alone: on a GPU it can be captured in a graph.

A digit has 11 bits: float32 takes 3 rounds of 16 KiB (8 bits: 4 of 2 KiB), and a round costs what it waits, not what it sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dynams_kernels._backends.digits import count_digits

_MOST_BITS = 11


def digits_of(width: int) -> list[tuple[int, int]]:
    """The digits of keys of so many bits, as (shift, bits), from the top, as even as can be: 8, 8 of 16; 11, 11, 10 of 32."""
    rounds = -(-width // _MOST_BITS)
    digits, left = [], width
    for number in range(rounds, 0, -1):
        bits = -(-left // number)
        left -= bits
        digits.append((left, bits))
    return digits


class Found(NamedTuple):
    """The last selected key, all 0-dimensional int64 tensors."""

    key: Tensor
    taken: Tensor  # how many keys equal to it are selected, over all ranks
    equal: Tensor  # how many there are, over all ranks
    own_below: Tensor  # this rank's keys below it
    own_equal: Tensor  # this rank's keys equal to it


def search(
    count: Callable[[Tensor | None, int, int], Tensor],
    sum_: Callable[[Tensor], Tensor],
    rank: Tensor,
    width: int,
) -> Found:
    """The key of this rank (1 for the smallest) among the keys of all ranks, of which there are at least so many.

    Args:
        count: of this rank's keys, see `registry.DigitCounter.count`.
        sum_: the sum over all ranks, in place.
        rank: 0-dimensional int64.
        width: bits of a key.
    """
    prefix: Tensor | None = None
    own_below = torch.zeros_like(rank)
    nothing = torch.zeros_like(rank)
    for shift, bits in digits_of(width):
        own = count(prefix, shift, bits)
        counts = sum_(own.clone())
        chosen = (counts.cumsum(0) < rank).sum()
        before = torch.arange(1 << bits, device=own.device) < chosen
        rank = rank - torch.where(before, counts, nothing).sum()
        own_below = own_below + torch.where(before, own, nothing).sum()
        # The top digit holds the sign: its first bin is that of the most negative keys.
        prefix = chosen - (1 << (bits - 1)) if prefix is None else (prefix << bits) + chosen
        place = chosen.view(1)
        equal, own_equal = counts.gather(0, place)[0], own.gather(0, place)[0]
    assert prefix is not None
    return Found(prefix, rank, equal, own_below, own_equal)


def search_among(
    keys: Tensor,
    among: Tensor | None,
    sum_: Callable[[Tensor], Tensor],
    rank: Tensor,
    width: int,
) -> Found:
    """`search` among keys in a tensor (n,), of which those count that are `among` (n,); None: all."""

    def count(prefix: Tensor | None, shift: int, bits: int) -> Tensor:
        return count_digits(keys, prefix, shift, bits, among)

    return search(count, sum_, rank, width)


def share_of_ties(found: Found, ties: Tensor, rank: int) -> Tensor:
    """How many of a rank's keys equal to the last are selected, where they go rank after rank.

    Args:
        found: see `search`.
        ties: (ranks,) how many each rank has.
        rank: whose share is wanted.
    """
    left = found.taken - ties[:rank].sum()
    return torch.minimum(left.clamp(min=0), found.own_equal)
