"""One training of bench/token_selection.py: a model that learns on the tokens of one choice, for seconds that are counted, its steps taken apart."""

from __future__ import annotations

import statistics
import time
from typing import Any

import language_model as lm
import text_batches
import torch
from torch import nn

RATE, WARM_UP = 1e-3, 0.1


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Parts:
    """When the parts of steps ended, on the device's own clock: no step waits for another."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str | None, Any]] = []

    def done(self, part: str | None) -> None:
        """A part (None: what lies between two steps) ends here."""
        mark: Any = time.perf_counter()
        if self._on_gpu:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self._marks.append((part, mark))

    def milliseconds(self) -> dict[str, float]:
        """Median time of each part, and the longest step's time."""
        times: dict[str, list[float]] = {}
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            if part is not None:
                took = before.elapsed_time(after) if self._on_gpu else (after - before) * 1e3
                times.setdefault(part, []).append(took)
        steps = [sum(step) for step in zip(*times.values(), strict=True)]
        found = {part: statistics.median(all_times) for part, all_times in times.items()}
        return found | {"longest step": max(steps)}


class Training:
    """A model that learns on the tokens that `choose` keeps, and the seconds it has had."""

    def __init__(
        self,
        model: nn.Module,
        choose: lm.Choice,
        loss: lm.HeadLoss,
        data: text_batches.Batch,
        size: int,
        seconds: float,
        *,
        seed: int = 0,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.device = next(model.parameters()).device
        self.model, self.choose, self.loss, self.autocast = model, choose, loss, autocast
        fused = self.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.95), fused=fused)
        self.source = text_batches.batches(data, size, seed, self.device)
        self.parts = Parts(self.device)
        self.limit, self.seconds, self.steps, self.tokens = seconds, 0.0, 0, 0
        self.held_out: list[dict[str, float]] = []

    def step(self) -> None:
        """One step, at a rate that rises and falls with the time used."""
        used = self.seconds / self.limit
        rate = RATE * max(0.05, min(1.0, (used + 0.01) / WARM_UP, (1 - used) / (1 - WARM_UP)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = next(self.source)
        self.parts.done(None)
        lm.training_step(
            self.model,
            self.optimiser,
            batch,
            self.choose,
            self.loss,
            self.autocast,
            self.parts.done,
        )
        self.steps += 1
        self.tokens += sum(batch.valid)

    def until(self, seconds: float) -> None:
        """Trains until so many seconds are used in all; the device is waited for after a few steps together."""
        block = 1
        while self.seconds < seconds:
            wait(self.device)
            begin = time.perf_counter()
            for _ in range(block):
                self.step()
            wait(self.device)
            took = time.perf_counter() - begin
            self.seconds += took
            block = max(1, min(10, int((seconds - self.seconds) / (took / block))))
