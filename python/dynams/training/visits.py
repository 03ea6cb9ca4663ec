"""What training steps leave behind of the samples they visit: last losses, forgetting events, free margins.

Written from each step's own forward pass, on the device, without a wait. They are of the moment of the
visit: augmented images, batch-norms by the batch's statistics, full width. In mixed precision they have
that precision's logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dynams.selection.methods.forgetting import ForgettingEvents
from dynams.selection.signals import FORGETTING, LAST_LOSS
from dynams.training.scoring import row_scores


class Visits:
    """Scores of every sample at its last visit, 4 bytes each, and the epoch of that visit.

    Args:
        num_samples: N; indices are 0 to N - 1.
        names: what to remember: "last_loss", "forgetting" and scores of a row of logits.
        device: where it lives.
    """

    def __init__(
        self, num_samples: int, names: Iterable[str], device: torch.device | str = "cpu"
    ) -> None:
        names = sorted(names)
        self._scores = {
            name: torch.full((num_samples,), torch.inf, dtype=torch.float32, device=device)
            for name in names
            if name != FORGETTING
        }
        self._events = ForgettingEvents(num_samples, device) if FORGETTING in names else None
        # Counted from 1, so that 0 says never.
        self._epochs = torch.zeros(num_samples, dtype=torch.int32, device=device)

    @torch.no_grad()
    def record(self, epoch: int, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note a visit of some samples.

        Args:
            epoch: of the visit, from 0.
            indices: (B,) int64, distinct, on the device.
            logits: (B, C) of the step's forward pass.
            labels: (B,) int64.
        """
        kinds = {"loss" if name == LAST_LOSS else name for name in self._scores}
        found = row_scores(logits.detach(), labels, kinds)
        for name, scores in self._scores.items():
            scores[indices] = found["loss" if name == LAST_LOSS else name].float()
        if self._events is not None:
            self._events.update(indices, logits.argmax(1) == labels)
        # A number that is assigned would be copied to the device first, and the host would wait.
        self._epochs.index_fill_(0, indices, epoch + 1)

    def score(self, name: str) -> Tensor:
        """Return a copy of the scores (N,) float32; inf where there was no visit."""
        if name == FORGETTING and self._events is not None:
            return self._events.scores()
        return self._scores[name].clone()

    def fresh(self, epoch: int, max_age: int) -> Tensor:
        """Return which samples (N,) bool were visited in the ``max_age`` epochs before ``epoch``."""
        return (self._epochs > 0) & (self._epochs > epoch - max_age)

    def merge(self, fabric: Fabric) -> None:
        """Give every process the latest visits of all. All processes must come here together."""
        if fabric.world_size == 1:
            return
        gathered = fabric.all_gather(self._epochs)
        assert isinstance(gathered, Tensor)
        # Within an epoch one process visits a sample; equal epochs hold what was merged before.
        latest = gathered.view(fabric.world_size, -1).argmax(0, keepdim=True)
        for tensor in self._tensors().values():
            plain = tensor.to(torch.int32) if tensor.dtype == torch.bool else tensor
            parts = fabric.all_gather(plain)
            assert isinstance(parts, Tensor)
            tensor.copy_(parts.view(fabric.world_size, -1).gather(0, latest)[0])

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all it knows, for a checkpoint."""
        return {name: tensor.clone() for name, tensor in self._tensors().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it is of other scores or another number of samples.
        """
        mine = self._tensors()
        if set(state) != set(mine):
            raise ValueError(f"visits: got {', '.join(state)}, want {', '.join(mine)}")
        for name, tensor in mine.items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"{name}: got {len(state[name])} samples, want {len(tensor)}")
        for name, tensor in mine.items():
            tensor.copy_(state[name])

    def _tensors(self) -> dict[str, Tensor]:
        events = {} if self._events is None else self._events.tensors()
        return {**self._scores, **events, "epochs": self._epochs}
