"""AlignPrune: InfoBatch by how a sample's loss moved over the epochs, beside that of clean samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynams.checks import whole
from dynams.selection.methods.infobatch import InfoBatch
from dynams.selection.precision import wide_dtype
from dynams.selection.signals import ALIGNMENT, LAST_LOSS, Signals

# Of two points every correlation is 1 or -1.
_FEWEST = 3


@torch.no_grad()
def loss_alignment(trajectories: Tensor, reference: Tensor) -> Tensor:
    """Correlate each sample's losses over the epochs with a reference's: Pearson's coefficient, in [-1, 1].

    The dynamic alignment score DAS_i = rho(v_i, v_ref), v_i the losses of a sample in the last T epochs, v_ref the
    mean losses of a small clean reference. It knows no scale: a hard sample whose loss falls as the clean ones' do
    scores high, one whose label contradicts what is learnt scores low. Put in the place of the losses in
    `infobatch_subset`, with its weights: samples below the mean score are left out with probability r.

    Source: Qin et al. 2026 (Beyond Loss Values: Robust Dynamic Pruning via Loss Trajectory Alignment, CVPR 2026
    Findings, arXiv:2604.07306), formulas by a public summary of the paper, whose text was not at hand. Theirs is
    T = 10, a reference of 1 % of the data, and the loss in place of the score for the first T epochs.
    Cost: the losses of training steps; the loss of the reference once an epoch; 4 T bytes a sample, and O(N T)
    operations a refresh. Like InfoBatch's, the selection waits for the device.
    Does not pay: with clean labels, where it is InfoBatch by another score; without clean samples to spare; in runs
    too short for trajectories.

    Args:
        trajectories: (N, T) floating point, the oldest first; of a sample left out in an epoch, its loss as it was.
        reference: (T,) floating point; an epoch where it is not finite does not count.

    Returns:
        (N,) float32; NaN with fewer than three epochs, where a loss is not finite, and where one of the two
        never moved.

    Raises:
        ValueError: the shapes do not fit.
    """
    if trajectories.dim() != 2 or trajectories.shape[1:] != reference.shape:
        came = f"{tuple(trajectories.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"trajectories and reference: got shapes {came}, want (N, T) and (T,)")
    wide = wide_dtype(trajectories.device)
    known = reference.isfinite()
    count = known.sum()

    def centred(values: Tensor) -> Tensor:
        values = torch.where(known, values.to(wide), 0.0)
        return torch.where(known, values - values.sum(-1, keepdim=True) / count, 0.0)

    mine, theirs = centred(trajectories), centred(reference)
    norms = torch.linalg.vector_norm(mine, dim=1) * torch.linalg.vector_norm(theirs)
    aligned = ((mine @ theirs) / norms).clamp(-1.0, 1.0)
    return torch.where((count >= _FEWEST) & (norms > 0), aligned, torch.nan).float()


class LossTrajectories:
    """The last losses of every sample, and of the reference, at the last refreshes.

    At each refresh it is told where the losses stand, and gives the score "alignment" of `AlignPrune`.

    Args:
        num_samples: N.
        window: T, how many refreshes are remembered, at least 3; the authors' is 10.
        device: where it lives.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, num_samples: int, window: int = 10, device: torch.device | str = "cpu"
    ) -> None:
        shape = (whole("num_samples", num_samples, 0), whole("window", window, _FEWEST))
        self._losses = torch.full(shape, torch.nan, dtype=torch.float32, device=device)
        self._reference = torch.full(shape[1:], torch.nan, dtype=torch.float32, device=device)

    @torch.no_grad()
    def append(self, losses: Tensor, reference: Tensor) -> None:
        """Add an epoch, and forget the oldest.

        Args:
            losses: (N,) floating point, of each sample's last visit; inf where there was none.
            reference: (n,) floating point, n at least 1: losses of the clean samples now.

        Raises:
            ValueError: the losses are of another number of samples.
        """
        if losses.shape != self._losses.shape[:1]:
            raise ValueError(f"losses: got {tuple(losses.shape)}, want ({len(self._losses)},)")
        mean = reference.to(wide_dtype(reference.device)).mean()
        for kept, new in ((self._losses, losses), (self._reference, mean)):
            kept.copy_(torch.cat([kept[..., 1:], new.float().unsqueeze(-1)], -1))

    def scores(self) -> Tensor:
        """Return the score "alignment": `loss_alignment`, (N,) float32."""
        return loss_alignment(self._losses, self._reference)

    def tensors(self) -> dict[str, Tensor]:
        """Return all it knows, losses (N, T) and reference (T,): not copies."""
        return {"trajectories": self._losses, "reference": self._reference}


@dataclass(frozen=True)
class AlignPrune(InfoBatch):
    """`infobatch_subset` by `loss_alignment`; as long as there is none, by the last losses.

    Options are InfoBatch's, and so are the last epochs, which keep everything.
    """

    needs: ClassVar[frozenset[str]] = frozenset({ALIGNMENT, LAST_LOSS})

    def values(self, signals: Signals) -> Tensor:
        """Return the alignments (N,), or the losses while no sample has one."""
        aligned, losses = signals.score(ALIGNMENT), signals.score(LAST_LOSS)
        return torch.where(aligned.isfinite().any(), aligned, losses)
