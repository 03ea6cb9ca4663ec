"""The compiled CPU kernels behind the backend interface: tensors in, raw pointers down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

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
from dynams_kernels._backends.products import apart
from dynams_kernels._backends.tile_plan import plan_tiles
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
        self.row_state_bytes: int = module.ROW_STATE_BYTES

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

    def check_labels(self, labels: Tensor, classes: int, ignored: int) -> None:
        """See `registry.check_labels`."""
        labels = labels.contiguous()
        outside: int = self._module.label_outside(
            labels.data_ptr(), labels.numel(), classes, ignored
        )
        if outside != 0:
            raise label_error(outside, classes)

    def score_block(
        self,
        logits: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        class_distances: Tensor | None,
        kinds: int,
        scores: Tensor,
        pairs: Tensor | None = None,
        states: Tensor | None = None,
        first_class: int = 0,
        is_first: bool = True,
        is_last: bool = True,
        threads: int | None = None,
    ) -> None:
        """Scores of a block of rows and classes; labels, bias and pairs are contiguous. None: torch's number of threads."""
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
            scores.stride(0),
            0 if pairs is None else pairs.data_ptr(),
            0 if states is None else states.data_ptr(),
            first_class,
            is_first,
            is_last,
            torch.get_num_threads() if threads is None else threads,
        )

    def finish_block(
        self,
        states: Tensor,
        run_classes: int,
        classes: int,
        dtype: torch.dtype,
        labels: Tensor | None,
        kinds: int,
        scores: Tensor,
        pairs: Tensor | None,
    ) -> None:
        """Scores of rows whose states (runs, rows, bytes) come from runs of so many classes."""
        self._module.finish_rows(
            self._isa_place,
            DTYPE_NUMBER[dtype],
            states.shape[1],
            classes,
            0 if labels is None else labels.data_ptr(),
            kinds,
            scores.data_ptr(),
            scores.stride(0),
            0 if pairs is None else pairs.data_ptr(),
            states.data_ptr(),
            states.shape[0],
            states.stride(0) // self.row_state_bytes,
            run_classes,
        )

    def call_in_team(self, function: Callable[[], None], threads: int) -> bool:
        """Calls the function in so many of torch's own threads, within which torch's operators run on one.

        Returns:
            False where it was not called: it is for one thread, or torch's are not to be had.
        """
        if threads <= 1 or self._module.team_kind() != "openmp":
            return False
        self._module.call_in_team(function, threads)
        return True

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
