"""What torch's matrix products need to be handed for rows to stay apart."""

from __future__ import annotations

import torch
from torch import Tensor

# Features of one matrix tile of bfloat16.
_TILE_COLUMNS = 32


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
