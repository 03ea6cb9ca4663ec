"""One optimisation step: the loss at full width, and the proxy's with it when its turn comes.

Both widths go through one forward call, so that DistributedDataParallel sees one forward and one
backward. What the proxy costs is measured inside that call: the head runs once for each width, the
full one first, and the backward pass reaches the full width's logits when it is done with the
proxy.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dynams.training.cost import Cost
from dynams.training.frozen import Slimmable
from dynams.training.optim import loss_function


class Sums:
    """Sums of an epoch's losses, kept on the device so that no step waits for it."""

    def __init__(self, device: torch.device) -> None:
        # MPS has no float64; elsewhere it keeps long epochs exact.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._losses = torch.zeros(2, dtype=dtype, device=device)
        self.samples = 0
        self.proxy_samples = 0

    def clear(self) -> None:
        """Begin a new epoch."""
        self._losses.zero_()
        self.samples = self.proxy_samples = 0

    def add(self, loss: Tensor, proxy_loss: Tensor | None, samples: int) -> None:
        """Add a step's mean losses over ``samples`` samples."""
        self._losses[0] += loss.detach() * samples
        self.samples += samples
        if proxy_loss is not None:
            self._losses[1] += proxy_loss.detach() * samples
            self.proxy_samples += samples

    def means(self, fabric: Fabric | None = None) -> tuple[float, float | None]:
        """Mean loss of both widths, over all processes with ``fabric``; waits for the device."""
        loss, proxy_loss, samples, proxy_samples = self._totals(fabric)
        return loss / max(samples, 1), proxy_loss / proxy_samples if proxy_samples else None

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
        self._losses.copy_(torch.tensor(state["losses"], dtype=self._losses.dtype))
        self.samples = state["samples"]
        self.proxy_samples = state["proxy_samples"]

    def _totals(self, fabric: Fabric | None) -> list[float]:
        counts = torch.tensor([self.samples, self.proxy_samples])
        totals = torch.cat([self._losses, counts.to(self._losses)])
        if fabric is not None and fabric.world_size > 1:
            totals = fabric.all_reduce(totals, reduce_op="sum")  # type: ignore[assignment]
        return totals.tolist()


class Step:
    """Trains on one batch.

    Args:
        fabric: runs the backward pass.
        model: the network as set up by ``fabric``.
        module: the bare network inside ``model``.
        optimizer: the optimiser as set up by ``fabric``.
        cost: where the time is counted.
        label_smoothing: of both losses.
        proxy_width: width of the proxy; None trains none.
        proxy_weight: weight of the proxy's loss.
        proxy_share: the proxy's share of a joint step's time, where it cannot be measured because
            the network is compiled (see `proxy_flop_share`); None measures it.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        module: Slimmable,
        optimizer: _FabricOptimizer,
        cost: Cost,
        *,
        label_smoothing: float = 0.0,
        proxy_width: float | None = None,
        proxy_weight: float = 1.0,
        proxy_share: float | None = None,
    ) -> None:
        self._fabric = fabric
        self._model = model
        self._optimizer = optimizer
        self._cost = cost
        self._label_smoothing = label_smoothing
        self._width = proxy_width
        self._weight = proxy_weight
        self._proxy_share = proxy_share
        self._joint = False
        self._heads = 0
        if proxy_width is not None and proxy_share is None:
            module.head.register_forward_hook(self._head_done)

    def __call__(
        self, images: Tensor, labels: Tensor, *, proxy: bool, scale: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """Take one optimiser step.

        Args:
            images: (B, C, H, W) floating point.
            labels: (B,) int64.
            proxy: train the proxy in this step too.
            scale: factor of the whole loss: evens out unequal shares of several processes.

        Returns:
            The mean losses of this batch at full width and, if trained, at the proxy's width, both
            0-dimensional and still on the device.
        """
        if proxy and self._width is None:
            raise ValueError("proxy: there is no proxy to train, got True")
        shares = {"proxy loss": self._proxy_share} if proxy and self._proxy_share else None
        with self._cost.measure("training", len(labels), of_which=shares):
            if proxy:
                self._cost.count("proxy loss", len(labels))
            self._joint, self._heads = proxy and self._proxy_share is None, 0
            proxy_loss: Tensor | None = None
            if proxy:
                logits, proxy_logits = self._model(images, width=(1.0, self._width))
                loss = loss_function(logits, labels, self._label_smoothing)
                proxy_loss = loss_function(proxy_logits, labels, self._label_smoothing)
                total = loss + self._weight * proxy_loss
            else:
                loss = loss_function(self._model(images), labels, self._label_smoothing)
                total = loss
            if self._joint:
                self._cost.switch("proxy loss")
            self._fabric.backward(total if scale == 1.0 else total * scale)
            self._joint = False
            self._optimizer.step()
            self._optimizer.zero_grad()
        return loss, proxy_loss

    def _head_done(self, head: nn.Module, args: object, logits: Tensor) -> None:
        if not self._joint:
            return
        self._heads += 1
        if self._heads == 1:
            cast(Any, logits).register_hook(self._proxy_backward_done)
            self._cost.switch("proxy loss")
        else:
            self._cost.switch("training")

    def _proxy_backward_done(self, gradient: Tensor) -> None:
        self._cost.switch("training")


def proxy_flop_share(module: Slimmable, images: Tensor, width: float) -> float:
    """Compute the share of a joint step's multiplications that the proxy has, from one forward of each.

    Args:
        module: the network; its state is left as it is.
        images: (B, C, H, W), any batch.
        width: the proxy's width.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            flops = [_flops(module, images, each) for each in (1.0, width)]
    finally:
        module.train(was_training)
    return flops[1] / sum(flops)


def _flops(module: Slimmable, images: Tensor, width: float) -> int:
    with FlopCounterMode(display=False) as counter:
        module(images, width)
    return int(counter.get_total_flops())
