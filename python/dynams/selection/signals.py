"""What is known of the samples that a strategy chooses from.

The signals come from a scoring pass, from the training's own visits, or from a file. The module knows no
network: whoever computes a score puts it under its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynams.checks import at_least

VALIDATION = "validation."
# Scores by where they come from, those not named here being computed by a scoring pass: what the visits
# of training steps leave behind, and what has to be given.
LAST_LOSS = "last_loss"
LAST_EPOCH = "last_epoch"
FORGETTING = "forgetting"
TRAINED_EPOCHS = "trained_epochs"
WINDOW_LOSS = "window_loss"
ALIGNMENT = "alignment"
VISIT_SCORES: frozenset[str] = frozenset(
    {LAST_LOSS, LAST_EPOCH, TRAINED_EPOCHS, WINDOW_LOSS, ALIGNMENT, FORGETTING}
)
GIVEN_SCORES: frozenset[str] = frozenset({"memorisation", "irreducible_loss"})
# Signals of more than one number a sample.
TENSORS: tuple[str, ...] = ("labels", "features", "residuals")


@dataclass(frozen=True, eq=False)
class Signals:
    """What is known of `count` samples; only what a strategy's `needs` asked for has to be there.

    A last-layer gradient is g_i = (p_i - y_i) (x) [h_i, 1]: residuals and features stand for it, and
    it is never built.

    Attributes:
        count: how many samples; every tensor has as many rows.
        scores: name to (count,) floating point.
        labels: (count,) int64.
        features: (count, D) inputs h of the last layer.
        residuals: (count, C) softmax minus one-hot label.
        validation: the same of held-out samples; asked for as "validation.features" and so on.
        device: where all of it lives, and where the selection is wanted; None: where the first tensor
            is, the CPU without any.

    Raises:
        ValueError: a tensor has another number of rows or dimensions, or lives elsewhere.
        TypeError: something is no tensor, or scores are whole numbers.
    """

    count: int
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    features: Tensor | None = None
    residuals: Tensor | None = None
    validation: Signals | None = None
    device: torch.device | None = None

    def __post_init__(self) -> None:
        at_least("count", self.count, 0)
        device = self.device
        for name, tensor in self._tensors():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name}: got {type(tensor).__name__}, want a tensor")
            if name in self.scores and not tensor.is_floating_point():
                raise TypeError(f"{name}: got {tensor.dtype}, want a floating point tensor")
            columns = " any" if name in ("features", "residuals") else ""
            if tensor.dim() != 1 + bool(columns) or tensor.shape[0] != self.count:
                came = tuple(tensor.shape)
                raise ValueError(f"{name}: got shape {came}, want ({self.count},{columns})")
            # A device without an index, "cuda", is the current one: whichever the tensors are on.
            if device is None or (device.index is None and device.type == tensor.device.type):
                device = tensor.device
            if tensor.device != device:
                raise ValueError(f"{name}: got {tensor.device}, want {device} like the rest")
        object.__setattr__(self, "device", torch.device("cpu") if device is None else device)

    def score(self, name: str) -> Tensor:
        """Return the score `name`.

        Raises:
            ValueError: it is not there; the message lists those that are.
        """
        if name not in self.scores:
            raise ValueError(f"scores: got {', '.join(self.scores) or 'none'}, want {name}")
        return self.scores[name]

    def tensor(self, name: str) -> Tensor:
        """Return "labels", "features" or "residuals".

        Raises:
            ValueError: it is not there.
        """
        tensor: Tensor | None = getattr(self, name)
        if tensor is None:
            raise ValueError(f"{name}: got None, want them of all samples")
        return tensor

    def held_out(self) -> Signals:
        """Return the validation samples' signals.

        Raises:
            ValueError: there are none.
        """
        if self.validation is None:
            raise ValueError("validation: got None, want signals of held-out samples")
        return self.validation

    def missing(self, needs: Iterable[str]) -> list[str]:
        """Return those of `needs` that are not there, in alphabetical order."""
        there = {name for name, _ in self._tensors()}
        if self.validation is not None:
            there |= {VALIDATION + name for name, _ in self.validation._tensors()}
        return sorted(set(needs) - there)

    def subset(self, indices: Tensor) -> Signals:
        """Return the signals of some samples, in the order of `indices` (k,) int64."""

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[indices]

        return Signals(
            indices.shape[0],
            {name: score[indices] for name, score in self.scores.items()},
            pick(self.labels),
            pick(self.features),
            pick(self.residuals),
            self.validation,
            self.device,
        )

    def _tensors(self) -> Iterable[tuple[str, Tensor]]:
        yield from self.scores.items()
        for name in TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor
