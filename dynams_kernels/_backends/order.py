"""The order in which a selection is handed over."""

from __future__ import annotations

import torch
from torch import Tensor


def comparable(values: Tensor) -> Tensor:
    """The values with one zero and one NaN, whatever their bits: a stable sort then leaves equal ones in index order."""
    values = torch.where(values == 0, torch.zeros_like(values), values)
    return torch.where(torch.isnan(values), torch.full_like(values, torch.nan), values)


def in_order(values: Tensor, indices: Tensor, by_value: bool) -> tuple[Tensor, Tensor]:
    """A selection in index order, as it is or (`by_value`) in ascending order of values, ties by index, NaN last."""
    if not by_value:
        return values, indices
    order = torch.sort(comparable(values), stable=True).indices
    return values[order], indices[order]
