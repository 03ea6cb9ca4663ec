"""The Triton kernels behind the backend interface."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynams_kernels._backends import eager
from dynams_kernels._backends.digits import PlainDigitCounter
from dynams_kernels._backends.order import in_order
from dynams_kernels._triton import linear, row_scores, smallest_k


class Triton:
    """Every primitive on CUDA tensors, float64 linear scores excepted.

    Kernels are compiled at their first use for a kind of input (a second or two) and kept in Triton's cache on disk.
    """

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
    ) -> Tensor:
        """See `registry.Backend`."""
        return row_scores.row_scores(logits, labels, class_distances, kinds)

    def row_score(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
    ) -> Tensor:
        """See `registry.Backend`."""
        return row_scores.row_scores(logits, labels, class_distances, kind)[0]

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
        *,
        descriptors: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `registry.Backend`; with `descriptors`: by TMA, of operands that are `describable`."""
        return linear.linear_scores(
            features,
            weight,
            bias,
            labels,
            class_distances,
            widths,
            kinds,
            pairs,
            loads="descriptors" if descriptors else "pointers",
        )

    def linear_states(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        kinds: int,
        pairs: bool,
        *,
        descriptors: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `registry.Backend`, and `linear_scores` for `descriptors`."""
        head = (features, weight, bias, labels, kinds, pairs)
        if features.dtype == torch.float64:
            return eager.linear_states(*head)
        return linear.linear_states(*head, loads="descriptors" if descriptors else "pointers")

    def describable(
        self, features: Tensor, weight: Tensor, widths: Sequence[int], kinds: int, pairs: bool
    ) -> bool:
        """Whether TMA can load these operands, and the kernel that it loads for can compute these scores."""
        return linear.describable(features, weight, widths, kinds, pairs)

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        return in_order(*smallest_k.smallest_k(values, k), by_value)

    def smallest_k_into(
        self, values: Tensor, by_value: bool, out_values: Tensor, out_indices: Tensor
    ) -> None:
        """See `registry.Backend`."""
        found, indices = self.smallest_k(values, out_values.shape[0], by_value)
        out_values.copy_(found)
        out_indices.copy_(indices)

    def digit_counter(self, values: Tensor) -> PlainDigitCounter:
        """See `registry.Backend`."""
        return PlainDigitCounter(values, self.smallest_k)

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
        return eager.smallest_k_grouped(values, groups, k, fraction, total, by_value)
