"""The compiled CPU kernels of rows of logits, block by block: tensors in, raw pointers down."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from dynams_kernels._backends.eager import empty_scores
from dynams_kernels._backends.shard_states import NO_CLASS, state_parts

# As csrc/common/kinds.h numbers them.
DTYPE_NUMBER = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
}

# Where csrc/cpu/kernels.h has a RowState's last member: after seven doubles and two 64-bit integers.
_HAS_NAN = 72


class RowKernels:
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

    def shard_states(
        self, states: Tensor, beside: Tensor, kinds: int, pairs: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The kernels' states (B, bytes) in the form that shards exchange, see `shard_states`: (n, B), and classes (2, B)."""
        first, second, own, ties, *sums = states.view(torch.float64)[:, :7].unbind(1)
        # The kernels leave out every class that has the largest, the exchanged sums but one.
        others = ties - 1
        part = {
            "first": first.masked_fill(states[:, _HAS_NAN] != 0, torch.nan),
            "second": second,
            "rest": sums[0] + others,
            "squares": sums[1] + others,
            "shifted": sums[2],
            "own": own,
        }
        found = empty_scores(beside, len(state_parts(kinds)), len(states))
        for place, name in enumerate(state_parts(kinds)):
            found[place] = part[name]
        if not pairs:
            return found, None
        classes = states.view(torch.int64)[:, 7:9].T
        return found, classes.masked_fill(classes < 0, NO_CLASS)

    def call_in_team(self, function: Callable[[], None], threads: int) -> bool:
        """Calls the function in so many of torch's own threads, within which torch's operators run on one.

        Returns:
            False where it was not called: it is for one thread, or torch's are not to be had.
        """
        if threads <= 1 or self._module.team_kind() != "openmp":
            return False
        self._module.call_in_team(function, threads)
        return True
