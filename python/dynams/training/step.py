"""One optimisation step: the loss at full width, and the proxy's with it when its turn comes.

Both widths go through one forward call, so that DistributedDataParallel sees one forward and one
backward. What the proxy costs is measured inside that call: the head runs once for each width, the
full one first, and the backward pass reaches the full width's logits when it is done with the
proxy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dynams.selection.methods.interface import BatchSelection
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

    def add(
        self,
        loss: Tensor,
        proxy_loss: Tensor | None,
        samples: int,
        proxy_samples: int | None = None,
    ) -> None:
        """Add a step's mean losses over ``samples`` samples, the proxy's over as many unless told."""
        self._losses[0] += loss.detach() * samples
        self.samples += samples
        if proxy_loss is not None:
            proxied = samples if proxy_samples is None else proxy_samples
            self._losses[1] += proxy_loss.detach() * proxied
            self.proxy_samples += proxied

    def means(self, fabric: Fabric | None = None) -> tuple[float, float | None]:
        """Mean loss of both widths, over all processes with ``fabric``; waits for the device."""
        loss, proxy_loss, samples, proxy_samples = self._totals(fabric)
        return loss / max(samples, 1), proxy_loss / proxy_samples if proxy_samples else None

    def count(self, fabric: Fabric | None = None) -> int:
        """Count the samples trained on, over all processes with ``fabric``."""
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
        self._losses.copy_(torch.tensor(state["losses"], dtype=self._losses.dtype))
        self.samples = state["samples"]
        self.proxy_samples = state["proxy_samples"]

    def _totals(self, fabric: Fabric | None) -> list[float]:
        counts = torch.tensor([self.samples, self.proxy_samples])
        totals = torch.cat([self._losses, counts.to(self._losses)])
        if fabric is not None and fabric.world_size > 1:
            totals = fabric.all_reduce(totals, reduce_op="sum")  # type: ignore[assignment]
        return totals.tolist()


class StepOutput(NamedTuple):
    """What a step did.

    Attributes:
        loss: mean loss at full width, 0-dimensional, still on the device.
        proxy_loss: mean loss at the proxy's width; None if it was not trained.
        samples: samples trained on.
        proxy_samples: samples that trained the proxy.
        logits: (samples, C) of the full width, detached.
    """

    loss: Tensor
    proxy_loss: Tensor | None
    samples: int
    proxy_samples: int
    logits: Tensor


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
        proxy_part: part of the batch that the proxy trains on; below 1 for one process only, since
            the proxy then has a forward call of its own.
        distill: the proxy's targets are the full width's outputs, detached.
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
        proxy_part: float = 1.0,
        distill: bool = False,
        proxy_share: float | None = None,
    ) -> None:
        self._fabric = fabric
        self._model = model
        self._module = module
        self._optimizer = optimizer
        self._cost = cost
        self._label_smoothing = label_smoothing
        self._width = proxy_width
        self._weight = proxy_weight
        self._part = proxy_part
        self._distill = distill
        self._proxy_share = proxy_share
        self._joint = False
        self._heads = 0
        if proxy_width is not None and proxy_share is None:
            module.head.register_forward_hook(self._head_done)

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        proxy: bool,
        scale: float = 1.0,
        weights: Tensor | None = None,
        choose: Callable[[Tensor], BatchSelection] | None = None,
    ) -> StepOutput:
        """Take one optimiser step.

        Args:
            images: (B, C, H, W) floating point.
            labels: (B,) int64.
            proxy: train the proxy in this step too.
            scale: factor of the whole loss: evens out unequal shares of several processes.
            weights: (B,) of the samples' losses; None: all 1.
            choose: from the features (B, D) of a first look at the batch, which of it to train on. The
                look is a forward pass in evaluation mode, so that batch-norms see only what is trained
                on; it counts as scoring.
        """
        if proxy and self._width is None:
            raise ValueError("proxy: there is no proxy to train, got True")
        if choose is not None:
            with self._cost.measure("scoring", len(labels)):
                choice = choose(self._look(images))
                kept = choice.indices
                images, labels = images[kept], labels[kept]
                weights = None if choice.weights is None else choice.weights[kept]
        shares = {"proxy loss": self._proxy_share} if proxy and self._proxy_share else None
        part = min(len(labels), max(2, round(self._part * len(labels)))) if proxy else 0
        with self._cost.measure("training", len(labels), of_which=shares):
            self._cost.count("proxy loss", part)
            self._joint, self._heads = proxy and self._proxy_share is None, 0
            proxy_loss: Tensor | None = None
            if proxy:
                logits, proxy_logits = self._both(images, part)
                loss = loss_function(logits, labels, self._label_smoothing, weights)
                proxy_loss = self._proxy_loss(proxy_logits, logits, labels, weights)
                total = loss + self._weight * proxy_loss
            else:
                logits = self._model(images)
                loss = loss_function(logits, labels, self._label_smoothing, weights)
                total = loss
            if self._joint:
                self._cost.switch("proxy loss")
            self._fabric.backward(total if scale == 1.0 else total * scale)
            self._joint = False
            self._optimizer.step()
            self._optimizer.zero_grad()
        return StepOutput(loss, proxy_loss, len(labels), part, logits.detach())

    def _both(self, images: Tensor, part: int) -> tuple[Tensor, Tensor]:
        """Logits at full width, and of the first ``part`` images at the proxy's."""
        if part == len(images):
            logits, proxy_logits = self._model(images, width=(1.0, self._width))
        else:
            logits = self._model(images)
            with self._fabric.autocast():
                proxy_logits = self._module(images[:part], self._width)
        return logits, proxy_logits

    def _proxy_loss(
        self, proxy_logits: Tensor, logits: Tensor, labels: Tensor, weights: Tensor | None
    ) -> Tensor:
        part = len(proxy_logits)
        weights = None if weights is None else weights[:part]
        if self._distill:
            targets = logits[:part].detach().float().softmax(1)
            return loss_function(proxy_logits, targets, 0.0, weights)
        return loss_function(proxy_logits, labels[:part], self._label_smoothing, weights)

    @torch.no_grad()
    def _look(self, images: Tensor) -> Tensor:
        self._module.eval()
        try:
            with self._fabric.autocast():
                features = self._module.features(images)
        finally:
            self._module.train()
        return features

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
