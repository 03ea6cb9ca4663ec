"""Which matrices the copy engine of Hopper and its successors (TMA) can load tiles of."""

from __future__ import annotations

from torch import Tensor

# Rows and columns: coordinates have 32 bits, and whoever counts tiles rounds up. Strides have 40 bits, in bytes.
_MOST = 1 << 30
_MOST_STRIDE = 1 << 36
_ALIGNMENT = 16  # bytes


def lies_in_rows(matrix: Tensor, width: int) -> bool:
    """Whether TMA can be told of the first `width` columns of a matrix: adjacent elements, in rows that begin at multiples of 16 bytes."""
    stride, step = matrix.stride()
    return (
        step == 1
        and (stride * matrix.element_size() | matrix.data_ptr()) % _ALIGNMENT == 0
        and width <= stride <= _MOST_STRIDE
        and max(matrix.shape[0], width) <= _MOST
        and not matrix.is_neg()
    )
