"""The compiled CPU kernels behind the backend interface: tensors in, raw pointers down."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from dynams_kernels._backends.eager import score_dtype
from dynams_kernels._backends.products import apart
from dynams_kernels._checks import check_label_range
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


def address(tensor: Tensor | None) -> int:
    """Where a tensor's data are, for native code; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


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

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
    ) -> Tensor:
        """See `registry.Backend`."""
        batch, classes = logits.shape
        if labels is not None:
            check_label_range(labels, classes)
        scores = torch.empty(
            (bin(kinds).count("1"), batch), dtype=score_dtype(logits.dtype), device=logits.device
        )
        self._score_block(logits, None, labels, class_distances, kinds, scores, None)
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
        pair_rows = torch.empty((features.shape[0] if pairs else 0, 2), dtype=torch.int64)
        scores = self._linear_scores(
            features,
            weight,
            bias,
            labels,
            class_distances,
            [features.shape[1]],
            kind,
            pair_rows if pairs else None,
        )
        return scores[0], pair_rows

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
        if labels is not None:
            check_label_range(labels, classes)
        scores = torch.empty((len(widths), batch), dtype=score_dtype(features.dtype))
        # The nearest boundary is known only once the whole row's largest is: `distance` takes whole rows.
        whole_rows = kind == BIT["distance"] or classes <= _TILE_CLASSES
        tile_classes = classes if whole_rows else _TILE_CLASSES
        tile_rows = max(1, min(batch, _TILE_BYTES // (tile_classes * features.element_size())))
        tile = torch.empty(tile_rows * tile_classes, dtype=features.dtype)
        states = None
        if not whole_rows:
            shape = (len(widths), tile_rows, self._module.ROW_STATE_BYTES)
            states = torch.empty(shape, dtype=torch.uint8)
        for begin in range(0, batch, tile_rows):
            rows = slice(begin, min(begin + tile_rows, batch))
            count = rows.stop - begin
            slim = [apart(features[rows, :width]) for width in widths]
            for first in range(0, classes, tile_classes):
                last = min(first + tile_classes, classes)
                logits = tile[: count * (last - first)].view(count, last - first)
                block_bias = None if bias is None else bias[first:last]
                known = 0
                for place, width in enumerate(widths):
                    kernel_bias = _multiply(
                        logits, slim[place], weight[first:last, :width], block_bias, known
                    )
                    known = width
                    self._score_block(
                        logits,
                        kernel_bias,
                        None if labels is None else labels[rows],
                        class_distances,
                        kind,
                        scores[place : place + 1, rows],
                        None if pairs is None else pairs[rows],
                        states=None if states is None else states[place],
                        first_class=first,
                        is_last=last == classes,
                    )
        return scores

    def _score_block(
        self,
        logits: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        kinds: int,
        scores: Tensor,
        pairs: Tensor | None,
        *,
        states: Tensor | None = None,
        first_class: int = 0,
        is_last: bool = True,
    ) -> None:
        if logits.shape[0] == 0:
            return
        # The kernels walk rows of adjacent elements, at any distance from each other.
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        labels = None if labels is None else labels.contiguous()
        bias = None if bias is None else bias.contiguous()
        if class_distances is not None and class_distances.stride(1) != 1:
            class_distances = class_distances.contiguous()
        self._module.row_scores(
            self.isa,
            logits.data_ptr(),
            DTYPE_NUMBER[logits.dtype],
            logits.shape[0],
            logits.shape[1],
            logits.stride(0),
            address(bias),
            address(labels),
            address(class_distances),
            0 if class_distances is None else class_distances.stride(0),
            kinds,
            scores.data_ptr(),
            scores.stride(0),
            address(pairs),
            address(states),
            first_class,
            first_class == 0,
            is_last,
            torch.get_num_threads(),
        )

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        values = values.contiguous()
        out_values = torch.empty(k, dtype=values.dtype)
        out_indices = torch.empty(k, dtype=torch.int64)
        self._module.smallest_k(
            self.isa,
            values.data_ptr(),
            DTYPE_NUMBER[values.dtype],
            values.shape[0],
            k,
            by_value,
            out_values.data_ptr(),
            out_indices.data_ptr(),
            torch.get_num_threads(),
        )
        return out_values, out_indices


def _multiply(
    logits: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None, known: int
) -> Tensor | None:
    """Makes a tile the logits of these features, where it holds those of the first `known`; returns the bias still to be added."""
    if features.element_size() == 2:
        # Half-precision products are rounded, with their bias, as F.linear rounds them: none is built on another.
        if bias is None:
            torch.mm(features, weight.T, out=logits)
        else:
            torch.addmm(bias, features, weight.T, out=logits)
        return None
    if known == 0:
        torch.mm(features, weight.T, out=logits)
    else:
        logits.addmm_(features[:, known:], weight[:, known:].T)
    return bias
