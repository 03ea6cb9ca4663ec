"""Launches of the linear kernels: scores of `features @ weight.T + bias` whose logits are never stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynams_kernels import _device
from dynams_kernels._kinds import BIT, kinds_of
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

__all__ = ["linear_row_scores", "linear_width_scores", "shipped"]


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
    (name,) = kinds_of(kind)
    batch = features.shape[0]
    scores = features.new_empty(batch, dtype=torch.float32)
    pair_rows = torch.empty((batch if pairs else 0, 2), dtype=torch.int64, device=features.device)
    if batch == 0:
        return scores, pair_rows
    load = burden(name, pairs, 1)
    call = _Call(features, weight, bias, labels, features.shape[1:], chosen, splits, load)
    with _device.on_device(features.get_device()):
        if kind != BIT["distance"]:
            call.sweep(name, scores, pair_rows if pairs else None)
            return scores, pair_rows
        if call.class_tiles == 1:
            call.sweep(name, scores, pair_rows if pairs else None, class_distances)
            return scores, pair_rows
        # The largest logit of the row must be known before any quotient; both sweeps compute the same bits of it.
        largest = torch.empty_like(scores)
        known = torch.empty((batch, 2), dtype=torch.int64, device=features.device)
        call.sweep("largest", largest, known)
        call.sweep(name, scores, pair_rows if pairs else None, class_distances, largest, known)
    return scores, pair_rows


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
    (name,) = kinds_of(kind)
    batch = features.shape[0]
    scores = features.new_empty((len(widths), batch), dtype=torch.float32)
    if batch == 0:
        return scores
    with _device.on_device(features.get_device()):
        for begin in range(0, len(widths), MAX_WIDTHS):
            some = tuple(widths[begin : begin + MAX_WIDTHS])
            load = burden(name, False, len(some))
            slim = features[:, : some[-1]], weight[:, : some[-1]]
            call = _Call(*slim, bias, labels, some, chosen, splits, load)
            call.sweep_widths(name, scores[begin : begin + len(some)], some)
    return scores


class _Call:
    """The operands of one call and how its tiles are cut and shared."""

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
        self.features, self.weight = features.resolve_neg(), weight.resolve_neg()
        self.bias = None if bias is None else bias.resolve_neg().contiguous()
        self.labels = labels
        self.rows, self.width = features.shape
        # A single row's stride leads nowhere, and says nothing of alignment.
        self.features_row = self.features.stride(0) if self.rows > 1 else 0
        self.row_unit = unit_of(self.features_row, self.weight.stride(0))
        self.classes = weight.shape[0]
        self.precision = float32_precision() if features.dtype == torch.float32 else "ieee"
        size = features.element_size()
        self.capability = _device.capability(features)
        self.chosen = chosen or configuration(
            self.rows,
            self.classes,
            self.width,
            size,
            self.precision,
            load,
            self._loads_single_elements(size, widths),
            self.capability,
        )
        self.row_blocks = -(-self.rows // self.chosen.block_rows)
        self.class_tiles = -(-self.classes // self.chosen.block_classes)
        if splits is None:
            processors = _device.multiprocessors(features)
            self.shares = shares(
                self.row_blocks, self.class_tiles, self.chosen, self.width, size, processors
            )
        else:
            tiles = -(-self.class_tiles // splits)
            self.shares = Shares(-(-self.class_tiles // tiles), tiles, self.row_blocks)

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
        shared = self.shares
        distances = None if class_distances is None else class_distances.resolve_neg()
        state_floats = state_classes = None
        if shared.splits > 1:
            state_floats = scores.new_empty((3, shared.splits, self.rows))
            if pairs is not None:
                state_classes = scores.new_empty((2, shared.splits, self.rows), dtype=torch.int32)
        size = self.features.element_size()
        width_slicing = slicing(self.width, self.chosen.block_features, size)
        linear_kernel[(self.row_blocks * shared.splits,)](
            self.features,
            self.weight,
            self.bias,
            self.labels,
            distances,
            known_largest,
            known_classes,
            scores,
            pairs,
            state_floats,
            state_classes,
            self.rows,
            self.classes,
            self.width // width_slicing["WIDTH_UNIT"],
            shared.splits,
            shared.tiles_per_split,
            shared.group_blocks,
            *self._strides(),
            *((0, 0) if distances is None else distances.stride()),
            KIND=name,
            PAIRS=pairs is not None,
            ONE_TILE=known_largest is None,
            **width_slicing,
            **self._constants(),
        )
        if state_floats is not None:
            self._merge(name, state_floats, state_classes, scores, pairs)

    def sweep_widths(self, name: str, scores: Tensor, widths: tuple[int, ...]) -> None:
        """Writes one kind of score at every width, scores (len(widths), rows) contiguous."""
        shared = self.shares
        state_floats = None
        if shared.splits > 1:
            state_floats = scores.new_empty((3, shared.splits, scores.numel()))
        width_slicing = slicing_widths(widths, self.chosen.block_features)
        in_units = [width // width_slicing["WIDTH_UNIT"] for width in widths]
        widths_kernel[(self.row_blocks * shared.splits,)](
            self.features,
            self.weight,
            self.bias,
            self.labels,
            scores,
            state_floats,
            self.rows,
            self.classes,
            shared.splits,
            shared.tiles_per_split,
            shared.group_blocks,
            *in_units,
            *(0,) * (MAX_WIDTHS - len(widths)),
            *self._strides(),
            KIND=name,
            **width_slicing,
            **self._constants(),
            # Left to itself the compiler may aim at more programs than there is room for, and spill to get there.
            maxnreg=self.chosen.registers,
        )
        if state_floats is not None:
            self._merge(name, state_floats, None, scores, None)

    def _loads_single_elements(self, size: int, widths: tuple[int, ...]) -> bool:
        """Whether neighbours along the features cannot be loaded together, 4 bytes at least."""
        operands = (self.features, self.weight)
        apart = any(operand.stride(1) != 1 for operand in operands)
        unaligned = any(operand.data_ptr() % 16 != 0 for operand in operands)
        unit = self.row_unit
        # Of one long odd width only the last step's loads are spoilt by the mask.
        if len(widths) > 1 or self.width <= 128:
            unit = min(unit, unit_of(*widths))
        return apart or unaligned or unit * size < 4

    def _strides(self) -> tuple[int, ...]:
        weight_row, weight_step = self.weight.stride()
        labels_step = 0 if self.labels is None else self.labels.stride(0)
        return (
            self.features_row // self.row_unit,
            self.features.stride(1),
            weight_row // self.row_unit,
            weight_step,
            labels_step,
        )

    def _constants(self) -> dict[str, Any]:
        return {
            "HAS_BIAS": self.bias is not None,
            "SPLIT": self.shares.splits > 1,
            "PIPELINED": self.capability != _device.INTERPRETED,
            "PRECISION": self.precision,
            "ROW_UNIT": self.row_unit,
            "BLOCK_ROWS": self.chosen.block_rows,
            "BLOCK_CLASSES": self.chosen.block_classes,
            "BLOCK_FEATURES": self.chosen.block_features,
            "num_warps": self.chosen.num_warps,
            "num_stages": self.chosen.num_stages,
            **OPTIONS,
        }

    def _merge(
        self,
        name: str,
        state_floats: Tensor,
        state_classes: Tensor | None,
        scores: Tensor,
        pairs: Tensor | None,
    ) -> None:
        rows = scores.numel()
        block_rows, block_splits = merge_tile(self.shares.splits)
        merge_kernel[(-(-rows // block_rows),)](
            state_floats,
            state_classes,
            scores,
            pairs,
            rows,
            self.classes,
            self.shares.splits,
            KIND=name,
            PAIRS=pairs is not None,
            BLOCK_ROWS=block_rows,
            BLOCK_SPLITS=block_splits,
            num_warps=MERGE_WARPS,
            **OPTIONS,
        )
