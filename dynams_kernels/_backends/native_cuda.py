"""The compiled CUDA kernels behind the backend interface: tensors in, raw pointers and a stream down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends.eager import empty_scores
from dynams_kernels._backends.native_rows import DTYPE_NUMBER
from dynams_kernels._backends.order import in_order
from dynams_kernels._device import is_current, raw_stream
from dynams_kernels._kinds import BIT, LABELLED_KINDS, mask_of
from dynams_kernels._tma import lies_in_rows

_HALVES = (torch.bfloat16, torch.float16)
_LABELLED = mask_of(LABELLED_KINDS)


class NativeCuda:
    """Row scores and selection on CUDA tensors, and on Hopper the scores of linear heads.

    Every launch goes to the current stream of the tensors' device, and its scratch comes from torch's allocator, so that
    it lives as long as the stream needs it and is part of a graph's capture: the module asks for what it needs through a
    tensor's `new_empty`.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
    ) -> Tensor:
        """See `registry.Backend`."""
        scores = empty_scores(logits, kinds.bit_count(), logits.shape[0])
        self._score(logits, labels, class_distances, kinds, scores)
        return scores

    def row_score(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
    ) -> Tensor:
        """See `registry.Backend`."""
        scores = empty_scores(logits, logits.shape[0])
        self._score(logits, labels, class_distances, kind, scores)
        return scores

    def _score(
        self,
        logits: Tensor,
        labels: Tensor | None,
        class_distances: Tensor | None,
        kinds: int,
        scores: Tensor,
    ) -> None:
        """Writes scores (n, B), or (B,) of one kind, contiguous."""
        batch, classes = logits.shape
        if batch == 0:
            return
        row_stride, step = logits.stride()
        if step != 1:
            # The kernels walk rows of adjacent elements, at any distance from each other.
            logits = logits.contiguous()
            row_stride = classes
        if labels is not None:
            labels = labels.contiguous()
        distances = distances_stride = 0
        if class_distances is not None:
            if class_distances.stride(1) != 1:
                class_distances = class_distances.contiguous()
            distances, distances_stride = class_distances.data_ptr(), class_distances.stride(0)
        device = logits.get_device()
        _launch(
            self._module.row_scores,
            device,
            (
                logits.data_ptr(),
                DTYPE_NUMBER[logits.dtype],
                batch,
                classes,
                row_stride,
                0 if labels is None else labels.data_ptr(),
                distances,
                distances_stride,
                kinds,
                scores.data_ptr(),
                batch,
                logits.new_empty,
                device,
                raw_stream(device),
            ),
        )

    def serves_linear(
        self,
        features: Tensor,
        weight: Tensor,
        widths: Sequence[int],
        kinds: int,
        pairs: bool,
    ) -> bool:
        """Whether the linear head's kernel, where it runs, can serve these operands: one width of half-precision rows for TMA."""
        return (
            features.dtype in _HALVES
            and len(widths) == 1
            and not pairs
            and not kinds & BIT["distance"]
            and lies_in_rows(features, widths[0])
            and lies_in_rows(weight, widths[0])
            # The kernel's scheduler counts tiles, of 2^14 logits and more, in 31 bits.
            and features.shape[0] * weight.shape[0] < 1 << 44
        )

    def linear_scores(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        width: int,
        kinds: int,
        tile: int,
    ) -> Tensor:
        """Scores (n, 1, B) of operands that `serves_linear`; `tile`: which of `linear_choice.HOPPER_TILES`."""
        batch, classes = features.shape[0], weight.shape[0]
        scores = features.new_empty(kinds.bit_count(), 1, batch, dtype=torch.float32)
        if batch == 0:
            return scores
        if bias is not None:
            bias = bias.resolve_neg().contiguous()
            if bias.data_ptr() % 4:
                bias = bias.clone()  # the kernel reads two at a time
        if labels is not None:
            labels = labels.contiguous() if kinds & _LABELLED else None
        device = features.get_device()
        _launch(
            self._module.linear_scores,
            device,
            (
                features.data_ptr(),
                features.stride(0),
                weight.data_ptr(),
                weight.stride(0),
                0 if bias is None else bias.data_ptr(),
                0 if labels is None else labels.data_ptr(),
                DTYPE_NUMBER[features.dtype],
                batch,
                classes,
                width,
                kinds,
                scores.data_ptr(),
                batch,
                tile,
                features.new_empty,
                device,
                raw_stream(device),
            ),
        )
        return scores

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        out_values = values.new_empty(k)
        out_indices = values.new_empty(k, dtype=torch.int64)
        self.smallest_k_into(values, False, out_values, out_indices)
        return in_order(out_values, out_indices, by_value)

    def smallest_k_into(
        self, values: Tensor, by_value: bool, out_values: Tensor, out_indices: Tensor
    ) -> None:
        """See `registry.Backend`."""
        k = out_values.shape[0]
        if k > 0:
            self._select(values, k, out_values, out_indices, None)
        if by_value:
            found, indices = in_order(out_values, out_indices, by_value)
            out_values.copy_(found)
            out_indices.copy_(indices)

    def smallest_mask(self, values: Tensor, k: int) -> Tensor:
        """Which of values (N,) are among the k smallest: (N,) bool, from one launch."""
        if k == 0:
            return torch.zeros(values.shape[0], dtype=torch.bool, device=values.device)
        mask = values.new_empty(values.shape[0], dtype=torch.bool)
        self._select(values, k, None, None, mask)
        return mask

    def _select(
        self,
        values: Tensor,
        k: int,
        out_values: Tensor | None,
        out_indices: Tensor | None,
        out_mask: Tensor | None,
    ) -> None:
        values = values.contiguous()
        device = values.get_device()
        _launch(
            self._module.smallest_k,
            device,
            (
                values.data_ptr(),
                DTYPE_NUMBER[values.dtype],
                values.shape[0],
                k,
                0 if out_values is None else out_values.data_ptr(),
                0 if out_indices is None else out_indices.data_ptr(),
                0 if out_mask is None else out_mask.data_ptr(),
                values.new_empty,
                device,
                raw_stream(device),
            ),
        )


def _launch(function: Callable[..., None], device: int, arguments: tuple[Any, ...]) -> None:
    # The module too sets the device and sets it back, but in setting back may open a context on a device that nobody uses;
    # torch's guard does not.
    if is_current(device):
        function(*arguments)
    else:
        with torch.cuda.device(device):
            function(*arguments)
