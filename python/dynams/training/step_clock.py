"""What a training step's time went to: measured by hooks, so that the step itself is arithmetic alone.

Both widths go through one forward call, the full one first: when its logits come the proxy's forward
begins, when the proxy's come that ends. The proxy's backward pass begins with the whole one, and is
over when the gradient reaches the full width's logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynams.cost.clock import Clock
from dynams.slimmable import SlimmableNetwork
from dynams.training.network import Network


class StepClock:
    """Times training steps, and the proxy's part in them.

    Args:
        clock: where the time is counted.
        network: whose proxy's part is to be measured; None: there is no proxy, or ``share`` stands
            for it.
        share: the proxy's share of a step with it, where it cannot be measured because the network
            is compiled (see `proxy_flop_share`).
    """

    def __init__(
        self, clock: Clock, network: SlimmableNetwork | None = None, *, share: float | None = None
    ) -> None:
        self._clock = clock
        self._share = share
        self._watching = False
        self._hook = None
        if network is not None and share is None:
            self._hook = network.register_logits_hook(self._logits_came)

    def close(self) -> None:
        """Take the hook off the network."""
        if self._hook is not None:
            self._hook.remove()

    def choice(self) -> AbstractContextManager[None]:
        """Count the block as scoring: what is trained on is chosen, and taken out of the batch."""
        return self._clock.measure("scoring")

    @contextmanager
    def step(self, samples: int, proxied: int) -> Iterator[None]:
        """Count the block as training on ``samples`` samples, ``proxied`` of which train the proxy too."""
        shares = {"proxy loss": self._share} if proxied and self._share else None
        with self._clock.measure("training", samples, of_which=shares):
            self._clock.count("proxy loss", proxied)
            self._watching = proxied > 0 and self._hook is not None
            try:
                yield
            finally:
                self._watching = False

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Mark the block, inside a step's, as its backward pass."""
        if self._watching:
            self._clock.switch("proxy loss")
        yield
        self._watching = False

    def _logits_came(self, width: float, logits: Tensor) -> None:
        if not self._watching:
            return
        if width == 1.0:
            logits.register_hook(self._proxy_backward_done)  # type: ignore[no-untyped-call]
            self._clock.switch("proxy loss")
        else:
            self._clock.switch("training")

    def _proxy_backward_done(self, gradient: Tensor) -> None:
        self._clock.switch("training")


def proxy_flop_share(network: Network, images: Tensor, width: float) -> float:
    """Compute the share of a joint step's multiplications that the proxy has, from a forward with it and one without.

    Args:
        network: the network; its state is left as it is.
        images: (B, C, H, W), any batch.
        width: the proxy's width.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            joint, full = (_flops(network, images, each) for each in ((1.0, width), 1.0))
    finally:
        network.train(was_training)
    return (joint - full) / joint


def _flops(network: Network, images: Tensor, width: float | tuple[float, ...]) -> int:
    with FlopCounterMode(display=False) as counter:
        network(images, width)
    return int(counter.get_total_flops())
