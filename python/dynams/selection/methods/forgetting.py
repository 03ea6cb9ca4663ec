"""Forgetting events: how often a sample, once classified rightly, was later got wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynams.checks import whole
from dynams.selection.methods.ranked import Ranked, Ties


class ForgettingEvents:
    """Counts how often a sample is forgotten: right at one visit t, and wrong at the next.

    Fed with what each training step knows anyway: whether the batch's predictions were right. Of its
    `scores` keep the `largest`. They are small whole numbers with many ties, so give it a random `order`.

    Source: Toneva et al. 2019, who count over a whole earlier training.
    Cost: no pass of its own, one comparison a training step, without a wait for the device; 6 bytes a
    sample. As published, that earlier training.
    Does not pay: for a single run as published (the counting run is the full run); with label noise,
    where the never-learnt are the mislabelled.

    Args:
        num_samples: N; indices are 0 to N - 1.
        device: where the counts live.

    Raises:
        ValueError: `num_samples` is negative.
    """

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        num_samples = whole("num_samples", num_samples, 0)
        self._events = torch.zeros(num_samples, dtype=torch.int32, device=device)
        self._correct = torch.zeros(num_samples, dtype=torch.bool, device=device)
        self._learnt = torch.zeros(num_samples, dtype=torch.bool, device=device)

    def update(self, indices: Tensor, correct: Tensor) -> None:
        """Note a visit of some samples.

        Args:
            indices: (B,) int64, distinct, on the counts' device.
            correct: (B,) bool: the prediction was right.

        Raises:
            ValueError: the two differ in shape.
            TypeError: `correct` is not boolean.
        """
        if correct.dtype != torch.bool:
            raise TypeError(f"correct: got {correct.dtype}, want torch.bool")
        if indices.dim() != 1 or indices.shape != correct.shape:
            came = f"{tuple(indices.shape)} and {tuple(correct.shape)}"
            raise ValueError(f"indices and correct: got shapes {came}, want (B,) for both")
        self._events[indices] += self._correct[indices] & ~correct
        self._learnt[indices] |= correct
        self._correct[indices] = correct

    @property
    def events(self) -> Tensor:
        """(N,) int32 copy of the counts."""
        return self._events.clone()

    @property
    def correct(self) -> Tensor:
        """(N,) bool copy: right at the last visit; False where never visited."""
        return self._correct.clone()

    def scores(self) -> Tensor:
        """Return the score "forgetting": (N,) float32 counts, inf for a sample never got right."""
        return torch.where(self._learnt, self._events.float(), torch.inf)

    def tensors(self) -> dict[str, Tensor]:
        """Return all it knows, (N,) each: not copies, to be merged between processes."""
        return {"events": self._events, "correct": self._correct, "learnt": self._learnt}

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all it knows, for a checkpoint."""
        return {name: tensor.clone() for name, tensor in self.tensors().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: an entry is missing or of another number of samples; nothing is changed then.
        """
        mine = self.tensors()
        for name, tensor in mine.items():
            if name not in state:
                raise ValueError(f"state: got no {name}, want all entries")
            if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
                came, want = (f"{each.dtype} {tuple(each.shape)}" for each in (state[name], tensor))
                raise ValueError(f"state: got {name} of {came}, want {want}")
        for name, tensor in mine.items():
            tensor.copy_(state[name])


@dataclass(frozen=True)
class Forgetting(Ranked):
    """The most often forgotten, by the `ForgettingEvents` that training left behind; static as published.

    Equal counts go in a random order unless `ties` says otherwise. Chosen again while training, only samples
    that are still trained on are counted, so give it a warm-up.
    """

    dynamic: ClassVar[bool] = False
    score: ClassVar[str] = "forgetting"

    ties: Ties = "random"
