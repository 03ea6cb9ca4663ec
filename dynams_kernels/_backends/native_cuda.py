"""The compiled CUDA kernels behind the backend interface: tensors in, raw pointers and a stream down."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dynams_kernels._backends.eager import empty_scores
from dynams_kernels._backends.native_rows import DTYPE_NUMBER
from dynams_kernels._backends.order import in_order
from dynams_kernels._device import is_current, raw_stream


class NativeCuda:
    """Row scores and selection on CUDA tensors; linear scores are not among the compiled kernels.

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
