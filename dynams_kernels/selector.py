"""A running record of every sample's margin, from which the next training subset is selected."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynams_kernels import _checks
from dynams_kernels._numbers import as_index
from dynams_kernels.selection import SmallestK, smallest_k


class MarginSelector:
    """Margins of `num_samples` samples on one device: written batch by batch, selected from at once.

    A sample never scored comes before every scored one, so that new data is always looked at. A margin of -inf and one of
    the lowest finite float32 count as the same, -inf. Nothing here makes the host wait for the device.

    Args:
        num_samples: how many samples; their indices are 0 to num_samples - 1.
        device: where the margins live.
    """

    # Never scored is stored as -inf, and a margin of -inf as the lowest finite number, just after it.
    _NEVER = -torch.inf
    _MINUS_INFINITY = torch.finfo(torch.float32).min

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        count = as_index(num_samples)
        if count is None:
            raise TypeError(f"num_samples: got {type(num_samples).__name__}, want an int >= 0")
        if count < 0:
            raise ValueError(f"num_samples: got {count}, want an int >= 0")
        self._num_samples = count
        # One place more than samples takes what is not to be stored, where choosing would synchronise with a GPU.
        # An inference tensor could not be updated outside inference mode.
        with torch.inference_mode(False):
            self._margins = torch.full(
                (count + 1,), self._NEVER, dtype=torch.float32, device=device
            )
        # On the CPU it is known, at a look at each update; a GPU would have to be waited for.
        self._may_hold_minus_infinity = self._margins.device.type != "cpu"

    @property
    def num_samples(self) -> int:
        """How many samples are followed."""
        return self._num_samples

    @property
    def margins(self) -> Tensor:
        """A copy of the margins (num_samples,) float32, -inf where never scored."""
        return self._as_given(self._stored)

    @property
    def _stored(self) -> Tensor:
        return self._margins[: self._num_samples]

    def _as_given(self, stored: Tensor) -> Tensor:
        return torch.where(stored == self._MINUS_INFINITY, self._NEVER, stored)

    def __len__(self) -> int:
        return self._num_samples

    def __repr__(self) -> str:
        return (
            f"MarginSelector(num_samples={self._num_samples}, device={str(self._margins.device)!r})"
        )

    @torch.no_grad()
    def update(self, indices: Tensor, margins: Tensor) -> None:
        """Overwrite the margins of some samples; of an index given twice in one update, the smaller margin stays.

        Args:
            indices: (n,) int64 in [0, num_samples). Out of range: ValueError on the CPU, ignored on a GPU.
            margins: (n,) floating point on the same device; stored as float32.

        Raises:
            TypeError, ValueError: naming the argument; nothing is changed then.
        """
        if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
            came = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
            raise TypeError(f"indices: got {came}, want an int64 tensor of shape (n,)")
        if indices.dim() != 1:
            raise ValueError(f"indices: got shape {tuple(indices.shape)}, want (n,)")
        margins = _checks.check_float("margins", margins, 1, f"({indices.shape[0]},)")
        if margins.shape != indices.shape:
            raise ValueError(
                f"margins: got shape {tuple(margins.shape)}, want {tuple(indices.shape)}"
            )
        _checks.check_device("indices", indices, self._margins.device)
        _checks.check_device("margins", margins, self._margins.device)
        outside = (indices < 0) | (indices >= self._num_samples)
        if indices.device.type == "cpu" and bool(outside.any()):
            wrong = int(indices[outside][0])
            raise ValueError(f"indices: got {wrong}, want every index in [0, {self._num_samples})")
        nowhere = torch.full_like(indices, self._num_samples)
        places = torch.where(outside, nowhere, indices)
        stored = margins.to(torch.float32).clamp(min=self._MINUS_INFINITY)
        # NaN is the largest, yet a minimum over repeats would spread it: it is written first, the numbers over it.
        is_nan = torch.isnan(stored)
        self._margins.index_fill_(0, torch.where(is_nan, places, nowhere), torch.nan)
        places = torch.where(is_nan, nowhere, places)
        self._margins.scatter_reduce_(0, places, stored, "amin", include_self=False)
        self._look_for_minus_infinity(stored)

    def _look_for_minus_infinity(self, stored: Tensor) -> None:
        if not self._may_hold_minus_infinity:
            self._may_hold_minus_infinity = bool((stored == self._MINUS_INFINITY).any())

    def smallest(self, k: int | float, *, out: tuple[Tensor, Tensor] | None = None) -> SmallestK:
        """The k samples of smallest margin, never-scored ones first: SmallestK(values, indices ascending).

        Args:
            k: how many, in [0, num_samples], or a fraction in (0, 1]; see :func:`smallest_k`.
            out: (values (k,) float32, indices (k,) int64) to write into, see there; without it the result is new memory.

        Raises:
            TypeError, ValueError: k or out is not of these.
        """
        selected = smallest_k(self._stored, k, out=out)
        if self._may_hold_minus_infinity:
            # In place: -inf for what is not above the lowest, NaN stays.
            torch.threshold_(selected.values, self._MINUS_INFINITY, self._NEVER)
        return selected

    def state_dict(self) -> dict[str, Any]:
        """The margins (a copy), for a checkpoint."""
        return {"num_samples": self._num_samples, "margins": self._stored.clone()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the margins of a checkpoint.

        Raises:
            ValueError: it is of another number of samples; nothing is changed then.
            TypeError: it holds no float32 margins.
        """
        missing = {"num_samples", "margins"} - set(state)
        if missing:
            raise ValueError(f"state: got keys {sorted(state)}, want num_samples and margins")
        margins = _checks.check_float("margins", state["margins"], 1, f"({self._num_samples},)")
        if state["num_samples"] != self._num_samples or margins.shape[0] != self._num_samples:
            raise ValueError(
                f"state: got num_samples {state['num_samples']} and {margins.shape[0]} margins, want {self._num_samples} of both"
            )
        if margins.dtype != torch.float32:
            raise TypeError(f"margins: got dtype {margins.dtype}, want float32")
        self._stored.copy_(margins)
        self._look_for_minus_infinity(self._stored)
