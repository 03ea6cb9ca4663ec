"""What training steps leave behind of the samples they visit: last losses and their courses, forgetting events, free margins.

Written from each step's own forward pass, on the device, without a wait. They are of the moment of the
visit: augmented images, batch-norms by the batch's statistics, full width. In mixed precision they have
that precision's logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast, get_args

import torch
import torch.distributed as dist
from torch import Tensor

import dynams_kernels as dk
from dynams.checks import whole
from dynams.selection.methods.alignprune import LossTrajectories
from dynams.selection.methods.forgetting import ForgettingEvents
from dynams.selection.precision import wide_dtype
from dynams.selection.ranks import check_told_alike, of_world, told_by_all
from dynams.selection.sampler_checks import check_int64
from dynams.selection.signals import (
    ALIGNMENT,
    FORGETTING,
    LAST_EPOCH,
    LAST_LOSS,
    TRAINED_EPOCHS,
    VISIT_SCORES,
    WINDOW_LOSS,
    Signals,
)

_APART = {ALIGNMENT, FORGETTING, LAST_EPOCH, TRAINED_EPOCHS}
# Distances would want the head's weight.
_KNOWN = VISIT_SCORES | set(get_args(dk.ScoreKind)) - {"distance"}


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
        names: what to remember: "last_loss", "last_epoch", "trained_epochs" (how many visited the sample),
            "window_loss" (the loss minus its batch's mean), "alignment" (see `compare`), "forgetting" and scores
            of a row of logits, but "distance".
        device: where it lives.

    Raises:
        ValueError: a name is of something that no step leaves behind, such as "labels" or "features"; or
            `num_samples` is negative.
        TypeError: an argument of another type.
    """

    def __init__(
        self, num_samples: int, names: Iterable[str], device: torch.device | str = "cpu"
    ) -> None:
        num_samples = whole("num_samples", num_samples, 0)
        if isinstance(names, str):
            raise TypeError(f"names: got {names!r}, want a list of names")
        self._names = frozenset(names)
        if unknown := self._names - _KNOWN:
            raise ValueError(
                f"names: got {', '.join(sorted(map(str, unknown)))}, which no step leaves behind, want some of "
                f"{', '.join(sorted(_KNOWN))}"
            )
        if ALIGNMENT in self._names:
            self._names |= {LAST_LOSS}
        # Inference tensors could not be written outside inference mode.
        with torch.inference_mode(False):
            self._scores = {
                name: torch.full((num_samples,), torch.inf, dtype=torch.float32, device=device)
                for name in sorted(self._names - _APART)
            }
            self._trajectories = (
                LossTrajectories(num_samples, device=device) if ALIGNMENT in self._names else None
            )
            self._events = (
                ForgettingEvents(num_samples, device) if FORGETTING in self._names else None
            )
            # Counted from 1, so that 0 says never.
            self._epochs = torch.zeros(num_samples, dtype=torch.int32, device=device)
            self._trained = (
                torch.zeros_like(self._epochs) if TRAINED_EPOCHS in self._names else None
            )
        self._unmerged: int | None = None  # the last epoch of which visits were noted since a merge

    @torch.no_grad()
    def record(self, epoch: int, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note a visit of some samples.

        Several processes come to the first visits of every epoch together where events or epochs are counted:
        another process may visit a sample then, and has to know of its visits so far. See `merge`.

        Args:
            epoch: of the visit, from 0.
            indices: (B,) int64, distinct, on the device.
            logits: (B, C) of the step's forward pass.
            labels: (B,) int64.

        Raises:
            ValueError, TypeError: naming the argument; nothing is noted then. Indices out of range are found on the
                CPU alone.
        """
        epoch = whole("epoch", epoch, 0)
        self._check_visit(indices, logits, labels)
        counted = self._events is not None or self._trained is not None
        if counted and self._unmerged is not None and epoch > self._unmerged:
            self.merge()
        self._unmerged = epoch
        kinds = {
            name: "loss" if name in (LAST_LOSS, WINDOW_LOSS) else name for name in self._scores
        }
        # The call refuses a name that it does not know.
        wanted = cast("list[dk.ScoreKind]", sorted(set(kinds.values())))
        found = dk.scores(logits.detach(), wanted, labels=labels)
        for name, scores in self._scores.items():
            values = found[kinds[name]]
            if name == WINDOW_LOSS:
                # In double precision the mean of equal losses is that loss.
                values = values.to(wide_dtype(values.device))
                values = values - values.mean()
            scores[indices] = values.float()
        if self._events is not None:
            self._events.update(indices, logits.argmax(1) == labels)
        if self._trained is not None:
            self._trained[indices] += self._epochs[indices] <= epoch
        # A number that is assigned would be copied to the device first, and the host would wait.
        self._epochs.index_fill_(0, indices, epoch + 1)

    def _check_visit(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        check_int64("indices", indices)
        check_int64("labels", labels)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"logits: got {came}, want (B, C)")
        for name, tensor in (("indices", indices), ("labels", labels)):
            if tensor.shape != logits.shape[:1]:
                raise ValueError(
                    f"{name}: got shape {tuple(tensor.shape)}, want ({len(logits)},), as logits have rows"
                )
        if indices.device.type == "cpu" and len(indices):
            low, high = torch.stack(indices.aminmax()).tolist()
            if low < 0 or high >= len(self._epochs):
                raise ValueError(
                    f"indices: got {low} to {high}, want them in [0, {len(self._epochs)})"
                )

    def compare(self, reference: Tensor) -> None:
        """Add to the courses of losses where they stand now; once a refresh, after `merge`, before "alignment" is read.

        Args:
            reference: (n,) losses of clean samples, by the network as it is now.

        Raises:
            ValueError: "alignment" is not remembered.
        """
        if self._trajectories is None:
            raise ValueError(f"visits: got {', '.join(sorted(self._names))}, want {ALIGNMENT}")
        self._trajectories.append(self._scores[LAST_LOSS], reference)

    def score(self, name: str) -> Tensor:
        """Return a copy of the scores (N,) float32; where there was no visit, inf, or -inf as the last epoch."""
        if name == LAST_EPOCH:
            return torch.where(self._epochs > 0, self._epochs - 1.0, -torch.inf)
        if name == TRAINED_EPOCHS and self._trained is not None:
            return self._trained.float()
        if name == ALIGNMENT and self._trajectories is not None:
            return self._trajectories.scores()
        if name == FORGETTING and self._events is not None:
            return self._events.scores()
        return self._scores[name].clone()

    def signals(self) -> Signals:
        """Return all that is remembered of all samples, in every process the latest: `SubsetSampler`'s `score`."""
        self.merge()
        names = sorted(self._names | {LAST_EPOCH})
        return Signals(len(self._epochs), {name: self.score(name) for name in names})

    def fresh(self, epoch: int, max_age: int) -> Tensor:
        """Return which samples (N,) bool were visited in the ``max_age`` epochs before ``epoch``."""
        return (self._epochs > 0) & (self._epochs > epoch - max_age)

    def merge(self) -> None:
        """Give every process the latest visits of all. All processes must come here together.

        `signals` does it, and so does `record` where it has to; before a state is saved in the middle of an
        epoch, do it yourself: a process knows of no other's visits until then.

        Raises:
            ValueError: processes remember other names, or other numbers of samples.
            RuntimeError: another process is elsewhere, or failed on its way here.
        """
        self._unmerged = None
        if of_world() == 1:
            return
        # Before tensors are exchanged: gloo ends a process whose peer sends something else.
        facts = {"num_samples": len(self._epochs), "names": ", ".join(sorted(self._names))}
        check_told_alike(told_by_all("merge visits", lambda: facts))
        gathered = _of_all(self._epochs)
        # Within an epoch one process visits a sample; equal epochs hold what was merged before.
        latest = gathered.argmax(0, keepdim=True)
        # What was compared is the same in all of them already.
        for tensor in self._by_sample().values():
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
        self._unmerged = None

    def _by_sample(self) -> dict[str, Tensor]:
        events = {} if self._events is None else self._events.tensors()
        trained = {} if self._trained is None else {TRAINED_EPOCHS: self._trained}
        return {**self._scores, **events, **trained, "epochs": self._epochs}

    def _tensors(self) -> dict[str, Tensor]:
        courses = {} if self._trajectories is None else self._trajectories.tensors()
        return {**self._by_sample(), **courses}


def _of_all(mine: Tensor) -> Tensor:
    """Gather the tensors (N,) of all processes: (world, N)."""
    whole = mine.new_empty(of_world(), *mine.shape)
    dist.all_gather(list(whole.unbind()), mine)
    return whole
