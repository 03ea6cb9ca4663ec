"""Where cells run: the device and the environment."""

from __future__ import annotations

from typing import Any

import torch

from dynams.training.config import RunConfig
from dynams.training.devices import resolve_device
from dynams.training.environment import environment


def device_of(run: RunConfig) -> torch.device:
    """Return the device that a run on one device trains on.

    Raises:
        ValueError: it is not there.
    """
    return resolve_device(run.accelerator)


def here(run: RunConfig) -> dict[str, Any]:
    """Describe what a run would run on, with the threads that it asks for, and whether it is compiled."""
    found = environment(device_of(run), 1)
    found["compile"] = run.compile
    if run.threads is not None:
        found["threads"] = run.threads
    return found
