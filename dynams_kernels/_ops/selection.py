"""Exact partial selection as operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends import registry
from dynams_kernels._ops.library import define
from dynams_kernels._plain import is_plain

_smallest_k = define("smallest_k", "(Tensor values, SymInt k, bool by_value) -> (Tensor, Tensor)")
_smallest_k_into = define(
    "smallest_k_into",
    "(Tensor values, bool by_value, Tensor(a!) out_values, Tensor(b!) out_indices) -> ()",
)
# `total`, the sum of k or -1 for unknown, is for whoever traces shapes.
_smallest_k_grouped = define(
    "smallest_k_grouped",
    "(Tensor values, Tensor groups, Tensor? k, float fraction, SymInt total, bool by_value) -> (Tensor, Tensor)",
)


def smallest_k(values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
    """The k smallest of values (N,) and their indices, in the contract's total order."""
    if is_plain(values):
        return registry.serving(values).smallest_k(values, k, by_value)
    selected: tuple[Tensor, Tensor] = _smallest_k(_untracked(values), k, by_value)
    return selected


def smallest_k_into(
    values: Tensor, by_value: bool, out_values: Tensor, out_indices: Tensor
) -> None:
    """The same, of as many as the outputs hold, written into them."""
    if is_plain(values, out_values, out_indices):
        registry.serving(values).smallest_k_into(values, by_value, out_values, out_indices)
        # Whoever kept one of them for a backward pass must learn that it changed.
        for written in (out_values, out_indices):
            if not written.is_inference():
                torch.autograd.graph.increment_version(written)
    else:
        _smallest_k_into(values, by_value, out_values, out_indices)


def smallest_k_grouped(
    values: Tensor,
    groups: Tensor,
    k: Tensor | None,
    fraction: float,
    total: int,
    by_value: bool,
) -> tuple[Tensor, Tensor]:
    """The k smallest of every group of values (N,): k (G,), or None for a fraction of each."""
    if is_plain(values, groups, k):
        backend = registry.serving(values)
        return backend.smallest_k_grouped(values, groups, k, fraction, total, by_value)
    selected: tuple[Tensor, Tensor] = _smallest_k_grouped(
        _untracked(values), groups, k, fraction, total, by_value
    )
    return selected


def _untracked(values: Tensor) -> Tensor:
    # A compiled graph traces the backward pass at once, so there the refusal is a missing gradient, not an error.
    return values.detach() if torch.compiler.is_compiling() else values


@torch.library.register_fake("dynams_kernels::smallest_k")
def _smallest_k_shape(values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
    return values.new_empty(k), values.new_empty(k, dtype=torch.int64)


@torch.library.register_fake("dynams_kernels::smallest_k_into")
def _nothing_new(*_: object) -> None:
    return None


@torch.library.register_fake("dynams_kernels::smallest_k_grouped")
def _smallest_k_grouped_shape(
    values: Tensor, groups: Tensor, k: Tensor | None, fraction: float, total: int, by_value: bool
) -> tuple[Tensor, Tensor]:
    size: Any = total if total >= 0 else torch.library.get_ctx().new_dynamic_size()
    return values.new_empty(size), values.new_empty(size, dtype=torch.int64)


def _refused(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    raise RuntimeError(
        "selection is not differentiable: index the margins themselves with the selected indices, "
        "margin(logits)[selection.indices], to train on them"
    )


for _name in ("smallest_k", "smallest_k_grouped"):
    torch.library.register_autograd(f"dynams_kernels::{_name}", _refused)
