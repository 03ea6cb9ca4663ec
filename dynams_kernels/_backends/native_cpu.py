"""The compiled CPU kernels behind the backend interface: tensors in, raw pointers down."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynams_kernels._backends import eager
from dynams_kernels._backends.eager import empty_scores
from dynams_kernels._backends.native_cpu_linear import (
    LinearSweep,
    LinearTask,
    multiply,
    product_columns,
)
from dynams_kernels._backends.native_digits import NativeDigitCounter
from dynams_kernels._backends.native_rows import DTYPE_NUMBER, RowKernels
from dynams_kernels._backends.products import apart
from dynams_kernels._backends.tile_plan import plan_tiles
from dynams_kernels._checks import label_error
from dynams_kernels._kinds import BIT
from dynams_kernels._selection_checks import check_group_range, check_group_sizes

# `new_empty` of a tensor of the right dtype is the quickest that torch makes a tensor.
_AN_INDEX = torch.empty(0, dtype=torch.int64, device="cpu")


# As csrc/cpu/grouped.h: places are 32 bits there.
_MOST_GROUPED = 1 << 32


class NativeCpu(RowKernels):
    """Every primitive, by the kernels of one instruction set."""

    def row_scores(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kinds: int
    ) -> Tensor:
        """See `registry.Backend`."""
        batch = logits.shape[0]
        labels = None if labels is None else labels.contiguous()
        scores = empty_scores(logits, kinds.bit_count(), batch)
        self.score_block(logits, None, labels, class_distances, kinds, scores)
        return scores

    def row_score(
        self, logits: Tensor, labels: Tensor | None, class_distances: Tensor | None, kind: int
    ) -> Tensor:
        """See `registry.Backend`."""
        batch = logits.shape[0]
        labels = None if labels is None else labels.contiguous()
        scores = empty_scores(logits, batch)
        self.score_block(logits, None, labels, class_distances, kind, scores)
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
    ) -> tuple[Tensor, Tensor | None]:
        """See `registry.Backend`."""
        batch, classes = features.shape[0], weight.shape[0]
        bias = None if bias is None else bias.contiguous()
        labels = None if labels is None else labels.contiguous()
        scores = empty_scores(features, kinds.bit_count(), len(widths), batch)
        wanted = features.new_empty(batch, 2, dtype=torch.int64) if pairs else None
        plan = plan_tiles(
            batch, classes, features.shape[1], features.element_size(), kinds & BIT["distance"] != 0
        )
        if plan is not None:
            task = LinearTask(
                features, weight, bias, labels, class_distances, widths, kinds, scores, wanted
            )
            LinearSweep(self, task, plan).run()
            return scores, wanted
        if len(widths) == 1:
            logits, rest = multiply(apart(features), weight.T, bias, None, adds=False)
            self.score_block(logits, rest, labels, class_distances, kinds, scores, wanted)
            return scores, wanted
        tile: Tensor | None = None
        for nth, columns in enumerate(product_columns(widths, features.element_size() == 2)):
            slim = apart(features[:, columns])
            adds = columns.start != 0
            tile, rest = multiply(slim, weight[:, columns].T, bias, tile, adds=adds)
            self.score_block(tile, rest, labels, class_distances, kinds, scores[:, nth], wanted)
        return scores, wanted

    def linear_states(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        kinds: int,
        pairs: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """See `registry.Backend`."""
        (batch, size), classes = features.shape, weight.shape[0]
        bias = None if bias is None else bias.contiguous()
        labels = None if labels is None else labels.contiguous()
        unread = empty_scores(features, kinds.bit_count(), 1, batch)
        wanted = features.new_empty(batch, 2, dtype=torch.int64) if pairs else None
        plan = plan_tiles(batch, classes, size, features.element_size(), whole_rows=False)
        if plan is not None:
            task = LinearTask(features, weight, bias, labels, None, [size], kinds, unread, wanted)
            sweep = LinearSweep(self, task, plan, keeps_states=True)
            sweep.run()
            return self.shard_states(sweep.states, features, kinds, pairs)
        states = features.new_empty((batch, self.row_state_bytes), dtype=torch.uint8)
        logits, rest = multiply(apart(features), weight.T, bias, None, adds=False)
        self.score_block(
            logits, rest, labels, None, kinds, unread[:, 0], wanted, states, is_last=False
        )
        return self.shard_states(states, features, kinds, pairs)

    def check_labels(self, labels: Tensor, classes: int, ignored: int) -> None:
        """See `registry.check_labels`."""
        labels = labels.contiguous()
        outside: int = self._module.label_outside(
            labels.data_ptr(), labels.numel(), classes, ignored
        )
        if outside != 0:
            raise label_error(outside, classes)

    def smallest_k(self, values: Tensor, k: int, by_value: bool) -> tuple[Tensor, Tensor]:
        """See `registry.Backend`."""
        return self._select_anew(values, k, by_value)

    def smallest_k_into(
        self, values: Tensor, by_value: bool, out_values: Tensor, out_indices: Tensor
    ) -> None:
        """See `registry.Backend`."""
        self._select(values, by_value, out_values, out_indices, False)

    def digit_counter(self, values: Tensor) -> NativeDigitCounter:
        """See `registry.Backend`."""

        def smallest(values: Tensor, k: int, last: Tensor) -> tuple[Tensor, Tensor]:
            return self._select_anew(values, k, False, last)

        return NativeDigitCounter(self._module, self._isa_place, values, smallest)

    def _select_anew(
        self, values: Tensor, k: int, by_value: bool, last: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        out_values = values.new_empty(k)
        out_indices = _AN_INDEX.new_empty(k)
        self._select(values, by_value, out_values, out_indices, True, last)
        return out_values, out_indices

    def _select(
        self,
        values: Tensor,
        by_value: bool,
        out_values: Tensor,
        out_indices: Tensor,
        fresh: bool,
        last: Tensor | None = None,
    ) -> None:
        """Writes the selection. `last`: a value equal to the last selected, where it is known: then it is not searched for."""
        values = values.contiguous()
        self._module.smallest_k(
            self._isa_place,
            values.data_ptr(),
            DTYPE_NUMBER[values.dtype],
            values.shape[0],
            out_values.shape[0],
            by_value,
            0 if last is None else last.data_ptr(),
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
        # The given k are checked with the sizes, which the kernel counts; of a fraction the groups tell how many there are.
        if k is None:
            groups, group_count = eager.numbered_groups(groups)
        else:
            group_count = k.shape[0]
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
