"""Forgetting events: how often a sample, once classified rightly, was later got wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynams.selection.methods.ranked import Ranked, Ties


class ForgettingEvents:
    """Counts, from visit to visit of a sample, the changes from correct to wrong.

    Fed with what each training step knows anyway: whether the batch's predictions were right. Nothing
    here waits for the device; 6 bytes a sample.

    Args:
        num_samples: N; indices are 0 to N - 1.
        device: where the counts live.
    """

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        if num_samples < 0:
            raise ValueError(f"num_samples must be at least 0, got {num_samples}")
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
            raise TypeError(f"correct must be a bool tensor, got {correct.dtype}")
        if indices.dim() != 1 or indices.shape != correct.shape:
            raise ValueError(
                "indices and correct must be of one shape (B,), "
                f"got {tuple(indices.shape)} and {tuple(correct.shape)}"
            )
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
                raise ValueError(f"state lacks {name}")
            if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
                raise ValueError(
                    f"{name} of the state must have shape {tuple(tensor.shape)} and dtype "
                    f"{tensor.dtype}, got {tuple(state[name].shape)} and {state[name].dtype}"
                )
        for name, tensor in mine.items():
            tensor.copy_(state[name])


@dataclass(frozen=True)
class Forgetting(Ranked):
    """The most often forgotten: number of visits t with the sample right at t and wrong at t + 1.

    Samples never got right count as forgotten infinitely often. The score is a small whole number with
    many ties, so equal ones go in a random order unless `ties` says otherwise.

    Source: Toneva et al. 2019. Static as published: counted over a whole earlier training.
    Cost: no pass of its own, one comparison a training step; but that earlier training. Chosen again
    while training, only samples that are still trained on are counted, so give it a warm-up.
    Does not pay: for a single run as published (the counting run is the full run); with label noise,
    where the never-learnt are the mislabelled.
    """

    dynamic: ClassVar[bool] = False
    score: ClassVar[str] = "forgetting"

    ties: Ties = "random"
