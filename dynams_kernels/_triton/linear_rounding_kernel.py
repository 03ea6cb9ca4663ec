"""A float32 matrix rounded to what the tensor cores multiply (tf32), once and for all tiles: see `linear_rounding`."""

import triton
import triton.language as tl


@triton.jit
def nearest_tf32(x):
    """float32 of ten bits behind the leading one, the nearest to x, of two the larger in magnitude: as `cvt.rna.tf32.f32`."""
    bits = x.to(tl.uint32, bitcast=True)
    nearest = (((bits + 0x1000) >> 13) << 13).to(tl.float32, bitcast=True)
    # A NaN of few bits would become an infinity.
    return tl.where(x == x, nearest, float("nan"))


@triton.jit(do_not_specialize=["classes"])
def round_kernel(
    weight, copy, classes, width, weight_row, weight_step, copy_row,
    BLOCK_CLASSES: tl.constexpr, BLOCK_FEATURES: tl.constexpr,
):  # fmt: skip
    """Rounds weight (classes, width), of any strides, into a copy whose rows lie `copy_row` elements apart."""
    class_ = tl.program_id(0) * BLOCK_CLASSES + tl.arange(0, BLOCK_CLASSES)[:, None]
    feature = tl.program_id(1) * BLOCK_FEATURES + tl.arange(0, BLOCK_FEATURES)[None, :]
    inside = (class_ < classes) & (feature < width)
    # 64 bits: of a transposed weight the last feature can be billions of elements from the first.
    place = class_.to(tl.int64) * weight_row + feature.to(tl.int64) * weight_step
    x = tl.load(weight + place, mask=inside, other=0.0)
    tl.store(copy + class_.to(tl.int64) * copy_row + feature, nearest_tf32(x), mask=inside)
