"""Which settings two runs differ in, as far as it matters."""

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
        "run.tensorboard",
        "run.report",
        "run.progress",
    }
)


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
