"""Sums of an epoch's losses, over steps and processes."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dynams.selection.precision import wide_dtype


class Sums:
    """Sums of an epoch's losses, kept on the device so that no step waits for it."""

    def __init__(self, device: torch.device) -> None:
        # Wide, which keeps long epochs exact.
        self._losses = torch.zeros(2, dtype=wide_dtype(device), device=device)
        # Views: an index in every step would be two more operations on the device.
        self._loss, self._proxy_loss = self._losses
        self.samples = 0
        self.proxy_samples = 0

    def clear(self) -> None:
        """Begin a new epoch."""
        self._losses.zero_()
        self.samples = self.proxy_samples = 0

    def add(
        self,
        loss: Tensor,
        proxy_loss: Tensor | None,
        samples: int,
        proxy_samples: int | None = None,
    ) -> None:
        """Add a step's mean losses over ``samples`` samples, the proxy's over as many unless told."""
        self._loss += loss.detach() * samples
        self.samples += samples
        if proxy_loss is not None:
            proxied = samples if proxy_samples is None else proxy_samples
            self._proxy_loss += proxy_loss.detach() * proxied
            self.proxy_samples += proxied

    def means(self, fabric: Fabric | None = None) -> tuple[float, float | None]:
        """Mean loss of both widths, over all processes with ``fabric``; waits for the device."""
        loss, proxy_loss, samples, proxy_samples = self._totals(fabric)
        return loss / max(samples, 1), proxy_loss / proxy_samples if proxy_samples else None

    def count(self, fabric: Fabric | None = None) -> int:
        """Count the samples trained on, over all processes with ``fabric``; of one nothing waits for the device."""
        if fabric is None or fabric.world_size == 1:
            return self.samples
        return int(self._totals(fabric)[2])

    def state_dict(self, fabric: Fabric | None = None) -> dict[str, Any]:
        """Return the sums, over all processes with ``fabric``, for a checkpoint within an epoch."""
        loss, proxy_loss, samples, proxy_samples = self._totals(fabric)
        return {
            "losses": [loss, proxy_loss],
            "samples": int(samples),
            "proxy_samples": int(proxy_samples),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._losses.copy_(torch.tensor(state["losses"], dtype=self._losses.dtype, device="cpu"))
        self.samples = state["samples"]
        self.proxy_samples = state["proxy_samples"]

    def _totals(self, fabric: Fabric | None) -> list[float]:
        counts = torch.tensor([self.samples, self.proxy_samples], device="cpu")
        totals = torch.cat([self._losses, counts.to(self._losses)])
        if fabric is not None and fabric.world_size > 1:
            totals = fabric.all_reduce(totals, reduce_op="sum")  # type: ignore[assignment]
        return totals.tolist()
