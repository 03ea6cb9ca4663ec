from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dynams.report import EpochRecord, RefreshRecord, Run, RunLog, Summary

SECONDS = {"training": 8.0, "proxy loss": 1.0, "scoring": 0.5, "selection": 0.125, "data": 0.25}


def an_epoch(epoch: int, **changes: object) -> EpochRecord:
    values = {
        "epoch": epoch,
        "loss": 2.0 / (epoch + 1),
        "proxy_loss": 2.5 / (epoch + 1),
        "lr": 0.1,
        "budget": 0.6,
        "samples": 600,
        "steps": 10,
        "accuracy": 0.5 + 0.01 * epoch,
        "proxy_accuracy": 0.45 + 0.01 * epoch,
        "seconds": dict(SECONDS),
    }
    return EpochRecord(**{**values, **changes})


def a_refresh(epoch: int, classes: int = 10, **changes: object) -> RefreshRecord:
    random = np.random.default_rng(epoch)
    margins = random.gamma(2.0, 1.0 + epoch, 1000)
    counts, edges = np.histogram(margins, bins=20)
    selected = random.integers(0, classes, 600)
    values = {
        "epoch": epoch,
        "selected": 600,
        "threshold": float(np.sort(margins)[599]),
        "overlap": None if epoch == 0 else 0.75,
        "quantiles": np.quantile(margins, np.linspace(0, 1, 21)).tolist(),
        "histogram_edges": edges.tolist(),
        "histogram_counts": counts.tolist(),
        "class_counts": np.bincount(selected, minlength=classes).tolist(),
    }
    return RefreshRecord(**{**values, **changes})


def a_summary(epochs: int, **changes: object) -> Summary:
    seconds = {name: value * epochs for name, value in SECONDS.items()}
    values = {
        "accuracy": 0.9131,
        "proxy_accuracy": 0.8852,
        "proxy_width": 0.5,
        "epochs": epochs,
        "samples": 600 * epochs,
        "steps": 10 * epochs,
        "seconds": seconds,
        "total_seconds": sum(seconds.values()) + 2.0,
        "completed": True,
        "run_dir": "runs/one",
    }
    return Summary(**{**values, **changes})


def a_run(epochs: int = 6, every: int = 2, classes: int = 10) -> Run:
    return Run(
        config={
            "model": {"name": "resnet8", "base_channels": None},
            "selection": {"strategy": "margin", "budget": 0.6},
            "optim": {"epochs": epochs, "lr": 0.1, "nesterov": True},
        },
        environment={"torch": "2.13.0", "backends": {"cpu": "native"}},
        epochs=[an_epoch(epoch) for epoch in range(epochs)],
        refreshes=[a_refresh(epoch, classes) for epoch in range(0, epochs, every)],
        summary=a_summary(epochs),
    )


def write_log(run_dir: Path, run: Run) -> None:
    """The log as the trainer writes it: start, a refresh before its epoch, the epochs, the end."""
    refreshes = {record.epoch: record for record in run.refreshes}
    with RunLog(run_dir, tensorboard=False) as log:
        log.start(run.config, run.environment)
        for record in run.epochs:
            if record.epoch in refreshes:
                log.refresh(refreshes[record.epoch])
            log.epoch(record)
        if run.summary is not None:
            log.end(run.summary)


@pytest.fixture
def epoch_record() -> Callable[..., EpochRecord]:
    return an_epoch


@pytest.fixture
def refresh_record() -> Callable[..., RefreshRecord]:
    return a_refresh


@pytest.fixture
def summary_record() -> Callable[..., Summary]:
    return a_summary


@pytest.fixture
def make_run() -> Callable[..., Run]:
    return a_run


@pytest.fixture
def save_log() -> Callable[[Path, Run], None]:
    return write_log


@pytest.fixture
def nan() -> float:
    return math.nan
