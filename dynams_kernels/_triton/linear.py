"""Launches of the linear kernels: scores of `features @ weight.T + bias` whose logits are never stored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dynams_kernels import _device
from dynams_kernels._kinds import BIT, KINDS, LABELLED_KINDS, MARGIN_KINDS, mask_of
from dynams_kernels._triton.linear_configuration import (
    MAX_WIDTHS,
    MERGE_WARPS,
    OPTIONS,
    Burden,
    Configuration,
    Shares,
    burden,
    compiler_options,
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

__all__ = ["linear_scores", "shipped"]

_DISTANCE = BIT["distance"]
_LABELLED = mask_of(LABELLED_KINDS)
_SOFTMAX = mask_of(kind for kind in KINDS if kind not in MARGIN_KINDS or kind == "probability")
# As `linear_states` has them: the first sweep of `distance`, and the kinds that are made of the two largest.
_LARGEST = 512
_RANKED = mask_of(set(KINDS) - {"distance", "label"})


def linear_scores(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    class_distances: Tensor | None,
    widths: Sequence[int],
    kinds: int,
    pairs: bool,
    *,
    chosen: Configuration | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores (kinds, widths, B) float32, kinds in bit order, and class pairs (B, 2) int64 where asked for, else (0, 2).

    One sweep serves all kinds at up to MAX_WIDTHS widths, which ascend; `distance` takes one or two of its own. It, and pairs,
    are asked for at one width only; pairs of one kind of `gap`, `label`, `distance`. Arguments are taken as checked; float64
    is not served. `chosen` and `splits` replace the configuration's and the shares' own choice.
    """
    batch = features.shape[0]
    scores = features.new_empty(kinds.bit_count(), len(widths), batch, dtype=torch.float32)
    pair_rows = features.new_empty(batch if pairs else 0, 2, dtype=torch.int64)
    if scores.numel() == 0:
        return scores, pair_rows
    if not kinds & _LABELLED:
        labels = None
    wanted = pair_rows if pairs else None
    with _device.on_device(features.get_device()):
        for begin in range(0, len(widths), MAX_WIDTHS):
            some = tuple(widths[begin : begin + MAX_WIDTHS])
            operands = features[:, : some[-1]], weight[:, : some[-1]], bias
            if kinds & _DISTANCE:
                call = _Call(*operands, None, some, chosen, splits, burden(_DISTANCE, pairs, 1))
                place = (kinds & (_DISTANCE - 1)).bit_count()
                call.sweep_distance(scores[place, 0], wanted, class_distances)
            if kinds & ~_DISTANCE:
                call = _Call(
                    *operands, labels, some, chosen, splits, burden(kinds, pairs, len(some))
                )
                if len(widths) == 1:
                    call.sweep(kinds, scores, wanted)
                else:
                    call.sweep_widths(kinds, scores[:, begin : begin + len(some)])
    return scores, pair_rows


def _state_floats(kinds: int) -> int:
    """How many floats of a row's state are kept, see `linear_states.store_state`."""
    sums = [_SOFTMAX, BIT["el2n"], BIT["entropy"]]
    own = bool(kinds & _LABELLED and kinds & _RANKED)
    return 2 + sum(bool(kinds & mask) for mask in sums) + own


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
        load: Burden,
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
            **compiler_options(self.chosen, load),
        }
        self._sweeps: dict[Any, tuple[tuple[int, ...], dict[str, Any]]] = {}

    def sweep(
        self, kinds: int, pairs: bool, one_tile: bool
    ) -> tuple[tuple[int, ...], dict[str, Any]]:
        """What `linear_kernel` is given after its tensors, but for the last strides, and its constants."""
        key = kinds, pairs, one_tile
        if key not in self._sweeps:
            (width,) = self._widths
            sliced = slicing(width, self.chosen.block_features, self._element_size)
            units = width // sliced["WIDTH_UNIT"]
            asked = {"KINDS": kinds, "PAIRS": pairs, "ONE_TILE": one_tile}
            self._sweeps[key] = (
                (*self.sizes, units, *self.shares, *self.strides),
                {**asked, **sliced, **self._constants},
            )
        return self._sweeps[key]

    def sweep_widths(self, kinds: int) -> tuple[tuple[int, ...], dict[str, Any]]:
        """What `widths_kernel` is given after its tensors, but for the last stride, and its constants."""
        if kinds not in self._sweeps:
            widths = self._widths
            sliced = slicing_widths(widths, self.chosen.block_features)
            units = [width // sliced["WIDTH_UNIT"] for width in widths]
            unused = (0,) * (MAX_WIDTHS - len(widths))
            self._sweeps[kinds] = (
                (*self.sizes, *self.shares, *units, *unused, *self.strides),
                {"KINDS": kinds, **sliced, **self._constants},
            )
        return self._sweeps[kinds]


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
        load: Burden,
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

    def sweep_distance(
        self, scores: Tensor, pairs: Tensor | None, class_distances: Tensor | None
    ) -> None:
        """Writes the `distance` margins (rows,), and the pairs unless None."""
        known = None
        if self.tiling.class_tiles > 1:
            # The largest logit of the row must be known before any quotient; both sweeps compute the same bits of it.
            known = torch.empty_like(scores), scores.new_empty(len(scores), 2, dtype=torch.int64)
            self.sweep(_LARGEST, *known)
        self.sweep(_DISTANCE, scores, pairs, class_distances, known)

    def sweep(
        self,
        kinds: int,
        scores: Tensor,
        pairs: Tensor | None,
        class_distances: Tensor | None = None,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Writes scores (kinds, ..., rows), and the pairs unless None; `known`: the largest logits and their classes (rows, 2)."""
        tiling = self.tiling
        distances = None
        distances_strides: tuple[int, ...] = (0, 0)
        if class_distances is not None:
            distances = class_distances.resolve_neg()
            distances_strides = distances.stride()
        rows = scores.shape[-1]
        state_floats = state_classes = None
        if tiling.splits > 1:
            state_floats = scores.new_empty(_state_floats(kinds), tiling.splits, rows)
            if pairs is not None:
                state_classes = scores.new_empty(2, tiling.splits, rows, dtype=torch.int32)
        numbers, constants = tiling.sweep(kinds, pairs is not None, known is None)
        linear_kernel[tiling.grid](
            *self.operands,
            distances,
            *(known or (None, None)),
            scores,
            pairs,
            state_floats,
            state_classes,
            *numbers,
            rows,
            *distances_strides,
            **constants,
        )
        if state_floats is not None:
            self._merge(kinds, state_floats, state_classes, scores, pairs, rows, rows)

    def sweep_widths(self, kinds: int, scores: Tensor) -> None:
        """Writes scores (kinds, widths, rows), of which each kind's are contiguous."""
        tiling = self.tiling
        rows = scores[0].numel()
        step = scores.stride(0)
        state_floats = None
        if tiling.splits > 1:
            state_floats = scores.new_empty(_state_floats(kinds), tiling.splits, rows)
        numbers, constants = tiling.sweep_widths(kinds)
        widths_kernel[tiling.grid](
            *self.operands, scores, state_floats, *numbers, step, **constants
        )
        if state_floats is not None:
            self._merge(kinds, state_floats, None, scores, None, rows, step)

    def _merge(
        self,
        kinds: int,
        state_floats: Tensor,
        state_classes: Tensor | None,
        scores: Tensor,
        pairs: Tensor | None,
        rows: int,
        scores_step: int,
    ) -> None:
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
            scores_step,
            KINDS=kinds,
            PAIRS=pairs is not None,
            BLOCK_ROWS=block_rows,
            BLOCK_SPLITS=block_splits,
            num_warps=MERGE_WARPS,
            **OPTIONS,
        )
