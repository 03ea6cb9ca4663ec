"""The compiled CPU kernels behind the backend interface: tensors in, raw pointers down."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from dynams_kernels._backends import eager
from dynams_kernels._backends.eager import empty_scores
from dynams_kernels._backends.products import apart
from dynams_kernels._checks import label_error
from dynams_kernels._kinds import BIT
from dynams_kernels._selection_checks import check_group_range, check_group_sizes

# As csrc/common/kinds.h numbers them.
DTYPE_NUMBER = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
}

# A tile of logits: large enough for the matrix product to run at its full rate, small enough to stay in cache until it
# is reduced.
_TILE_CLASSES = 1024
_TILE_BYTES = 16 << 20


# `new_empty` of a tensor of the right dtype is the quickest that torch makes a tensor.
_AN_INDEX = torch.empty(0, dtype=torch.int64, device="cpu")


# As csrc/cpu/grouped.h: places are 32 bits there.
_MOST_GROUPED = 1 << 32


class NativeCpu:
    """The kernels of one instruction set; `isa` None takes the best this CPU has.

    Raises:
        ValueError: the instruction set is unknown, or this CPU lacks it.
    """

    def __init__(self, module: ModuleType, isa: str | None = None) -> None:
        supported = module.supported_isas()
        if isa is not None and isa not in supported:
            raise ValueError(
                f"DYNAMS_KERNELS_ISA: got {isa!r}, want one this CPU has: {', '.join(supported)}"
            )
        self.isa: str = supported[0] if isa is None else isa
        self._module = module
        self._isa_place: int = supported.index(self.isa)

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
    ) -> Tensor:
        """See `registry.Backend`."""
        batch = logits.shape[0]
        labels = None if labels is None else labels.contiguous()
        scores = empty_scores(logits, kinds.bit_count(), batch)
        self._score_block(logits, None, labels, class_distances, kinds, scores, batch, None)
        return scores

    def row_score(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
    ) -> Tensor:
        """See `registry.Backend`."""
        batch = logits.shape[0]
        labels = None if labels is None else labels.contiguous()
        scores = empty_scores(logits, batch)
        self._score_block(logits, None, labels, class_distances, kind, scores, batch, None)
        return scores

    def linear_scores(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        widths: Sequence[int],
        kinds: int,
        pairs: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        batch, classes = features.shape[0], weight.shape[0]
        bias = None if bias is None else bias.contiguous()
        labels = None if labels is None else labels.contiguous()
        scores = empty_scores(features, kinds.bit_count(), len(widths), batch)
        pair_rows = features.new_empty(batch if pairs else 0, 2, dtype=torch.int64)
        wanted = pair_rows if pairs else None
        if len(widths) == 1 and self._is_one_tile(batch, classes, features.element_size()):
            logits, kernel_bias = _multiply(apart(features), weight, bias)
            self._score_block(
                logits, kernel_bias, labels, class_distances, kinds, scores, batch, wanted
            )
            return scores, pair_rows
        self._score_tiles(
            features, weight, bias, labels, class_distances, widths, kinds, scores, wanted
        )
        return scores, pair_rows

    @staticmethod
    def _is_one_tile(batch: int, classes: int, element_size: int) -> bool:
        return classes <= _TILE_CLASSES and batch * classes * element_size <= _TILE_BYTES

    def _score_tiles(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        widths: Sequence[int],
        kinds: int,
        scores: Tensor,
        pairs: Tensor | None,
    ) -> None:
        """Writes scores (n, w, B) at w ascending widths. Logits exist as one tile, which every step of the loop overwrites."""
        batch, classes = features.shape[0], weight.shape[0]
        # The nearest boundary is known only once the whole row's largest is: `distance` takes whole rows.
        whole_rows = kinds & BIT["distance"] != 0 or classes <= _TILE_CLASSES
        tile_classes = classes if whole_rows else _TILE_CLASSES
        tile_rows = max(1, min(batch, _TILE_BYTES // (tile_classes * features.element_size())))
        tile = features.new_empty(tile_rows * tile_classes)
        states = None
        if not whole_rows:
            state_bytes = self._module.ROW_STATE_BYTES
            states = features.new_empty(len(widths), tile_rows, state_bytes, dtype=torch.uint8)
        for begin in range(0, batch, tile_rows):
            rows = slice(begin, min(begin + tile_rows, batch))
            count = rows.stop - begin
            slim = [apart(features[rows, :width]) for width in widths]
            for first in range(0, classes, tile_classes):
                last = min(first + tile_classes, classes)
                block = tile[: count * (last - first)].view(count, last - first)
                block_bias = None if bias is None else bias[first:last]
                known = 0
                for place, width in enumerate(widths):
                    logits, kernel_bias = _multiply(
                        slim[place], weight[first:last, :width], block_bias, block, known
                    )
                    known = width
                    self._score_block(
                        logits,
                        kernel_bias,
                        None if labels is None else labels[rows],
                        class_distances,
                        kinds,
                        scores[:, place, rows],
                        len(widths) * batch,
                        None if pairs is None else pairs[rows],
                        None if states is None else states[place],
                        first,
                        last == classes,
                    )

    def check_labels(self, labels: Tensor, classes: int, ignored: int) -> None:
        """See `registry.check_labels`."""
        labels = labels.contiguous()
        outside: int = self._module.label_outside(
            labels.data_ptr(), labels.numel(), classes, ignored
        )
        if outside != 0:
            raise label_error(outside, classes)

    def _score_block(
        self,
        logits: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        kinds: int,
        scores: Tensor,
        scores_stride: int,
        pairs: Tensor | None,
        states: Tensor | None = None,
        first_class: int = 0,
        is_last: bool = True,
    ) -> None:
        """Scores of a block of rows and classes; labels, bias and pairs are contiguous."""
        rows, classes = logits.shape
        if rows == 0:
            return
        row_stride, step = logits.stride()
        if step != 1:
            # The kernels walk rows of adjacent elements, at any distance from each other.
            logits = logits.contiguous()
            row_stride = classes
        distances = distances_stride = 0
        if class_distances is not None:
            if class_distances.stride(1) != 1:
                class_distances = class_distances.contiguous()
            distances, distances_stride = class_distances.data_ptr(), class_distances.stride(0)
        self._module.row_scores(
            self._isa_place,
            logits.data_ptr(),
            DTYPE_NUMBER[logits.dtype],
            rows,
            classes,
            row_stride,
            0 if bias is None else bias.data_ptr(),
            0 if labels is None else labels.data_ptr(),
            distances,
            distances_stride,
            kinds,
            scores.data_ptr(),
            scores_stride,
            0 if pairs is None else pairs.data_ptr(),
            0 if states is None else states.data_ptr(),
            first_class,
            first_class == 0,
            is_last,
            torch.get_num_threads(),
        )

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        out_values = values.new_empty(k)
        out_indices = _AN_INDEX.new_empty(k)
        self._select(values, by_value, out_values, out_indices, True)
        return out_values, out_indices

    def smallest_k_into(
        self, values: Tensor, by_value: bool, out_values: Tensor, out_indices: Tensor
    ) -> None:
        """See `registry.Backend`."""
        self._select(values, by_value, out_values, out_indices, False)

    def _select(
        self,
        values: Tensor,
        by_value: bool,
        out_values: Tensor,
        out_indices: Tensor,
        fresh: bool,
    ) -> None:
        values = values.contiguous()
        self._module.smallest_k(
            self._isa_place,
            values.data_ptr(),
            DTYPE_NUMBER[values.dtype],
            values.shape[0],
            out_values.shape[0],
            by_value,
            out_values.data_ptr(),
            out_indices.data_ptr(),
            fresh,
            torch.get_num_threads(),
        )

    def smallest_k_grouped(
        self,
        values: Tensor,
        groups: Tensor,
        k: Tensor | None,
        fraction: float,
        total: int,
        by_value: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        count = values.shape[0]
        if count == 0 or count >= _MOST_GROUPED:
            return eager.smallest_k_grouped(values, groups, k, fraction, total, by_value)
        if k is None:
            groups = eager.dense_groups(groups)
        # The given k are checked with the sizes, which the kernel counts; of a fraction the groups tell how many there are.
        group_count = check_group_range(groups, None) if k is None else k.shape[0]
        values, groups = values.contiguous(), groups.contiguous()
        quotas = None if k is None else k.cpu().contiguous()
        marks = groups.new_empty((count + 63) // 64)
        where = (self._isa_place, values.data_ptr(), DTYPE_NUMBER[values.dtype])
        threads = torch.get_num_threads()
        marked = -1
        if group_count > 0:
            marked = self._module.mark_smallest_grouped(
                *where,
                groups.data_ptr(),
                count,
                group_count,
                0 if quotas is None else quotas.data_ptr(),
                fraction,
                marks.data_ptr(),
                threads,
            )
        if marked < 0:
            check_group_range(groups, group_count)
            assert quotas is not None, "a fraction of a group is never more than it has"
            check_group_sizes(quotas, torch.bincount(groups, minlength=group_count))
        out_values = values.new_empty(marked)
        out_indices = _AN_INDEX.new_empty(marked)
        self._module.write_marked(
            *where,
            count,
            marks.data_ptr(),
            marked,
            by_value,
            out_values.data_ptr(),
            out_indices.data_ptr(),
            threads,
        )
        return out_values, out_indices


def _multiply(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tile: Tensor | None = None,
    known: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """The logits of these features, and the bias still to be added to them.

    A `tile` takes the logits; it may hold those of the first `known` features.
    """
    is_half = features.element_size() == 2
    # Half-precision products are rounded, with their bias, as F.linear rounds them: none is built on another.
    if is_half and bias is not None:
        return torch.addmm(bias, features, weight.T, out=tile), None
    if tile is None or known == 0 or is_half:
        return torch.mm(features, weight.T, out=tile), bias
    return tile.addmm_(features[:, known:], weight[:, known:].T), bias
