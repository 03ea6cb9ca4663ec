"""Exact partial selection as an operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends import registry
from dynams_kernels._ops.library import define
from dynams_kernels._plain import is_plain

_smallest_k = define("smallest_k", "(Tensor values, SymInt k, bool by_value) -> (Tensor, Tensor)")


def smallest_k(values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
    """The k smallest of values (N,) and their indices, in the contract's total order."""
    if is_plain(values):
        return registry.serving(values).smallest_k(values, k, by_value)
    # A compiled graph traces the backward pass at once, so there the refusal is a missing gradient, not an error.
    if torch.compiler.is_compiling():
        values = values.detach()
    selected: tuple[Tensor, Tensor] = _smallest_k(values, k, by_value)
    return selected


@torch.library.register_fake("dynams_kernels::smallest_k")
def _smallest_k_shape(values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
    return values.new_empty(k), values.new_empty(k, dtype=torch.int64)


def _smallest_k_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    raise RuntimeError(
        "selection is not differentiable: index the margins themselves with the selected indices, "
        "margin(logits)[selection.indices], to train on them"
    )


torch.library.register_autograd("dynams_kernels::smallest_k", _smallest_k_backward)
