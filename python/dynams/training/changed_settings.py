"""Which settings two runs differ in, as far as it matters; which of them a resumed run may change, and what then changes."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from dynams.training.config import TrainConfig

# Settings that may differ when a run is resumed: where things are and what is shown, nothing that
# the result depends on beyond rounding.
MAY_CHANGE_ON_RESUME = frozenset(
    {
        "data.path",
        "data.storage",
        "data.cache",
        "data.workers",
        "run.name",
        "run.dir",
        "run.accelerator",
        "run.compile",
        "run.threads",
        "run.evaluate_every",
        "run.save_every",
        "run.save_every_steps",
        "run.timeout",
        "run.tensorboard",
        "run.report",
        "run.progress",
    }
)

# Settings that may differ too: the result is another one, but no less defined.
CHANGE_THE_REST = ("optim.epochs", "run.devices")


def changes_of_the_rest(began: TrainConfig, now: TrainConfig, epoch: int, step: int) -> list[str]:
    """Tell what a resumed run does otherwise from here on than the run that began, a line a setting.

    Args:
        began: its configuration.
        now: the one that it goes on with.
        epoch: in which it goes on, from 0.
        step: steps of that epoch already taken.
    """
    from dynams.training.optim import learning_rate  # torch: whoever asks only for names needs none

    told = []
    old, new = began.optim.epochs, now.optim.epochs
    if new != old:
        rates = [
            learning_rate(each.optim, min(1.0, epoch / each.optim.epochs)) for each in (began, now)
        ]
        place = f"epoch {epoch + 1}" + (f", step {step + 1}" if step else "")
        told.append(
            f"optim.epochs: {old} -> {new}: from {place} on, learning rate, budget, tail and the epochs that select "
            f"are those of a run of {new}; the learning rate goes on from {rates[1]:.3g}, not {rates[0]:.3g}"
        )
    old, new = began.run.devices, now.run.devices
    if new != old:
        told.append(
            f"run.devices: {old} -> {new}: the same samples in the same order and batches; augmentation is drawn, and "
            "batch-norms see what they see, in each process, so that weights come out otherwise"
        )
    return told


def changed_settings(
    old: TrainConfig, new: TrainConfig, may_change: Collection[str] = MAY_CHANGE_ON_RESUME
) -> list[tuple[str, Any, Any]]:
    """List the settings that differ and matter to the result: (name, old value, new value)."""
    before, after = _flat(old), _flat(new)
    return [
        (name, before[name], after[name])
        for name in before
        if before[name] != after[name] and name not in may_change
    ]


def _flat(config: TrainConfig) -> dict[str, Any]:
    """Settings by dotted name; of options, those of the strategy in use; a path, wherever it was told."""
    flat = {
        f"{section}.{key}": value
        for section, values in config.to_dict().items()
        for key, value in values.items()
    }
    flat["selection.options"] = config.selection.options.get(config.selection.strategy, {})
    if config.selection.scores is not None:
        flat["selection.scores"] = os.path.abspath(config.selection.scores)
    return flat
