"""What training steps leave behind of the samples they visit: last losses, forgetting events, free margins.

Written from each step's own forward pass, on the device, without a wait. They are of the moment of the
visit: augmented images, batch-norms by the batch's statistics, full width. In mixed precision they have
that precision's logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

import dynams_kernels as dk
from dynams.selection.methods.forgetting import ForgettingEvents
from dynams.selection.ranks import of_world
from dynams.selection.signals import FORGETTING, LAST_EPOCH, LAST_LOSS, Signals


class Visits:
    """Scores of every sample at its last visit, 4 bytes each, and the epoch of that visit.

    In a loop of one's own they are a sampler's scores, and no pass over the samples is needed::

        strategy = with_switches(build_strategy("margin", kind="label"), age_weight=0.25)
        visits = Visits(len(train_set), strategy.needs, device)
        sampler = SubsetSampler(len(train_set), strategy, score=visits.signals, ...)
        ...
        visits.record(epoch, indices, logits, labels)  # after each step's forward pass

    Args:
        num_samples: N; indices are 0 to N - 1.
        names: what to remember: "last_loss", "last_epoch", "forgetting" and scores of a row of logits.
        device: where it lives.
    """

    def __init__(
        self, num_samples: int, names: Iterable[str], device: torch.device | str = "cpu"
    ) -> None:
        names = sorted(names)
        self._scores = {
            name: torch.full((num_samples,), torch.inf, dtype=torch.float32, device=device)
            for name in names
            if name not in (FORGETTING, LAST_EPOCH)
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
        kinds = sorted({"loss" if name == LAST_LOSS else name for name in self._scores})
        # The call refuses a name that it does not know.
        found = dk.scores(logits.detach(), cast("list[dk.ScoreKind]", kinds), labels=labels)
        for name, scores in self._scores.items():
            scores[indices] = found["loss" if name == LAST_LOSS else name].float()
        if self._events is not None:
            self._events.update(indices, logits.argmax(1) == labels)
        # A number that is assigned would be copied to the device first, and the host would wait.
        self._epochs.index_fill_(0, indices, epoch + 1)

    def score(self, name: str) -> Tensor:
        """Return a copy of the scores (N,) float32; where there was no visit, inf, or -inf as the last epoch."""
        if name == LAST_EPOCH:
            return torch.where(self._epochs > 0, self._epochs - 1.0, -torch.inf)
        if name == FORGETTING and self._events is not None:
            return self._events.scores()
        return self._scores[name].clone()

    def signals(self) -> Signals:
        """Return all that is remembered of all samples, in every process the latest: `SubsetSampler`'s `score`."""
        self.merge()
        names = {*self._scores, LAST_EPOCH} | ({FORGETTING} if self._events is not None else set())
        return Signals(len(self._epochs), {name: self.score(name) for name in sorted(names)})

    def fresh(self, epoch: int, max_age: int) -> Tensor:
        """Return which samples (N,) bool were visited in the ``max_age`` epochs before ``epoch``."""
        return (self._epochs > 0) & (self._epochs > epoch - max_age)

    def merge(self) -> None:
        """Give every process the latest visits of all. All processes must come here together."""
        if of_world() == 1:
            return
        gathered = _of_all(self._epochs)
        # Within an epoch one process visits a sample; equal epochs hold what was merged before.
        latest = gathered.argmax(0, keepdim=True)
        for tensor in self._tensors().values():
            plain = tensor.to(torch.int32) if tensor.dtype == torch.bool else tensor
            tensor.copy_(_of_all(plain).gather(0, latest)[0])

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


def _of_all(mine: Tensor) -> Tensor:
    """Gather the tensors (N,) of all processes: (world, N)."""
    whole = mine.new_empty(of_world(), *mine.shape)
    dist.all_gather(list(whole.unbind()), mine)
    return whole
