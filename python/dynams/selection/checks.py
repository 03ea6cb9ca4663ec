"""Checks of what samplers are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def check_index_vector(indices: object) -> None:
    """Refuse what is no (n,) int64 tensor.

    Raises:
        TypeError: no int64 tensor.
        ValueError: another number of dimensions.
    """
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
        raise TypeError(f"indices must be an int64 tensor, got {kind_of(indices)}")
    if indices.dim() != 1:
        raise ValueError(f"indices must have shape (n,), got {tuple(indices.shape)}")


def check_index_range(indices: Tensor, num_samples: int) -> None:
    """Refuse indices outside [0, num_samples); waits for the device.

    Raises:
        ValueError: naming the extremes.
    """
    low, high = torch.stack((indices.min(), indices.max())).tolist()
    if low < 0 or high >= num_samples:
        raise ValueError(f"indices must be in [0, {num_samples}), got values from {low} to {high}")


def check_pair(indices: object, margins: object) -> None:
    """Refuse what is no pair of indices (n,) int64 and margins (n,) floating point.

    Raises:
        TypeError, ValueError: naming the one that is wrong.
    """
    check_index_vector(indices)
    assert isinstance(indices, Tensor)
    if not isinstance(margins, Tensor) or not margins.is_floating_point():
        raise TypeError(f"margins must be a floating point tensor, got {kind_of(margins)}")
    if margins.shape != indices.shape:
        raise ValueError(
            f"margins must have the shape of indices, {tuple(indices.shape)}, "
            f"got {tuple(margins.shape)}"
        )


def check_state(
    state: Mapping[str, Any],
    identity: Mapping[str, object],
    scores: Iterable[str],
    num_samples: int,
) -> None:
    """Refuse what is no state of a sampler with this identity and these scores.

    Raises:
        ValueError: an entry is missing, of another sampler, or does not fit.
        TypeError: its indices are no int64 tensor.
    """
    entries = {"epoch", "selected_at", "consumed", "indices", "weights", "scores"}
    if missing := {*identity, *entries} - set(state):
        raise ValueError(f"state lacks {', '.join(sorted(missing))}")
    for name, mine in identity.items():
        if state[name] != mine:
            raise ValueError(f"state was made with {name}={state[name]!r}, this has {mine!r}")
    if missing := set(scores) - set(state["scores"]):
        raise ValueError(f"state lacks scores of {', '.join(sorted(missing))}")
    indices, weights, consumed = state["indices"], state["weights"], state["consumed"]
    check_index_vector(indices)
    if indices.shape[0] == 0:
        raise ValueError("the state's selection is empty")
    check_index_range(indices, num_samples)
    if weights is not None and weights.shape != indices.shape:
        raise ValueError(
            f"weights must have shape {tuple(indices.shape)}, got {tuple(weights.shape)}"
        )
    if not 0 <= consumed <= indices.shape[0]:
        raise ValueError(f"consumed must be in [0, {indices.shape[0]}], got {consumed}")


def kind_of(value: object) -> str:
    """Name what something is, for a message: a tensor's dtype, else the type."""
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
