"""The compiled CPU kernels behind the backend interface: tensors in, raw pointers down."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from dynams_kernels._backends.eager import score_dtype
from dynams_kernels._checks import check_label_range
from dynams_kernels._kinds import BIT

_DTYPE_NUMBER = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
}

# A tile of logits: large enough for the matrix product to run at its full rate, small enough to stay in cache until it
# is reduced.
_TILE_CLASSES = 1024
_TILE_BYTES = 16 << 20


def _address(tensor: Tensor | None) -> int:
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
        """See `registry.Backend`. Logits exist as one tile, which every step of the loop overwrites."""
        batch, classes = features.shape[0], weight.shape[0]
        if labels is not None:
            check_label_range(labels, classes)
        scores = torch.empty((1, batch), dtype=score_dtype(features.dtype))
        pair_rows = torch.empty((batch if pairs else 0, 2), dtype=torch.int64)
        # The nearest boundary is known only once the whole row's largest is: `distance` takes whole rows.
        whole_rows = kind == BIT["distance"] or classes <= _TILE_CLASSES
        tile_classes = classes if whole_rows else _TILE_CLASSES
        tile_rows = max(1, min(batch, _TILE_BYTES // (tile_classes * features.element_size())))
        tile = torch.empty(tile_rows * tile_classes, dtype=features.dtype)
        states = None
        if not whole_rows:
            states = torch.empty((tile_rows, self._module.ROW_STATE_BYTES), dtype=torch.uint8)
        # In half precision the bias joins before the product is rounded, as in F.linear; otherwise the kernel adds it.
        half = features.element_size() == 2
        for begin in range(0, batch, tile_rows):
            rows = slice(begin, min(begin + tile_rows, batch))
            count = rows.stop - begin
            for first in range(0, classes, tile_classes):
                last = min(first + tile_classes, classes)
                logits = tile[: count * (last - first)].view(count, last - first)
                block_bias = None if bias is None else bias[first:last]
                if half and block_bias is not None:
                    torch.addmm(block_bias, features[rows], weight[first:last].T, out=logits)
                    block_bias = None
                else:
                    torch.mm(features[rows], weight[first:last].T, out=logits)
                self._score_block(
                    logits,
                    block_bias,
                    None if labels is None else labels[rows],
                    class_distances,
                    kind,
                    scores[:, rows],
                    pair_rows[rows] if pairs else None,
                    states=states,
                    first_class=first,
                    is_last=last == classes,
                )
        return scores[0], pair_rows

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
            _DTYPE_NUMBER[logits.dtype],
            logits.shape[0],
            logits.shape[1],
            logits.stride(0),
            _address(bias),
            _address(labels),
            _address(class_distances),
            0 if class_distances is None else class_distances.stride(0),
            kinds,
            scores.data_ptr(),
            scores.stride(0),
            _address(pairs),
            _address(states),
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
            _DTYPE_NUMBER[values.dtype],
            values.shape[0],
            k,
            by_value,
            out_values.data_ptr(),
            out_indices.data_ptr(),
            torch.get_num_threads(),
        )
        return out_values, out_indices
