"""A weight rounded once for float32 products on the tensor cores (tf32), before tiles of it are multiplied.

The tensor cores cut float32 off after ten bits where torch's products round. Rounded in the tile, an operand passes registers: the
features may, as the tensor cores take their left operand from there, but the right one has to go back to shared memory, and the
product waits for it (176 us where 123 are taken without, 16384 x 1024 -> 1000 on an H100). So the weight is rounded into scratch
first, where it is read and written once and pays for that.
"""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from dynams_kernels._triton.launch import Launch
from dynams_kernels._triton.linear_rounding_kernel import round_kernel

__all__ = ["pays", "rounded_copy"]

# Bytes of scratch, at most (as of the compiled head's states); and never more than the features have.
MOST_BYTES = 64 << 20
# Rounding takes 2.5 us and 3 ps an element (8 bytes), and saves 3 of 10.5 fs of each multiplication (H100): with so many rows an
# element pays for itself twice over, with so many multiplications so does the launch.
_LEAST_ROWS = 2048
_LEAST_WORK = 1 << 31
# Up to here the products hide behind reading the features.
_STREAMED_CLASSES = 32

_BLOCK_CLASSES, _BLOCK_FEATURES = 16, 256
_ROW_UNIT = 16  # rows of scratch are whole multiples apart, so that loads of any width are wide


def pays(rows: int, classes: int, width: int) -> bool:
    """Whether a float32 weight (classes, width) that is multiplied with so many rows is to be rounded into scratch."""
    return (
        classes > _STREAMED_CLASSES
        and rows >= max(_LEAST_ROWS, classes)
        and rows * classes * width >= _LEAST_WORK
        and 4 * classes * _row_of(width) <= MOST_BYTES
    )


def rounded_copy(weight: Tensor) -> Tensor:
    """The float32 weight (C, w), of any strides, as the tensor cores are to see it; rows of adjacent elements."""
    classes, width = weight.shape
    copy = weight.new_empty(classes, _row_of(width))
    _launch(classes, width, *weight.stride())(weight.get_device(), weight, copy)
    return copy[:, :width]


def _row_of(width: int) -> int:
    return -(-width // _ROW_UNIT) * _ROW_UNIT


@lru_cache(maxsize=1024)
def _launch(classes: int, width: int, weight_row: int, weight_step: int) -> Launch:
    grid = (-(-classes // _BLOCK_CLASSES), -(-width // _BLOCK_FEATURES))
    numbers = (classes, width, weight_row, weight_step, _row_of(width))
    return Launch(round_kernel, grid, numbers, round_constants())


def round_constants() -> dict[str, int]:
    """What the kernel is compiled for."""
    return {"BLOCK_CLASSES": _BLOCK_CLASSES, "BLOCK_FEATURES": _BLOCK_FEATURES, "num_warps": 4}
