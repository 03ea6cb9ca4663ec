"""Launches of the linear kernels: scores of `features @ weight.T + bias` whose logits are never stored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dynams_kernels import _device
from dynams_kernels._kinds import BIT, KINDS
from dynams_kernels._triton.linear_configuration import (
    MAX_WIDTHS,
    MERGE_WARPS,
    OPTIONS,
    Configuration,
    Shares,
    burden,
    configuration,
    float32_precision,
    merge_tile,
    shares,
    slicing,
    slicing_widths,
    unit_of,
)
from dynams_kernels._triton.linear_kernel import linear_kernel
from dynams_kernels._triton.linear_merge import merge_kernel
from dynams_kernels._triton.linear_shipped import shipped
from dynams_kernels._triton.linear_widths_kernel import widths_kernel

__all__ = ["linear_row_score", "linear_row_scores", "linear_width_scores", "shipped"]


_NAMES = {BIT[kind]: kind for kind in KINDS}


def linear_row_scores(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    class_distances: Tensor | None,
    kind: int,
    pairs: bool,
    *,
    chosen: Configuration | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One kind of score (B,) float32, and the class pairs (B, 2) int64 where asked for, else (0, 2).

    Arguments are taken as checked; float64 is not served. `chosen` and `splits` replace the configuration's and the shares'
    own choice.
    """
    pair_rows = features.new_empty(features.shape[0] if pairs else 0, 2, dtype=torch.int64)
    operands = (features, weight, bias, labels, class_distances)
    wanted = pair_rows if pairs else None
    scores = linear_row_score(*operands, kind, wanted, chosen=chosen, splits=splits)
    return scores, pair_rows


def linear_row_score(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    class_distances: Tensor | None,
    kind: int,
    pairs: Tensor | None = None,
    *,
    chosen: Configuration | None = None,
    splits: int | None = None,
) -> Tensor:
    """The score alone; `pairs` (B, 2) takes the class pairs where they are wanted."""
    name = _NAMES[kind]
    batch = features.shape[0]
    scores = features.new_empty(batch, dtype=torch.float32)
    if batch == 0:
        return scores
    load = burden(name, pairs is not None, 1)
    call = _Call(features, weight, bias, labels, (features.shape[1],), chosen, splits, load)
    with _device.on_device(features.get_device()):
        if kind != BIT["distance"]:
            call.sweep(name, scores, pairs)
            return scores
        if call.tiling.class_tiles == 1:
            call.sweep(name, scores, pairs, class_distances)
            return scores
        # The largest logit of the row must be known before any quotient; both sweeps compute the same bits of it.
        largest = torch.empty_like(scores)
        known = features.new_empty(batch, 2, dtype=torch.int64)
        call.sweep("largest", largest, known)
        call.sweep(name, scores, pairs, class_distances, largest, known)
    return scores


def linear_width_scores(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    widths: Sequence[int],
    kind: int,
    *,
    chosen: Configuration | None = None,
    splits: int | None = None,
) -> Tensor:
    """One kind of score at every width (len(widths), B) float32; widths ascend; `gap`, `probability` and `label`."""
    name = _NAMES[kind]
    batch = features.shape[0]
    scores = features.new_empty(len(widths), batch, dtype=torch.float32)
    if batch == 0:
        return scores
    with _device.on_device(features.get_device()):
        for begin in range(0, len(widths), MAX_WIDTHS):
            some = tuple(widths[begin : begin + MAX_WIDTHS])
            load = burden(name, False, len(some))
            slim = features[:, : some[-1]], weight[:, : some[-1]]
            call = _Call(*slim, bias, labels, some, chosen, splits, load)
            call.sweep_widths(name, scores[begin : begin + len(some)])
    return scores


class _Tiling:
    """How calls of one layout are cut and shared, and all that their launches are given beside tensors.

    It follows from numbers alone and is the same for every batch of a loader, so it is worked out once (`_tiling`).
    """

    def __init__(
        self,
        rows: int,
        classes: int,
        widths: tuple[int, ...],
        element_size: int,
        precision: str,
        load: int,
        features_strides: tuple[int, int],
        weight_strides: tuple[int, int],
        labels_step: int,
        aligned: bool,
        has_bias: bool,
        capability: tuple[int, int],
        multiprocessors: int,
        given: Configuration | None,
        splits: int | None,
    ) -> None:
        self._widths = widths
        self._element_size = element_size
        width = widths[-1]
        # A single row's stride leads nowhere, and says nothing of alignment.
        features_row = features_strides[0] if rows > 1 else 0
        row_unit = unit_of(features_row, weight_strides[0])
        # Whether neighbours along the features cannot be loaded together, 4 bytes at least.
        unit = row_unit
        # Of one long odd width only the last step's loads are spoilt by the mask.
        if len(widths) > 1 or width <= 128:
            unit = min(unit, unit_of(*widths))
        is_apart = features_strides[1] != 1 or weight_strides[1] != 1
        scattered = is_apart or not aligned or unit * element_size < 4
        self.chosen = given or configuration(
            rows, classes, width, element_size, precision, load, scattered, capability
        )
        row_blocks = -(-rows // self.chosen.block_rows)
        self.class_tiles = -(-classes // self.chosen.block_classes)
        if splits is None:
            shared = shares(
                row_blocks, self.class_tiles, self.chosen, width, element_size, multiprocessors
            )
        else:
            tiles = -(-self.class_tiles // splits)
            shared = Shares(-(-self.class_tiles // tiles), tiles, row_blocks)
        self.splits = shared.splits
        self.grid = (row_blocks * shared.splits,)
        self.sizes = (rows, classes)
        self.shares = (shared.splits, shared.tiles_per_split, shared.group_blocks)
        self.strides = (
            features_row // row_unit,
            features_strides[1],
            weight_strides[0] // row_unit,
            weight_strides[1],
            labels_step,
        )
        self._constants = {
            "HAS_BIAS": has_bias,
            "SPLIT": shared.splits > 1,
            "PIPELINED": capability != _device.INTERPRETED,
            "PRECISION": precision,
            "ROW_UNIT": row_unit,
            "BLOCK_ROWS": self.chosen.block_rows,
            "BLOCK_CLASSES": self.chosen.block_classes,
            "BLOCK_FEATURES": self.chosen.block_features,
            "num_warps": self.chosen.num_warps,
            "num_stages": self.chosen.num_stages,
            **OPTIONS,
        }
        self._sweeps: dict[Any, tuple[tuple[int, ...], dict[str, Any]]] = {}

    def sweep(
        self, name: str, pairs: bool, one_tile: bool
    ) -> tuple[tuple[int, ...], dict[str, Any]]:
        """What `linear_kernel` is given after its tensors, but for the distances' strides, and its constants."""
        key = name, pairs, one_tile
        if key not in self._sweeps:
            (width,) = self._widths
            sliced = slicing(width, self.chosen.block_features, self._element_size)
            units = width // sliced["WIDTH_UNIT"]
            asked = {"KIND": name, "PAIRS": pairs, "ONE_TILE": one_tile}
            self._sweeps[key] = (
                (*self.sizes, units, *self.shares, *self.strides),
                {**asked, **sliced, **self._constants},
            )
        return self._sweeps[key]

    def sweep_widths(self, name: str) -> tuple[tuple[int, ...], dict[str, Any]]:
        """What `widths_kernel` is given after its tensors, and its constants."""
        if name not in self._sweeps:
            widths = self._widths
            sliced = slicing_widths(widths, self.chosen.block_features)
            units = [width // sliced["WIDTH_UNIT"] for width in widths]
            unused = (0,) * (MAX_WIDTHS - len(widths))
            # Left to itself the compiler may aim at more programs than there is room for, and spill to get there.
            limit = {"maxnreg": self.chosen.registers}
            self._sweeps[name] = (
                (*self.sizes, *self.shares, *units, *unused, *self.strides),
                {"KIND": name, **sliced, **self._constants, **limit},
            )
        return self._sweeps[name]


_tiling = lru_cache(maxsize=1024)(_Tiling)


class _Call:
    """The operands of one call and their tiling."""

    def __init__(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        widths: tuple[int, ...],
        chosen: Configuration | None,
        splits: int | None,
        load: int,
    ) -> None:
        # A view whose sign is flipped when it is read has other bits in memory.
        features, weight = features.resolve_neg(), weight.resolve_neg()
        bias = None if bias is None else bias.resolve_neg().contiguous()
        self.operands = (features, weight, bias, labels)
        self.tiling = _tiling(
            features.shape[0],
            weight.shape[0],
            widths,
            features.element_size(),
            float32_precision() if features.dtype == torch.float32 else "ieee",
            load,
            features.stride(),
            weight.stride(),
            0 if labels is None else labels.stride(0),
            features.data_ptr() % 16 == 0 and weight.data_ptr() % 16 == 0,
            bias is not None,
            _device.capability(features),
            _device.multiprocessors(features),
            chosen,
            splits,
        )

    def sweep(
        self,
        name: str,
        scores: Tensor,
        pairs: Tensor | None,
        class_distances: Tensor | None = None,
        known_largest: Tensor | None = None,
        known_classes: Tensor | None = None,
    ) -> None:
        """Writes one kind of score, and the pairs unless None."""
        tiling = self.tiling
        distances = None
        distances_strides: tuple[int, ...] = (0, 0)
        if class_distances is not None:
            distances = class_distances.resolve_neg()
            distances_strides = distances.stride()
        state_floats = state_classes = None
        if tiling.splits > 1:
            rows = scores.shape[0]
            state_floats = scores.new_empty(3, tiling.splits, rows)
            if pairs is not None:
                state_classes = scores.new_empty(2, tiling.splits, rows, dtype=torch.int32)
        numbers, constants = tiling.sweep(name, pairs is not None, known_largest is None)
        linear_kernel[tiling.grid](
            *self.operands,
            distances,
            known_largest,
            known_classes,
            scores,
            pairs,
            state_floats,
            state_classes,
            *numbers,
            *distances_strides,
            **constants,
        )
        if state_floats is not None:
            self._merge(name, state_floats, state_classes, scores, pairs)

    def sweep_widths(self, name: str, scores: Tensor) -> None:
        """Writes one kind of score at every width, scores (widths, rows) contiguous."""
        tiling = self.tiling
        state_floats = None
        if tiling.splits > 1:
            state_floats = scores.new_empty(3, tiling.splits, scores.numel())
        numbers, constants = tiling.sweep_widths(name)
        widths_kernel[tiling.grid](*self.operands, scores, state_floats, *numbers, **constants)
        if state_floats is not None:
            self._merge(name, state_floats, None, scores, None)

    def _merge(
        self,
        name: str,
        state_floats: Tensor,
        state_classes: Tensor | None,
        scores: Tensor,
        pairs: Tensor | None,
    ) -> None:
        rows = scores.numel()
        _, classes = self.tiling.sizes
        splits = self.tiling.splits
        block_rows, block_splits = merge_tile(splits)
        merge_kernel[(-(-rows // block_rows),)](
            state_floats,
            state_classes,
            scores,
            pairs,
            rows,
            classes,
            splits,
            KIND=name,
            PAIRS=pairs is not None,
            BLOCK_ROWS=block_rows,
            BLOCK_SPLITS=block_splits,
            num_warps=MERGE_WARPS,
            **OPTIONS,
        )
