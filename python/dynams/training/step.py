"""One optimisation step: the loss at full width, and the proxy's with it when its turn comes.

Both widths go through one forward call, so that DistributedDataParallel sees one forward and one
backward. What each of them takes is measured from outside, see `dynams.training.step_clock`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn

from dynams.selection.methods.interface import BatchSelection
from dynams.training.network import Network
from dynams.training.optim import loss_function
from dynams.training.step_clock import StepClock


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


class TrainingStep:
    """Trains on one batch.

    Args:
        fabric: runs the backward pass.
        model: the network as set up by ``fabric``.
        network: the bare network inside ``model``.
        optimizer: the optimiser as set up by ``fabric``.
        clock: times the step.
        label_smoothing: of both losses.
        proxy_width: width of the proxy; None trains none.
        proxy_weight: weight of the proxy's loss.
        proxy_part: part of the batch that the proxy trains on; below 1 for one process only, since
            the proxy then has a forward call of its own.
        distill: the proxy's targets are the full width's outputs, detached.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        network: Network,
        optimizer: _FabricOptimizer,
        clock: StepClock,
        *,
        label_smoothing: float = 0.0,
        proxy_width: float | None = None,
        proxy_weight: float = 1.0,
        proxy_part: float = 1.0,
        distill: bool = False,
    ) -> None:
        self._fabric = fabric
        self._model = model
        self._network = network
        self._optimizer = optimizer
        self._clock = clock
        self._label_smoothing = label_smoothing
        self._width = proxy_width
        self._weight = proxy_weight
        self._part = proxy_part
        self._distill = distill

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
            choose: which of the images to train on; see `dynams.training.choosing`.
        """
        if proxy and self._width is None:
            raise ValueError("proxy: got True, want False: there is no proxy to train")
        if choose is not None:
            with self._clock.choice():
                choice = choose(images)
                kept = choice.indices
                images, labels = images[kept], labels[kept]
                weights = None if choice.weights is None else choice.weights[kept]
        part = min(len(labels), max(2, round(self._part * len(labels)))) if proxy else 0
        with self._clock.step(len(labels), part):
            logits, proxy_logits = self._forward(images, part)
            loss = loss_function(logits, labels, self._label_smoothing, weights)
            proxy_loss, total = None, loss
            if proxy_logits is not None:
                proxy_loss = self._proxy_loss(proxy_logits, logits, labels, weights)
                total = loss + self._weight * proxy_loss
            with self._clock.backward():
                self._fabric.backward(total if scale == 1.0 else total * scale)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return StepOutput(loss, proxy_loss, len(labels), part, logits.detach())

    def close(self) -> None:
        """Leave nothing on the network that timed it."""
        self._clock.close()

    def _forward(self, images: Tensor, part: int) -> tuple[Tensor, Tensor | None]:
        """Logits at full width, and of the first ``part`` images at the proxy's."""
        if part == 0:
            return self._model(images), None
        if part == len(images):
            logits, proxy_logits = self._model(images, width=(1.0, self._width))
            return logits, proxy_logits
        logits = self._model(images)
        with self._fabric.autocast():
            return logits, self._network(images[:part], self._width)

    def _proxy_loss(
        self, proxy_logits: Tensor, logits: Tensor, labels: Tensor, weights: Tensor | None
    ) -> Tensor:
        part = len(proxy_logits)
        weights = None if weights is None else weights[:part]
        if self._distill:
            targets = logits[:part].detach().float().softmax(1)
            return loss_function(proxy_logits, targets, 0.0, weights)
        return loss_function(proxy_logits, labels[:part], self._label_smoothing, weights)
