"""Counts of the digits of ordered keys in plain torch: without a read on the host, on any device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_INTEGERS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}
# Counts of one histogram of torch's on a GPU are as wide as what it counts.
_COUNTED_AT_ONCE = 1 << 30


def ordered_keys(values: Tensor) -> Tensor:
    """Signed integers as wide as the values, in the contract's order: every NaN the same and last, the two zeros the same."""
    integer, infinity = _INTEGERS[values.dtype]
    bits = values.detach().resolve_neg().contiguous().view(integer)
    largest = torch.iinfo(integer).max
    magnitude = bits & largest
    # Of negatives the larger magnitude is the smaller number.
    keys = torch.where(bits < 0, bits ^ largest, bits)
    keys.masked_fill_(magnitude == 0, 0)
    return keys.masked_fill_(magnitude > infinity, largest)


def value_of(key: Tensor, dtype: torch.dtype) -> Tensor:
    """The value with a key, 0-dimensional; of keys below that of -inf something that is ordered nowhere."""
    integer, _ = _INTEGERS[dtype]
    bits = key.to(integer)
    return torch.where(bits < 0, bits ^ torch.iinfo(integer).max, bits).view(dtype)


def count_digits(
    keys: Tensor, prefix: Tensor | None, shift: int, bits: int, among: Tensor | None = None
) -> Tensor:
    """How many keys have each value of the digit of `bits` at `shift`: (2^bits,) int64, in the order of the keys.

    Args:
        keys: (n,) signed integers.
        prefix: the keys' bits above the digit, 0-dimensional int64: others do not count. None: the digit is the top one.
        shift: the digit's distance from the lowest bit.
        bits: the digit's width.
        among: (n,) bool, the keys that count; None: all.
    """
    bins = 1 << bits
    if prefix is None:
        # Two's complement: the first bin is that of the most negative keys.
        digits = (keys >> shift).to(torch.int32) + bins // 2
    else:
        # Nothing is left of the bits above where they are the prefix; elsewhere, no digit.
        digits = (keys ^ (prefix << (shift + bits))) >> shift
    if among is not None:
        digits = digits.masked_fill(~among, -1)
    return _histogram(digits, bins)


def _histogram(digits: Tensor, bins: int) -> Tensor:
    """How many are 0, 1, ... bins - 1: (bins,) int64."""
    if digits.is_cuda and not torch.are_deterministic_algorithms_enabled():
        # It passes over what is outside its range, from 0 to the first number after the bins. Counts of integers are the same in
        # any order, but torch refuses it where it is told to be deterministic.
        counts = torch.zeros(bins, dtype=torch.int64, device=digits.device)
        digits = digits.to(torch.int32) if digits.dtype == torch.int16 else digits
        for part in torch.split(digits, _COUNTED_AT_ONCE):
            counts += torch.histc(part, bins + 1, 0, bins + 1)[:bins]
        return counts
    counts = torch.zeros(bins + 2, dtype=torch.int64, device=digits.device)
    places = digits.clamp(-1, bins).long() + 1
    return counts.scatter_add_(0, places, counts.new_ones(()).expand(places.shape))[1:-1]


class PlainDigitCounter:
    """See `registry.DigitCounter`.

    Args:
        values: (n,), on any device.
        smallest: the backend's selection of the k smallest of values, in index order.
    """

    def __init__(
        self, values: Tensor, smallest: Callable[[Tensor, int, bool], tuple[Tensor, Tensor]]
    ) -> None:
        self._values = values
        self._keys = ordered_keys(values)
        self._smallest = smallest
        self.width = 8 * values.element_size()

    def count(self, prefix: Tensor | None, shift: int, bits: int) -> Tensor:
        """See `registry.DigitCounter`."""
        return count_digits(self._keys, prefix, shift, bits)

    def smallest(self, k: int, key: Tensor) -> tuple[Tensor, Tensor]:
        """See `registry.DigitCounter`."""
        return self._smallest(self._values, k, False)
