"""Launches of the linear kernels: scores of `features @ weight.T + bias` whose logits are never stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from dynams_kernels import _device
from dynams_kernels._backends.shard_states import NO_CLASS
from dynams_kernels._kinds import BIT, KINDS, LABELLED_KINDS, MARGIN_KINDS, mask_of
from dynams_kernels._tma import lies_in_rows
from dynams_kernels._triton.launch import Launch
from dynams_kernels._triton.linear_configuration import (
    MAX_WIDTHS,
    MERGE_WARPS,
    OPTIONS,
    Burden,
    Configuration,
    burden,
    float32_precision,
    merge_tile,
)
from dynams_kernels._triton.linear_descriptors import descriptors_kernel
from dynams_kernels._triton.linear_kernel import linear_kernel
from dynams_kernels._triton.linear_merge import merge_kernel
from dynams_kernels._triton.linear_rounding import pays, rounded_copy
from dynams_kernels._triton.linear_shipped import shipped
from dynams_kernels._triton.linear_tiling import tiling
from dynams_kernels._triton.linear_widths_kernel import widths_kernel

__all__ = ["describable", "linear_scores", "linear_states", "shipped"]

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
    loads: Literal["pointers", "descriptors"] = "pointers",
    chosen: Configuration | None = None,
    splits: int | None = None,
    rounds: bool | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Scores (kinds, widths, B) float32, kinds in bit order, and class pairs (B, 2) int64 where asked for.

    One sweep serves all kinds at up to MAX_WIDTHS widths, which ascend; `distance` takes one or two of its own. It, and pairs,
    are asked for at one width only; pairs of one kind of `gap`, `label`, `distance`. Arguments are taken as checked; float64
    is not served. `loads`: how tiles are fetched, "descriptors" only what is `describable`. `chosen`, `splits` and `rounds` replace
    the own choice of the configuration, the shares and, where products are tf32, of whether the weight is rounded first.
    """
    batch = features.shape[0]
    scores = features.new_empty(kinds.bit_count(), len(widths), batch, dtype=torch.float32)
    pair_rows = features.new_empty(batch, 2, dtype=torch.int64) if pairs else None
    if scores.numel() == 0:
        return scores, pair_rows
    described = loads == "descriptors"
    if described and not describable(features, weight, widths, kinds, pairs):
        raise ValueError('loads: got "descriptors", want "pointers" for such operands and kinds')
    if not kinds & _LABELLED:
        labels = None
    # A view whose sign is flipped when it is read has other bits in memory.
    features, weight = (_narrowed(one, widths[-1]).resolve_neg() for one in (features, weight))
    precision = float32_precision() if features.dtype == torch.float32 else "ieee"
    if rounds is None:
        rounds = pays(batch, weight.shape[0], widths[-1])
    rounds = rounds and precision == "tf32"
    with _device.on_device(features.get_device()):
        if rounds:
            weight = rounded_copy(weight)
        for begin in range(0, len(widths), MAX_WIDTHS):
            some = tuple(widths[begin : begin + MAX_WIDTHS])
            operands = _narrowed(features, some[-1]), _narrowed(weight, some[-1]), bias
            if kinds & _DISTANCE:
                load = burden(_DISTANCE, pairs, 1)
                call = _Call(*operands, None, some, chosen, splits, precision, rounds, load, False)
                place = (kinds & (_DISTANCE - 1)).bit_count()
                call.sweep_distance(scores[place, 0], pair_rows, class_distances)
            if kinds & ~_DISTANCE:
                load = burden(kinds, pairs, len(some))
                call = _Call(
                    *operands, labels, some, chosen, splits, precision, rounds, load, described
                )
                if described:
                    call.sweep_described(kinds, scores)
                elif len(widths) == 1:
                    call.sweep(kinds, scores, pair_rows)
                else:
                    call.sweep_widths(kinds, scores[:, begin : begin + len(some)])
    return scores, pair_rows


def linear_states(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    kinds: int,
    pairs: bool,
    *,
    loads: Literal["pointers", "descriptors"] = "pointers",
    chosen: Configuration | None = None,
    splits: int | None = None,
    rounds: bool | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The states (n, B) of a shard of classes, at least one, see `shard_states`; their two largest (2, B) where asked for.

    Of all kinds but `distance`; `pairs` beside any, but by pointers alone. The rest is as of `linear_scores`.
    """
    # A label's margin alone would have other states.
    kinds |= BIT["gap"]
    batch, size = features.shape
    states = features.new_empty(_state_floats(kinds), batch, dtype=torch.float32)
    pair_rows = features.new_empty(batch, 2, dtype=torch.int64) if pairs else None
    if batch:
        if not kinds & _LABELLED:
            labels = None
        features, weight = features.resolve_neg(), weight.resolve_neg()
        precision = float32_precision() if features.dtype == torch.float32 else "ieee"
        if rounds is None:
            rounds = pays(batch, weight.shape[0], size)
        rounds = rounds and precision == "tf32"
        with _device.on_device(features.get_device()):
            if rounds:
                weight = rounded_copy(weight)
            described = loads == "descriptors"
            load = burden(kinds, pairs, 1)
            own = (chosen, splits, precision, rounds, load, described)
            call = _Call(features, weight, bias, labels, (size,), *own)
            if described:
                call.sweep_described(kinds, states, is_shard=True)
            else:
                call.sweep(kinds, states, pair_rows, is_shard=True)
    if pair_rows is None:
        return states, None
    if weight.shape[0] == 1:
        # To the kernel the columns past the last class are the next classes, of -inf.
        pair_rows[:, 1] = NO_CLASS
    return states, pair_rows.T


def describable(
    features: Tensor, weight: Tensor, widths: Sequence[int], kinds: int, pairs: bool
) -> bool:
    """Whether `linear_scores` can load these operands by descriptors: see `linear_descriptors` for what is served.

    The device must have the copy engine (TMA), which must be able to load the operands, and gain from it (12.x does not: its
    tensor cores read registers). Nor does float32: it must pass registers to be rounded, see `linear_kernel.rounded`.
    """
    capability = _device.capability(features)
    if capability != _device.INTERPRETED and capability[0] not in (9, 10):
        return False
    if len(widths) != 1 or pairs or kinds == 0 or kinds & _DISTANCE:
        return False
    if features.dtype == torch.float32:
        return False
    return all(lies_in_rows(operand, widths[0]) for operand in (features, weight))


def _narrowed(matrix: Tensor, width: int) -> Tensor:
    """The first `width` columns: as it is where it has no more, as a view costs more than all checks of a call."""
    return matrix if matrix.shape[1] == width else matrix[:, :width]


def _state_floats(kinds: int) -> int:
    """How many floats of a row's state are kept, see `linear_states.store_state`."""
    sums = [_SOFTMAX, BIT["el2n"], BIT["entropy"]]
    own = bool(kinds & _LABELLED and kinds & _RANKED)
    return 2 + sum(bool(kinds & mask) for mask in sums) + own


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
        precision: str,
        weight_rounded: bool,
        load: Burden,
        described: bool,
    ) -> None:
        bias = None if bias is None else bias.resolve_neg().contiguous()
        self.operands = (features, weight, bias, labels)
        self.tiling = tiling(
            features.shape[0],
            weight.shape[0],
            widths,
            features.element_size(),
            precision,
            weight_rounded,
            load,
            described,
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
        *,
        is_shard: bool = False,
    ) -> None:
        """Writes scores (kinds, ..., rows), and the pairs unless None; `known`: the largest logits and their classes (rows, 2).

        `is_shard`: the states (n, rows) of a shard instead of scores.
        """
        tiling = self.tiling
        distances = None
        distances_strides: tuple[int, ...] = (0, 0)
        if class_distances is not None:
            distances = class_distances.resolve_neg()
            distances_strides = distances.stride()
        rows = scores.shape[-1]
        state_floats = self._scratch(kinds, scores, rows, is_shard)
        state_classes = None
        if state_floats is not None and pairs is not None:
            state_classes = scores.new_empty(2, tiling.splits, rows, dtype=torch.int32)
        key = kinds, pairs is None, known is None, distances_strides, is_shard
        launch = tiling.launches.get(key)
        if launch is None:
            numbers, constants = tiling.sweep(kinds, pairs is not None, known is None)
            numbers = *numbers, rows, *distances_strides
            constants = {**constants, "SPLIT": state_floats is not None}
            launch = tiling.launches[key] = Launch(linear_kernel, tiling.grid, numbers, constants)
        largest, largest_class = known or (None, None)
        launch(
            scores.get_device(),
            *self.operands,
            distances,
            largest,
            largest_class,
            scores,
            pairs,
            state_floats,
            state_classes,
        )
        self._merge(kinds, state_floats, state_classes, scores, pairs, rows, rows, is_shard)

    def sweep_widths(self, kinds: int, scores: Tensor) -> None:
        """Writes scores (kinds, widths, rows), of which each kind's are contiguous."""
        tiling = self.tiling
        rows = scores[0].numel()
        step = scores.stride(0)
        state_floats = self._scratch(kinds, scores, rows)
        key = kinds, step
        launch = tiling.launches.get(key)
        if launch is None:
            numbers, constants = tiling.sweep_widths(kinds)
            numbers = *numbers, step
            launch = tiling.launches[key] = Launch(widths_kernel, tiling.grid, numbers, constants)
        launch(scores.get_device(), *self.operands, scores, state_floats)
        self._merge(kinds, state_floats, None, scores, None, rows, step)

    def sweep_described(self, kinds: int, scores: Tensor, *, is_shard: bool = False) -> None:
        """Writes scores (kinds, ..., rows); `is_shard`: the states (n, rows) of a shard instead."""
        tiling = self.tiling
        features, weight, bias, labels = self.operands
        of_features, of_weight = tiling.blocks
        rows = scores.shape[-1]
        state_floats = self._scratch(kinds, scores, rows, is_shard)
        key = kinds, is_shard
        launch = tiling.launches.get(key)
        if launch is None:
            numbers, constants = tiling.sweep_described(kinds)
            numbers = *numbers, rows
            constants = {**constants, "SPLIT": state_floats is not None}
            launch = Launch(descriptors_kernel, tiling.grid, numbers, constants)
            tiling.launches[key] = launch
        launch(
            scores.get_device(),
            TensorDescriptor(features, *of_features),
            TensorDescriptor(weight, *of_weight),
            bias,
            labels,
            scores,
            state_floats,
        )
        self._merge(kinds, state_floats, None, scores, None, rows, rows, is_shard)

    def _scratch(
        self, kinds: int, scores: Tensor, rows: int, is_shard: bool = False
    ) -> Tensor | None:
        """Room for the states' floats of all splits, where there are several, or where states are asked for."""
        splits = self.tiling.splits
        if splits == 1 and not is_shard:
            return None
        return scores.new_empty(_state_floats(kinds), splits, rows)

    def _merge(
        self,
        kinds: int,
        state_floats: Tensor | None,
        state_classes: Tensor | None,
        scores: Tensor,
        pairs: Tensor | None,
        rows: int,
        scores_step: int,
        is_shard: bool = False,
    ) -> None:
        """Writes the scores that the states of several splits make, or their joint state; None: nothing is left to do."""
        if state_floats is None:
            return
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
            IS_SHARD=is_shard,
            BLOCK_ROWS=block_rows,
            BLOCK_SPLITS=block_splits,
            num_warps=MERGE_WARPS,
            **OPTIONS,
        )
