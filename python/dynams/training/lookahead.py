"""Lookahead: slow weights that follow a network, which takes them every few steps.

Of M. Zhang et al., Lookahead Optimizer, NeurIPS 2019 (arXiv 1907.08610), in the form of cifar10-airbench
(K. Jordan 2024, arXiv 2404.00498): the slow weights follow more and more slowly as training goes on, batch-norm
statistics among them, and are what the network ends with.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dynams.checks import whole

_DECAY_A_STEP = 0.95


class Lookahead:
    """Keeps slow weights of a network.

    In a loop::

        lookahead = Lookahead(network, every=5)
        for step in range(steps):
            ...
            optimizer.step()
            lookahead.after_step(step + 1, (step + 1) / steps)

    Slow weights are kept of all trained parameters and of all floating-point buffers; they begin as these are
    now. Everything stays on their device, and nothing waits for it.

    Args:
        network: any module, on its device already.
        every: steps from one update to the next.

    Raises:
        ValueError: `every` is not positive.
    """

    def __init__(self, network: nn.Module, every: int) -> None:
        self.every = whole("every", every, 1)
        parameters = {
            name: each.detach() for name, each in network.named_parameters() if each.requires_grad
        }
        buffers = {name: each for name, each in network.named_buffers() if each.is_floating_point()}
        self._own = sorted(buffers)
        self._fast: dict[str, Tensor] = parameters | buffers
        self._slow = {name: each.clone() for name, each in self._fast.items()}

    def decay(self, progress: float) -> float:
        """Compute what the slow weights keep of themselves in an update: 0.95 ** every * progress ** 3."""
        return float(_DECAY_A_STEP**self.every * progress**3)

    @torch.no_grad()
    def after_step(self, steps: int, progress: float) -> None:
        """Update slow weights and network where it is due. Call it after every step of the optimiser.

        Args:
            steps: taken so far, this one included.
            progress: fraction of the training that is done, in (0, 1]; at 1 the network takes the slow weights.
        """
        slow, fast = list(self._slow.values()), list(self._fast.values())
        due = steps % self.every == 0
        if due:
            torch._foreach_lerp_(slow, fast, 1.0 - self.decay(progress))
        if due or progress >= 1.0:
            torch._foreach_copy_(fast, slow)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the slow weights by name."""
        return {name: each.clone() for name, each in self._slow.items()}

    def buffers(self) -> dict[str, Tensor]:
        """Return copies of those of buffers alone, which every process has for itself."""
        return {name: self._slow[name].clone() for name in self._own}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it is of another network.
        """
        shapes = {name: tuple(each.shape) for name, each in self._slow.items()}
        for name in sorted(state.keys() | shapes.keys()):
            got = tuple(state[name].shape) if name in state else None
            if got != shapes.get(name):
                raise ValueError(f"lookahead: got {name} of shape {got}, want {shapes.get(name)}")
        for name, each in self._slow.items():
            each.copy_(state[name])
