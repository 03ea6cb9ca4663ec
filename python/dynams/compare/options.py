"""The train options that a result depends on, and their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dynams.report.codec import to_plain
from dynams.training.changed_settings import MAY_CHANGE_ON_RESUME
from dynams.training.config import TrainConfig
from dynams.training.options import Options


def essential(config: TrainConfig) -> Options:
    """List the options that a result depends on: not where files are, nor what is shown."""
    return {
        f"{section}.{key}": to_plain(value)
        for section, values in config.to_dict().items()
        for key, value in values.items()
        if f"{section}.{key}" not in MAY_CHANGE_ON_RESUME
    }


def digest(options: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the options, in whatever order they come."""
    text = json.dumps(to_plain(options), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
