"""What a language model's head takes by itself: its loss and backward pass, of all tokens and of those kept, and its scores."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import language_model as lm
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import dynams_kernels as dk
from token_page import PRODUCT, SCORES, every, some
from token_training import wait


class Head:
    """Random hidden states and a weight, in float32 as a training holds them."""

    def __init__(
        self,
        rows: int,
        width: int,
        vocabulary: int,
        device: torch.device,
        keep: float,
        autocast: torch.dtype | None,
    ) -> None:
        self.keep, self.device, self.autocast = keep, device, autocast
        self.hidden = torch.randn(rows, width, device=device, requires_grad=True)
        self.weight = torch.randn(vocabulary, width, device=device).mul_(0.02).requires_grad_()
        self.labels = torch.randint(vocabulary, (rows,), device=device)
        self.kept = torch.randperm(rows, device=device)[: lm.share(rows, keep)].sort().values

    def times(self, losses: dict[str, lm.HeadLoss]) -> tuple[dict[str, float], dict[str, str]]:
        """Milliseconds by name, and why others failed. A first call compiles, so the best of a few counts."""
        works: dict[str, Callable[[], object]] = {PRODUCT: self._product, SCORES: self._scores}
        for name, loss in losses.items():
            works[every(name)] = lambda loss=loss: self._learn(loss, None)
            works[some(name)] = lambda loss=loss: self._learn(loss, self.kept)
        found, failed = {}, {}
        for name, work in works.items():
            try:
                found[name] = min(
                    self._milliseconds(work) for _ in range(8 if self._on_gpu() else 2)
                )
            except Exception as error:
                traceback.print_exc()
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            self.hidden.grad = self.weight.grad = None
        return found, failed

    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def _milliseconds(self, work: Callable[[], object]) -> float:
        wait(self.device)
        begin = time.perf_counter()
        work()
        wait(self.device)
        return (time.perf_counter() - begin) * 1e3

    def _learn(self, loss: lm.HeadLoss, kept: Tensor | None) -> None:
        self.hidden.grad = self.weight.grad = None
        hidden, labels = self.hidden, self.labels
        if kept is not None:
            hidden, labels = hidden.index_select(0, kept), labels.index_select(0, kept)
        with self._precision():
            found = loss(hidden, self.weight, labels)
        found.backward()

    @torch.no_grad()
    def _scores(self) -> Tensor:
        with self._precision():
            found = dk.linear_scores(self.hidden, self.weight, ["loss"], labels=self.labels)
        return dk.smallest_k(-found["loss"], self.keep).indices

    @torch.no_grad()
    def _product(self) -> Tensor:
        with self._precision():
            return F.linear(self.hidden, self.weight)
