"""The kernels that could serve a linear head, each called by its name, whatever the table of choices says; held against float64 first.

A kernel of ours that no GPU has run may hang or poison the device. So every trial is in the ledger before it begins and once it
ended, in a suite of its own (SUITE); one in which a process ended is not tried again by a later process, nor by later tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from dynams_kernels._backends import linear_choice, registry
from dynams_kernels._kinds import kinds_of, mask_of
from gpu import device_guard, ledger

SUITE = ledger.CANDIDATES
# Rows held against float64: the first, the last and some between.
CHECKED_ROWS = 48
# Classes of the reference's product at a time: the weight of a language model's head is gigabytes in float64.
REFERENCE_CLASSES = 16_384
# Compiling for Triton takes seconds, everything else milliseconds: what takes so long hangs.
SECONDS_A_TRIAL = 25.0

Head = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # features, weight, bias, labels
Trial = Callable[[], AbstractContextManager[None]]


class WrongScoresError(Exception):
    """A candidate's scores are further from float64's than rounding explains."""


def operands(head: Head, kinds: Sequence[str]) -> tuple[Any, ...]:
    """The arguments of `Gpu.linear_scores`."""
    features, weight, bias, labels = head
    return (features, weight, bias, labels, None, [features.shape[1]], mask_of(kinds), False)


def layout(head: Head, kinds: Sequence[str]) -> tuple[Any, ...]:
    """The arguments that decide who can serve a head: features, weight, widths, kinds, pairs."""
    features, weight = head[:2]
    return (features, weight, [features.shape[1]], mask_of(kinds), False)


def able(head: Head, kinds: Sequence[str]) -> tuple[linear_choice.Candidate, ...]:
    """The candidates that can serve these operands on this device."""
    served = registry.gpu.serves(head[0].get_device())
    return served.linear_candidates(*layout(head, kinds))


def chosen(head: Head, kinds: Sequence[str]) -> str:
    """The candidate that the table chooses for these operands."""
    return registry.gpu.linear_choice(*layout(head, kinds))


def scores_by(name: linear_choice.Candidate, head: Head, kinds: Sequence[str]) -> Tensor:
    """Scores (kinds, B) by one candidate, in bit order."""
    found: Tensor = registry.gpu.linear_scores(*operands(head, kinds), by=name)[0]
    return found[:, 0]


def why_no_hopper() -> str:
    """Why the compiled kernels for Hopper cannot run on the current device; empty where they can."""
    return registry.gpu.why_not_native_linear(torch.cuda.current_device())


# ------------------------------------------------------------------------------------ right or wrong


def some_rows(batch: int) -> Tensor:
    """The rows that are checked, ascending."""
    picked = torch.linspace(0, batch - 1, min(batch, CHECKED_ROWS), dtype=torch.float64)
    return picked.round().long().unique()


def of_logits(logits: Tensor, kinds: Sequence[str], labels: Tensor | None) -> Tensor:
    """Scores (kinds, B) of float64 logits by their definitions."""
    log_softmax = logits.log_softmax(1)
    top = logits.topk(2, dim=1).values
    found = []
    for kind in kinds_of(mask_of(kinds)):
        if kind == "gap":
            found.append(top[:, 0] - top[:, 1])
        elif kind == "loss" and labels is not None:
            found.append(-log_softmax.gather(1, labels[:, None])[:, 0])
        elif kind == "entropy":
            found.append(-(log_softmax.exp() * log_softmax).sum(1))
        else:
            raise ValueError(f"kind: got {kind!r}, want gap, entropy, or loss with labels")
    return torch.stack(found)


def _exact(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    wide = features.double()
    parts = [linear(wide, some.double()) for some in weight.split(REFERENCE_CLASSES)]
    logits = torch.cat(parts, 1)
    return logits if bias is None else logits + bias.double()


class Reference:
    """What the scores of a head's checked rows are in float64, and how far torch's own product at the head's dtype is from it."""

    def __init__(self, head: Head, kinds: Sequence[str]) -> None:
        features, weight, bias, labels = head
        self._rows = some_rows(len(features)).to(features.device)
        picked, own = features[self._rows], None if labels is None else labels[self._rows]
        self._want = of_logits(_exact(picked, weight, bias), kinds, own)
        torchs = of_logits(linear(picked, weight, bias).double(), kinds, own)
        error = (torchs - self._want).abs().amax(1)
        size = self._want.abs().amax(1).clamp(min=1.0)
        # As the tests' own bound: slack, one rounding of a logit, the walk of a float32 sum.
        rounding = 0.5 * torch.finfo(features.dtype).eps + features.shape[1] ** 0.5 * 2**-23
        self._torchs, self._allowed = error, 1.5 * error + rounding * size
        self._kinds = kinds_of(mask_of(kinds))

    def check(self, scores: Tensor) -> None:
        """Raises WrongScoresError where a score of (kinds, B) is off by more than allowed, or NaN."""
        errors = (scores[:, self._rows].double() - self._want).abs().amax(1)
        for kind, error, allowed, torchs in zip(
            self._kinds, errors.tolist(), self._allowed.tolist(), self._torchs.tolist(), strict=True
        ):
            if not error <= allowed:
                raise WrongScoresError(
                    f"{kind} off by {error:.3g}, torch's own product by {torchs:.3g}"
                )


# ------------------------------------------------------------------------------------ trials


@contextmanager
def trial(
    config: pytest.Config, name: str, place: str, head: Head, kinds: Sequence[str], want: Reference
) -> Iterator[None]:
    """A candidate is checked, then prepared by the caller within; its outcome goes to the ledger, unless the device died of it."""
    what = ledger.trial(name, place)
    ledger.write({"suite": SUITE, "begin": what})
    try:
        with device_guard.limited(config, SECONDS_A_TRIAL):
            want.check(scores_by(name, head, kinds))
            yield
            torch.cuda.synchronize()
    except Exception as error:
        if not device_guard.device_is_dead():
            why = f"{type(error).__name__}: {error}"[:200]
            ledger.write({"suite": SUITE, "end": what, "outcome": "failed", "why": why})
        raise
    ledger.write({"suite": SUITE, "end": what, "outcome": "passed"})


def on_trial(
    config: pytest.Config, place: str, head: Head, kinds: Sequence[str]
) -> dict[str, tuple[Callable[..., Tensor], Trial]]:
    """Each candidate that can serve a head and is not known to be dead: its function of a head, and its trial."""
    want, dead = Reference(head, kinds), ledger.dead_candidates()

    def function(name: linear_choice.Candidate) -> Callable[..., Tensor]:
        return lambda *head: scores_by(name, head, kinds)

    return {
        name: (function(name), partial(trial, config, name, place, head, kinds, want))
        for name in able(head, kinds)
        if name not in dead
    }
