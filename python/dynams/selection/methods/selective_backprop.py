"""Selective backprop: skip the backward pass of samples whose loss is small among the recent ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynams.selection.methods.interface import BatchChoice, uniform, wide_dtype
from dynams.selection.signals import Signals


class SelectiveBackprop:
    """Keeps a sample of a batch with probability CDF(loss)^beta over the last losses seen.

    CDF(l) is the fraction of the last `history` losses, the batch's own included, that are at most l.
    With a stationary loss 1 / (beta + 1) of the samples are kept. No weights: the gradient is meant to
    lean towards large losses. The batch's largest loss is kept if the draw would leave nothing. A loss
    that is NaN counts, and is remembered, as infinite.

    Source: Jiang et al. 2019 (Accelerating deep learning by focusing on the biggest losers). They
    collect kept samples until a full batch is there; that is the trainer's business, if wanted.
    Cost: a forward pass of everything, forward and backward of the kept: 1 + 3 f against 3 for a kept
    fraction f (1 + 2 f if the first forward pass can be reused). One sort of the history a step. How
    many are kept is random, so that taking them out of the batch waits for the device.
    Does not pay: for f >= 2/3; with label noise; where reading data, not the network, takes the time.

    Its only state is the history: `state_dict` makes a resumed run exact.

    Args:
        beta: selectivity, at least 0; 0 keeps everything.
        history: number of losses remembered.

    Raises:
        ValueError: an argument out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __init__(self, beta: float = 1.0, history: int = 1024) -> None:
        if not 0.0 <= beta < float("inf"):
            raise ValueError(f"beta must be finite and at least 0, got {beta!r}")
        if history < 1:
            raise ValueError(f"history must be at least 1, got {history}")
        self.beta = beta
        self.history = history
        self._losses: Tensor | None = None

    def keep(self, batch: Signals, *, progress: float, generator: torch.Generator) -> BatchChoice:
        """Draw of the batch, and remember its losses; see `BatchStrategy.keep`."""
        losses = batch.score("loss").detach().float()
        losses = torch.where(losses.isnan(), torch.inf, losses)
        if batch.count == 0:
            return BatchChoice(torch.zeros(0, dtype=torch.bool, device=losses.device), count=0)
        earlier = losses[:0] if self._losses is None else self._losses.to(losses.device)
        self._losses = torch.cat([earlier, losses])[-self.history :]
        probability = keep_probability(losses, self._losses, self.beta)
        kept = uniform(batch.count, generator, batch.device) < probability
        hardest = torch.arange(batch.count, device=losses.device) == losses.argmax()
        return BatchChoice(kept | (~kept.any() & hardest))

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the history: "losses" (n,) float32, oldest first, or None."""
        return {"losses": None if self._losses is None else self._losses.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it lacks the history.
        """
        if "losses" not in state:
            raise ValueError("state lacks losses")
        losses = state["losses"]
        self._losses = None if losses is None else losses.float().clone()


def keep_probability(losses: Tensor, history: Tensor, beta: float) -> Tensor:
    """Return CDF(loss)^beta: (B,), the CDF being that of `history`.

    Args:
        losses: (B,) float32, no NaN.
        history: (n,) float32, no NaN, n >= 1.
        beta: at least 0.
    """
    at_most = torch.searchsorted(history.sort().values, losses.contiguous(), right=True)
    share: Tensor = at_most.to(wide_dtype(losses.device)) / history.shape[0]
    return share.pow(beta)
