"""The compiled CPU kernels behind the backend interface: tensors in, raw pointers down."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from dynams_kernels._backends.eager import empty_scores
from dynams_kernels._backends.products import apart
from dynams_kernels._checks import label_error
from dynams_kernels._kinds import BIT

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
        if labels is not None:
            labels = self._checked_labels(labels, logits.shape[1])
        batch = logits.shape[0]
        scores = empty_scores(logits, kinds.bit_count(), batch)
        self._score_block(logits, None, labels, class_distances, kinds, scores, batch, None)
        return scores

    def row_score(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
    ) -> Tensor:
        """See `registry.Backend`."""
        if labels is not None:
            labels = self._checked_labels(labels, logits.shape[1])
        batch = logits.shape[0]
        scores = empty_scores(logits, batch)
        self._score_block(logits, None, labels, class_distances, kind, scores, batch, None)
        return scores

    def linear_row_score(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        kind: int,
        pairs: Tensor | None = None,
    ) -> Tensor:
        """See `registry.Backend`. Where wanted, `pairs` (B, 2) takes the class pairs."""
        batch, classes = features.shape[0], weight.shape[0]
        if not self._is_one_tile(batch, classes, features.element_size()):
            widths = [features.shape[1]]
            return self._linear_scores(
                features, weight, bias, labels, class_distances, widths, kind, pairs
            )[0]
        if labels is not None:
            labels = self._checked_labels(labels, classes)
        scores = empty_scores(features, batch)
        bias = None if bias is None else bias.contiguous()
        logits, kernel_bias = _multiply(apart(features), weight, bias)
        self._score_block(logits, kernel_bias, labels, class_distances, kind, scores, batch, pairs)
        return scores

    def linear_row_scores(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        kind: int,
        pairs: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        pair_rows = features.new_empty(features.shape[0] if pairs else 0, 2, dtype=torch.int64)
        wanted = pair_rows if pairs else None
        scores = self.linear_row_score(
            features, weight, bias, labels, class_distances, kind, wanted
        )
        return scores, pair_rows

    @staticmethod
    def _is_one_tile(batch: int, classes: int, element_size: int) -> bool:
        return classes <= _TILE_CLASSES and batch * classes * element_size <= _TILE_BYTES

    def linear_width_scores(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        widths: Sequence[int],
        kind: int,
    ) -> Tensor:
        """See `registry.Backend`."""
        return self._linear_scores(features, weight, bias, labels, None, widths, kind, None)

    def _linear_scores(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        widths: Sequence[int],
        kind: int,
        pairs: Tensor | None,
    ) -> Tensor:
        """Scores (n, B) at n ascending widths. Logits exist as one tile, which every step of the loop overwrites."""
        batch, classes = features.shape[0], weight.shape[0]
        bias = None if bias is None else bias.contiguous()
        if labels is not None:
            labels = self._checked_labels(labels, classes)
        scores = empty_scores(features, len(widths), batch)
        # The nearest boundary is known only once the whole row's largest is: `distance` takes whole rows.
        whole_rows = kind == BIT["distance"] or classes <= _TILE_CLASSES
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
                        kind,
                        scores[place, rows],
                        batch,
                        None if pairs is None else pairs[rows],
                        None if states is None else states[place],
                        first,
                        last == classes,
                    )
        return scores

    def _checked_labels(self, labels: Tensor, classes: int) -> Tensor:
        """The labels, contiguous and in [0, C)."""
        labels = labels.contiguous()
        outside: int = self._module.label_outside(labels.data_ptr(), labels.shape[0], classes)
        if outside != 0:
            raise label_error(outside, classes)
        return labels

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
        values = values.contiguous()
        out_values = values.new_empty(k)
        out_indices = _AN_INDEX.new_empty(k)
        self._module.smallest_k(
            self._isa_place,
            values.data_ptr(),
            DTYPE_NUMBER[values.dtype],
            values.numel(),
            k,
            by_value,
            out_values.data_ptr(),
            out_indices.data_ptr(),
            torch.get_num_threads(),
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
