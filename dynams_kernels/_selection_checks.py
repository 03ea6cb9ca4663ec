"""Checks of a selection's arguments: how many, in which order, into which tensors, of which groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynams_kernels._checks import check_device
from dynams_kernels._numbers import INTEGERS, as_fraction, as_index


def check_k(k: object, size: int) -> int:
    """How many to select: an int in [0, N], or the fraction of N in (0, 1] that max(1, floor(k N + 0.5)) are."""
    number: Any = k
    if type(k) is not int and (isinstance(k, bool) or not isinstance(k, (int, torch.SymInt))):
        fraction = as_fraction(k)
        if fraction is not None:
            if not 0.0 < fraction <= 1.0:
                raise ValueError(
                    f"k: got {fraction}, want an int in [0, {size}] or a float in (0, 1]"
                )
            return max(1, math.floor(fraction * size + 0.5)) if size else 0
        number = as_index(k)
        if number is None:
            raise TypeError(
                f"k: got {type(k).__name__}, want an int in [0, {size}] or a float in (0, 1]"
            )
    if number < 0 or number > size:
        raise ValueError(f"k: got {number}, want 0 <= k <= {size}, the number of samples")
    return number  # type: ignore[no-any-return]


def check_order(order: object) -> bool:
    """True where the selection is wanted by value, False where by index."""
    if order not in ("index", "value"):
        raise ValueError(f"order: got {order!r}, want 'index' or 'value'")
    return order == "value"


# ------------------------------------------------------------------------------------ out


def check_out(out: object, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The pair of tensors to write a selection into: of its shapes and dtypes, apart from each other and from the values."""
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        came = f"{len(out)} of them" if isinstance(out, (tuple, list)) else type(out).__name__
        raise TypeError(f"out: got {came}, want a pair of tensors (values, indices)")
    for name, given, dtype in (
        ("out values", out[0], values.dtype),
        ("out indices", out[1], torch.int64),
    ):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name}: got {type(given).__name__}, want a tensor of shape ({k},)")
        if given.dtype != dtype:
            raise ValueError(f"{name}: got dtype {given.dtype}, want {dtype}")
        if given.dim() != 1 or given.shape[0] != k:
            raise ValueError(f"{name}: got shape {tuple(given.shape)}, want ({k},)")
        check_device(name, given, values.device)
        if not given.is_contiguous():
            raise ValueError(f"{name}: got stride {given.stride(0)}, want adjacent elements")
    if torch.is_grad_enabled():
        tensors = (("values", values), ("out values", out[0]))
        for name, given in tensors:
            if given.requires_grad:
                raise ValueError(
                    f"{name}: got a tensor that requires grad, want none where out is given: "
                    "selection is not differentiable"
                )
    # In a compiled graph tensors have no memory yet, and what is written in place is made a copy.
    if not torch.compiler.is_compiling():
        _check_apart("out values", out[0], "values", values)
        _check_apart("out indices", out[1], "values", values)
        _check_apart("out indices", out[1], "out values", out[0])
    return out[0], out[1]


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The addresses from the first to past the last byte; none of a tensor that has no memory, such as a fake one."""
    try:
        begin = tensor.data_ptr()
    except RuntimeError:
        return 0, 0
    if tensor.numel() == 0:
        return begin, begin
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.element_size()


def _check_apart(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    begin, end = _extent(tensor)
    other_begin, other_end = _extent(other)
    if begin < other_end and other_begin < end and begin < end and other_begin < other_end:
        raise ValueError(f"{name}: got memory shared with {other_name}, want memory of its own")


# ------------------------------------------------------------------------------------ groups


def check_groups(groups: object, count: int, device: torch.device) -> Tensor:
    """Groups (N,) int64 beside the values; their range is checked where they are read."""
    if not isinstance(groups, Tensor):
        raise TypeError(
            f"groups: got {type(groups).__name__}, want an int64 tensor of shape ({count},)"
        )
    if groups.dtype != torch.int64:
        raise TypeError(f"groups: got dtype {groups.dtype}, want int64")
    if groups.dim() != 1 or groups.shape[0] != count:
        raise ValueError(f"groups: got shape {tuple(groups.shape)}, want ({count},)")
    check_device("groups", groups, device)
    return groups


def check_quotas(k: object) -> tuple[Tensor | None, float, int]:
    """How many of each group: (G,) int64 and 0.0, or None and one fraction for all; then their sum, -1 where unknown.

    Whether a group has so many is checked where groups are counted.
    """
    wanted = "a 1-D sequence or tensor of ints, or a float in (0, 1]"
    fraction = as_fraction(k)
    if fraction is not None:
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"k: got {fraction}, want {wanted}")
        return None, fraction, -1
    if isinstance(k, Tensor):
        if k.dtype not in INTEGERS:
            raise TypeError(f"k: got dtype {k.dtype}, want {wanted}")
        if k.dim() != 1:
            raise ValueError(f"k: got shape {tuple(k.shape)}, want (G,), one int a group")
        return k.to(torch.int64), 0.0, -1
    if hasattr(k, "tolist"):  # an array of NumPy's
        k = k.tolist()
    if not isinstance(k, Sequence) or isinstance(k, (str, bytes)):
        raise TypeError(f"k: got {type(k).__name__}, want {wanted}")
    quotas = []
    for group, one in enumerate(k):
        quota = one if type(one) is int else as_index(one)
        if quota is None:
            raise TypeError(f"k: got {type(one).__name__} for group {group}, want an int")
        if quota < 0 or quota >= 1 << 63:  # no group has so many, and no tensor holds it
            raise ValueError(f"k: got {quota} for group {group}, want an int from 0 to its size")
        quotas.append(quota)
    return torch.tensor(quotas, dtype=torch.int64, device="cpu"), 0.0, sum(quotas)


def check_group_range(groups: Tensor, group_count: int | None) -> int:
    """The number of groups, `group_count` or the highest group and one; ValueError where one is outside. Waits for a GPU."""
    if groups.numel() == 0:
        return group_count or 0
    lowest, highest = (int(bound) for bound in torch.aminmax(groups))
    if lowest < 0 or (group_count is not None and highest >= group_count):
        wrong = lowest if lowest < 0 else highest
        wanted = ">= 0" if group_count is None else f"in [0, {group_count})"
        raise ValueError(f"groups: got {wrong}, want every group {wanted}")
    return highest + 1 if group_count is None else group_count


def check_group_sizes(k: Tensor, sizes: Tensor) -> None:
    """No group is asked for more than it has. Waits for a GPU."""
    wrong = (k < 0) | (k > sizes)
    if bool(wrong.any()):
        group = int(wrong.nonzero()[0])
        raise ValueError(
            f"k: got {int(k[group])} for group {group}, want an int in [0, {int(sizes[group])}], its size"
        )
