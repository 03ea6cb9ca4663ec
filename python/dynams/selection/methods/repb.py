"""RePB: leave out what is easy beside its own batch, and weigh by how often a sample was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from dynams.checks import interval, number, whole
from dynams.selection.draws import random_numbers
from dynams.selection.methods.interface import Selection
from dynams.selection.signals import LAST_EPOCH, TRAINED_EPOCHS, WINDOW_LOSS, Signals


@torch.no_grad()
def repb_subset(
    window_losses: Tensor,
    last_epochs: Tensor,
    trained_epochs: Tensor,
    epochs: int,
    generator: Generator,
    *,
    ratio: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Keep what had at least its window's mean loss, and anything else with probability 1 - rho; weights E / N_i.

    Three rules in one. Local window pruning: losses are compared within one batch, of one state of the network;
    below the batch's mean a sample is left out with probability rho. Resampling: one that was left out of the last
    epoch comes back with probability 1 - rho. Cumulative temporal rescaling: a sample trained on in N_i of the E
    epochs so far stands for 1 over its frequency. Weights sum to about N over k samples, as InfoBatch's do.

    Source: Inconsistency Biases in Dynamic Data Pruning (RePB), ICLR 2026, openreview.net/forum?id=Zw1Uw7u6Su;
    formulas by a public summary of the paper, whose text was not at hand. It gives no rho: 0.5 is that of the
    code that theirs is built on (InfoBatch, SeTa). A window is one batch, the summary's "ideal default". Nothing
    is annealed there.
    Cost: none beside the losses of training steps; 12 bytes a sample. How many are kept is random, so the host
    waits for the device.
    Does not pay: where more than half has to go; early, where N_i / E is a poor estimate of a frequency; a sample
    left out for many epochs comes back with a weight of up to E.

    Args:
        window_losses: (N,) floating point, at a sample's last training step: its loss minus its batch's mean.
        last_epochs: (N,) floating point, the epoch of that step, from 0; below 0 where there was none: kept.
        trained_epochs: (N,) N_i; taken into [1, E].
        epochs: E, epochs trained so far, at least 0.
        generator: of the draw.
        ratio: rho, in [0, 1).

    Returns:
        Indices (k,) int64 ascending, and weights (k,) float32.

    Raises:
        ValueError: `epochs` or `ratio` is out of range.
    """
    ratio = number("ratio", ratio, "[0, 1)")
    epochs = whole("epochs", epochs, 0)
    hard = (last_epochs >= epochs - 1) & (window_losses >= 0)
    drawn = random_numbers(window_losses.shape[0], generator, window_losses.device)
    kept = hard | (last_epochs < 0) | (drawn >= ratio)
    indices = kept.nonzero().flatten()
    most = float(max(1, epochs))
    times = trained_epochs[indices].to(torch.float32).nan_to_num(nan=1.0).clamp(1.0, most)
    return indices, torch.full_like(times, most) / times  # a number over a tensor is rounded twice


@dataclass(frozen=True)
class RePB:
    """`repb_subset` by what training left behind; `size` has no effect.

    Attributes:
        ratio: rho, in [0, 1).
    """

    dynamic: ClassVar[bool] = True
    budgeted: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({WINDOW_LOSS, LAST_EPOCH, TRAINED_EPOCHS})

    ratio: float = 0.5

    def __post_init__(self) -> None:
        interval("ratio", self.ratio, "[0, 1)")

    def select(
        self, signals: Signals, size: int, *, epoch: int, progress: float, generator: Generator
    ) -> Selection:
        """Leave out some of the easy samples, and take some back; see `Strategy.select`."""
        return Selection(
            *repb_subset(
                signals.score(WINDOW_LOSS),
                signals.score(LAST_EPOCH),
                signals.score(TRAINED_EPOCHS),
                epoch,
                generator,
                ratio=self.ratio,
            )
        )
