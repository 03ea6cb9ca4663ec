"""The compiled CUDA kernels behind the backend interface: tensors in, raw pointers and a stream down."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from dynams_kernels._backends.eager import score_dtype
from dynams_kernels._backends.native_cpu import DTYPE_NUMBER, address
from dynams_kernels._backends.order import in_order
from dynams_kernels._device import on_device


class NativeCuda:
    """Row scores and selection on CUDA tensors; linear scores are not among the compiled kernels.

    Every launch goes to the current stream of the tensors' device, and its scratch comes from torch's allocator, so that
    it lives as long as the stream needs it and is part of a graph's capture.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
    ) -> Tensor:
        """See `registry.Backend`."""
        batch, classes = logits.shape
        scores = torch.empty(
            (bin(kinds).count("1"), batch), dtype=score_dtype(logits.dtype), device=logits.device
        )
        if batch == 0:
            return scores
        # The kernels walk rows of adjacent elements, at any distance from each other.
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        labels = None if labels is None else labels.contiguous()
        if class_distances is not None and class_distances.stride(1) != 1:
            class_distances = class_distances.contiguous()
        device = logits.device.index
        number = DTYPE_NUMBER[logits.dtype]
        with on_device(logits):
            scratch = _scratch(
                self._module.row_scores_scratch(number, batch, classes, kinds, device), logits
            )
            self._module.row_scores(
                logits.data_ptr(),
                number,
                batch,
                classes,
                logits.stride(0),
                address(labels),
                address(class_distances),
                0 if class_distances is None else class_distances.stride(0),
                kinds,
                scores.data_ptr(),
                scores.stride(0),
                address(scratch),
                device,
                torch.cuda.current_stream(device).cuda_stream,
            )
        return scores

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        out_values = values.new_empty(k)
        out_indices = values.new_empty(k, dtype=torch.int64)
        if k > 0:
            self._select(values, k, out_values, out_indices, None)
        return in_order(out_values, out_indices, by_value)

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
        device = values.device.index
        number = DTYPE_NUMBER[values.dtype]
        with on_device(values):
            scratch = _scratch(
                self._module.smallest_k_scratch(number, values.shape[0], k, device), values
            )
            self._module.smallest_k(
                values.data_ptr(),
                number,
                values.shape[0],
                k,
                address(out_values),
                address(out_indices),
                address(out_mask),
                address(scratch),
                device,
                torch.cuda.current_stream(device).cuda_stream,
            )


def _scratch(size: int, beside: Tensor) -> Tensor | None:
    return beside.new_empty(size, dtype=torch.uint8) if size > 0 else None
