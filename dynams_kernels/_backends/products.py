"""Torch's matrix products of a linear head: what they need for rows to stay apart, and logits that are not rounded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

# Features of one matrix tile of bfloat16.
_TILE_COLUMNS = 32
_HALVES = (torch.bfloat16, torch.float16)
# torch 2.8 and newer, on CUDA devices: a product of half-precision operands that stays in float32.
_HAS_WIDE_PRODUCT = hasattr(torch.ops.aten.mm, "dtype")


def keeps_logits(features: Tensor) -> bool:
    """Whether torch can leave logits of such features as the product accumulates them: `unrounded_logits`."""
    return features.dtype not in _HALVES or (_HAS_WIDE_PRODUCT and features.is_cuda)


def unrounded_logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``features @ weight.T + bias`` of features that `keeps_logits`, in float32 also of half precision.

    Rounded to bfloat16, the two largest of 1,000 logits are one number in 3 rows of 100.
    """
    if features.dtype not in _HALVES:
        return linear(features, weight, bias)
    logits = torch.mm(features, weight.t(), out_dtype=torch.float32)
    return logits if bias is None else logits.add_(bias)


def apart(features: Tensor) -> Tensor:
    """The same features (B, K), with zeros after each row where torch's product reads on.

    On CPUs with matrix tiles the bfloat16 product reads past the end of a row that is no whole number of tiles, and
    multiplies what it finds by zero: the next row, or the columns beyond a slim width, spoil the row where they hold NaN or
    infinity (seen with torch 2.13).
    """
    if features.dtype != torch.bfloat16 or not features.is_cpu:
        return features
    rest = features.shape[1] % _TILE_COLUMNS
    if rest == 0:
        return features
    batch, columns = features.shape
    padded = features.new_zeros((batch, columns + _TILE_COLUMNS - rest))
    padded[:, :columns] = features
    return padded[:, :columns]
