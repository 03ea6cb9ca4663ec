"""Selective backprop: skip the backward pass of samples whose loss is small among the recent ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import at_least, interval, plain
from dynams.selection.draws import random_numbers
from dynams.selection.methods.interface import BatchSelection
from dynams.selection.precision import wide_dtype
from dynams.selection.signals import Signals


def selective_backprop_mask(
    losses: Tensor,
    recent: Tensor | None,
    generator: Generator,
    *,
    beta: float = 1.0,
    history: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Keep a sample of a batch with probability CDF(loss)^beta over the last losses seen.

    CDF(l) is the fraction of the last `history` losses, the batch's own included, that are at most l.
    With a stationary loss 1 / (beta + 1) of the samples are kept. No weights: the gradient is meant to
    lean towards large losses. The batch's largest loss is kept if the draw would leave nothing. A loss
    that is NaN counts, and is remembered, as infinite.

    Source: Jiang et al. 2019 (Accelerating deep learning by focusing on the biggest losers). They
    collect kept samples until a full batch is there; that is the loop's business, if wanted.
    Cost: a forward pass of everything, forward and backward of the kept: 1 + 3 f against 3 for a kept
    fraction f (1 + 2 f if the first forward pass can be reused). One sort of the history a step. How
    many are kept is random, so that taking them out of the batch waits for the device.
    Does not pay: for f >= 2/3; with label noise; where reading data, not the network, takes the time.

    Args:
        losses: (B,) floating point.
        recent: (n,) float32, what the last call returned; None at first.
        generator: of the draw.
        beta: selectivity, at least 0; 0 keeps everything.
        history: number of losses remembered.

    Returns:
        (B,) bool, which to keep, and the losses to hand to the next call, oldest first.

    Raises:
        ValueError: `beta` or `history` is out of range.
    """
    beta, history = plain(beta), plain(history)
    _check(beta, history)
    losses = losses.detach().float()
    losses = torch.where(losses.isnan(), torch.inf, losses)
    recent = losses[:0] if recent is None else recent.to(losses.device)
    if losses.shape[0] == 0:
        return torch.zeros_like(losses, dtype=torch.bool), recent
    recent = torch.cat([recent, losses])[-history:]
    at_most = torch.searchsorted(recent.sort().values, losses.contiguous(), right=True)
    share: Tensor = at_most.to(wide_dtype(losses.device)) / recent.shape[0]
    kept = random_numbers(losses.shape[0], generator, losses.device) < share.pow(beta)
    hardest = torch.arange(losses.shape[0], device=losses.device) == losses.argmax()
    return kept | (~kept.any() & hardest), recent


class SelectiveBackprop:
    """`selective_backprop_mask` of every batch.

    Its only state is the history: `state_dict` makes a resumed run exact.

    Args:
        beta: selectivity, at least 0; 0 keeps everything.
        history: number of losses remembered.

    Raises:
        ValueError: an argument out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __init__(self, beta: float = 1.0, history: int = 1024) -> None:
        _check(beta, history)
        self.beta = plain(beta)
        self.history = plain(history)
        self._recent: Tensor | None = None

    def keep(self, batch: Signals, *, progress: float, generator: Generator) -> BatchSelection:
        """Draw of the batch, and remember its losses; see `BatchStrategy.keep`."""
        mask, self._recent = selective_backprop_mask(
            batch.score("loss"), self._recent, generator, beta=self.beta, history=self.history
        )
        return BatchSelection(mask, count=None if batch.count else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the history: "losses" (n,) float32, oldest first, or None."""
        return {"losses": None if self._recent is None else self._recent.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it lacks the history.
        """
        if "losses" not in state:
            raise ValueError("state: got no losses, want all entries")
        losses = state["losses"]
        self._recent = None if losses is None else losses.float().clone()


def _check(beta: float, history: int) -> None:
    interval("beta", beta, "[0, inf)")
    at_least("history", history, 1)
