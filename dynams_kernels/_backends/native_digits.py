"""Counts of the digits of ordered keys by the compiled CPU kernels."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from dynams_kernels._backends.digits import value_of
from dynams_kernels._backends.native_rows import DTYPE_NUMBER


class NativeDigitCounter:
    """See `registry.DigitCounter`.

    The first digit is counted in a read of all values. So is the next, and where half of the values or fewer are left in question that
    read keeps their keys: later digits are counted among those.

    Args:
        module: the compiled one.
        isa: the place of its instruction set.
        values: (n,).
        smallest: gives the k smallest of values in index order, near a value that is the last of them.
    """

    def __init__(
        self,
        module: ModuleType,
        isa: int,
        values: Tensor,
        smallest: Callable[[Tensor, int, Tensor], tuple[Tensor, Tensor]],
    ) -> None:
        self._module = module
        self._isa = isa
        self._values = values.resolve_neg().contiguous()
        self._smallest = smallest
        self._kept: Tensor | None = None
        # The last digit's counts, and the prefix that ends with its first value.
        self._counts: Tensor | None = None
        self._first = 0
        self.width = 8 * values.element_size()

    def count(self, prefix: Tensor | None, shift: int, bits: int) -> Tensor:
        """See `registry.DigitCounter`."""
        count = self._values.shape[0]
        counts = torch.zeros(1 << bits, dtype=torch.int64, device="cpu")
        # Reading the prefix waits for nothing: it is on the CPU.
        above = -1 if prefix is None else int(prefix)
        left = count if self._counts is None else int(self._counts[above - self._first])
        self._counts = counts
        self._first = -(1 << (bits - 1)) if prefix is None else above << bits
        number = DTYPE_NUMBER[self._values.dtype]
        threads = torch.get_num_threads()
        # The lowest key that has the prefix, and 0 in all bits below.
        digit = (self._first << shift, shift, bits)
        source = self._values.data_ptr()
        if prefix is not None and self._kept is None and 2 * left <= count and self.width > 16:
            self._kept = self._values.new_empty(left)  # of the keys' width
            keys = self._kept.data_ptr()
            self._module.keep_digits(
                self._isa, source, number, count, *digit, keys, left, counts.data_ptr(), threads
            )
            return counts
        kept = self._kept is not None
        if self._kept is not None:
            source, count = self._kept.data_ptr(), self._kept.shape[0]
        self._module.count_digits(source, number, count, kept, *digit, counts.data_ptr(), threads)
        return counts

    def smallest(self, k: int, key: Tensor) -> tuple[Tensor, Tensor]:
        """See `registry.DigitCounter`."""
        return self._smallest(self._values, k, value_of(key, self._values.dtype))
