"""A short run that is thrown away: what it takes to compile and to warm up counts in no cell."""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import suppress

from dynams.data import ImageData
from dynams.training.config import TrainConfig
from dynams.training.entry import train
from dynams.training.errors import NonFiniteLossError
from dynams.training.interrupt import Interrupt


def rehearse(config: TrainConfig, data: ImageData, epochs: int, stop: Interrupt) -> None:
    """Train a little of what a cell will, so that all shapes of its steps come up.

    The warm-up leaves an epoch that selects, and a first layer that comes to rest does after one.

    Args:
        config: what the cell trains.
        data: its images.
        epochs: of the rehearsal.
        stop: asks to stop.
    """
    rests = config.optim.first_layer_epochs
    optim = dataclasses.replace(
        config.optim, epochs=epochs, first_layer_epochs=None if rests is None else min(rests, 1)
    )
    selection = dataclasses.replace(
        config.selection, warmup_epochs=min(config.selection.warmup_epochs, epochs - 1)
    )
    with tempfile.TemporaryDirectory() as folder, suppress(NonFiniteLossError):
        run = dataclasses.replace(config.run, dir=folder, name=None, progress=False)
        train(
            dataclasses.replace(config, optim=optim, selection=selection, run=run),
            data,
            interrupt=stop,
        )
