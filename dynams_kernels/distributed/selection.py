"""Exact selection of the k smallest values over all ranks; each rank gets those of its own that are among them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynams_kernels import _checks
from dynams_kernels._backends import registry
from dynams_kernels._backends.digits import ordered_keys
from dynams_kernels._numbers import as_fraction, as_index
from dynams_kernels._ops import selection as local
from dynams_kernels._selection_checks import check_k
from dynams_kernels.distributed.groups import Ranks, agree, ranks_of
from dynams_kernels.distributed.search import Found, search, search_among, share_of_ties
from dynams_kernels.selection import SmallestK


def smallest_k(
    values: Tensor, k: int | float, *, indices: Tensor | None = None, group: Any = None
) -> SmallestK:
    """The k smallest of the values of all ranks, exactly: each rank gets its own winners, none gets another's values.

    The total order is that of :func:`dynams_kernels.smallest_k`, ties by global index. So the answer does not depend on the number of
    ranks, nor on how the values are split among them; a rank may have none. Every rank of the group calls this, with the same k and dtype.

    Histograms of the keys' digits are summed: 2 rounds of 2 KiB for 16-bit values, 3 of 16 KiB for float32, 6 for float64, whatever the
    number of values; before them one exchange of 512 bytes a rank, after them one of 8. With `indices`, as many more rounds as 11-bit digits tell
    the lowest from the highest index. Of a GPU the host reads the exchange and, at the end, the number of winners.

    Args:
        values: (n,) float32, float16, bfloat16 or float64, this rank's; any stride.
        k: how many of all N, 0 <= k <= N; or a float in (0, 1], the fraction of N: max(1, floor(k N + 0.5)), none of no values.
        indices: (n,) int64, the global indices of the values: any numbers in any order, each of them once over all ranks. None: 0 to N - 1,
            rank after rank.
        group: a process group of torch.distributed; None: of all processes. Where there is none, this process is the only rank.

    Returns:
        SmallestK(values in the input's dtype, indices int64), this rank's winners, by ascending global index. Not differentiable: the
        values carry no gradient.

    Raises:
        TypeError, ValueError: on every rank, naming the argument, what came and what is wanted, and on which rank where ranks differ. Where an
            index that comes twice leaves open which k are selected; otherwise that is not noticed, and both are.
        RuntimeError: not all ranks of the group made this call within its time-out.
    """
    ranks = ranks_of(group)
    with torch.no_grad():
        told = agree(
            ranks,
            lambda: _told(ranks, values, k, indices),
            ("call", "k", "dtype", "indices", "device"),
        )
        sizes = [one["size"] for one in told]
        count = check_k(_number(k), sum(sizes))
        values = values.detach()
        if indices is None and ranks.size == 1:
            return SmallestK(*local.smallest_k(values, count, False))
        if count == 0:
            return SmallestK(values.new_empty(0), values.new_empty(0, dtype=torch.int64))
        counter = registry.serving(values).digit_counter(values)
        rank = torch.full((), count, dtype=torch.int64, device=values.device)
        found = search(counter.count, ranks.sum_, rank, counter.width)
        if indices is None:
            share = share_of_ties(found, ranks.gather(found.own_equal), ranks.rank)
            winners = int(found.own_below + share)
            chosen, places = counter.smallest(winners, found.key)
            return SmallestK(chosen, places + sum(sizes[: ranks.rank]))
        return _by_index(ranks, values, indices, _Span.of(told), counter, found)


class _Span:
    """The range of all global indices, and keys of theirs that are as narrow as it allows."""

    def __init__(self, lowest: int, highest: int) -> None:
        self.bits = max(1, (highest - lowest).bit_length())
        # Of a single index itself: what is above it may be no int64.
        self.middle = lowest if lowest == highest else lowest + (1 << (self.bits - 1))

    @classmethod
    def of(cls, told: list[dict[str, Any]]) -> _Span:
        """Of what all ranks tell; some has an index."""
        ranges = [one["range"] for one in told if one["range"] is not None]
        return cls(min(low for low, _ in ranges), max(high for _, high in ranges))

    def keys(self, indices: Tensor) -> Tensor:
        """Signed integers of `bits` bits in the order of the indices."""
        return indices - self.middle


def _by_index(
    ranks: Ranks,
    values: Tensor,
    indices: Tensor,
    span: _Span,
    counter: registry.DigitCounter,
    found: Found,
) -> SmallestK:
    """A rank's winners by given global indices: the search goes on among those of the values equal to the last."""
    candidates = found.own_below + found.own_equal
    if values.is_cpu:
        # What the host reads for nothing spares work: the candidates come first, and mostly all of them win.
        chosen, places = counter.smallest(int(candidates), found.key)
        numbers = indices[places]
        if int(found.taken) == int(found.equal):
            return _in_order(chosen, numbers)
        tied = ordered_keys(chosen) == found.key
        last = search_among(span.keys(numbers)[tied], None, ranks.sum_, found.taken, span.bits)
        _check_once(span, *torch.stack([last.key, last.equal]).tolist())
        wins = ~tied | (span.keys(numbers) <= last.key)
        return _in_order(chosen[wins], numbers[wins])
    tied = ordered_keys(values) == found.key
    last = search_among(span.keys(indices), tied, ranks.sum_, found.taken, span.bits)
    winners = found.own_below + last.own_below + last.own_equal
    told = torch.stack([candidates, winners, last.key, last.equal]).tolist()
    _check_once(span, *told[2:])
    chosen, places = counter.smallest(told[0], found.key)
    numbers = indices[places]
    loses = (ordered_keys(chosen) == found.key) & (span.keys(numbers) > last.key)
    # The losers go last, which tells nobody how many they are.
    order = torch.sort(loses.to(torch.uint8), stable=True).indices[: told[1]]
    return _in_order(chosen[order], numbers[order])


def _check_once(span: _Span, key: int, times: int) -> None:
    """The last index selected is one value's: all ranks know how many have it."""
    if times > 1:
        raise ValueError(
            f"indices: got {key + span.middle} for {times} equal values, want every index once over all ranks"
        )


def _in_order(values: Tensor, indices: Tensor) -> SmallestK:
    """By ascending index. On the CPU those in order already stay as they are."""
    if indices.is_cpu and bool((indices[1:] > indices[:-1]).all()):
        return SmallestK(values, indices)
    order = indices.argsort()
    return SmallestK(values[order], indices[order])


def _number(k: object) -> int | float:
    """k as a plain number, of which ranks can be compared."""
    fraction = as_fraction(k)
    if fraction is not None:
        return fraction
    number = as_index(k)
    if number is None:
        raise TypeError(f"k: got {type(k).__name__}, want an int or a float in (0, 1]")
    return number


def _told(ranks: Ranks, values: object, k: object, indices: object) -> dict[str, Any]:
    """What the others must know of a rank's arguments, which are checked."""
    values = _checks.check_float("values", values, 1, "(n,)")
    ranks.check_device("values", values.device)
    span = None
    if indices is not None:
        if not isinstance(indices, Tensor):
            raise TypeError(f"indices: got {type(indices).__name__}, want an int64 tensor")
        if indices.dtype != torch.int64:
            raise TypeError(f"indices: got dtype {indices.dtype}, want int64")
        if indices.shape != values.shape:
            raise ValueError(
                f"indices: got shape {tuple(indices.shape)}, want {tuple(values.shape)}"
            )
        _checks.check_device("indices", indices, values.device)
        if indices.numel():
            span = torch.stack(torch.aminmax(indices)).tolist()
    return {
        "call": "smallest_k",
        "k": repr(_number(k)),
        "dtype": str(values.dtype),
        "indices": "None" if indices is None else "a tensor",
        "device": values.device.type,
        "size": values.numel(),
        "range": span,
    }
