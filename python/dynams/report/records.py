"""What a run leaves behind, as plain frozen dataclasses: a record an epoch, a refresh, a run.

The trainer makes them, ``runlog`` writes and reads them, ``console`` and ``html`` show them.
Nothing here imports torch, so a log can be read anywhere. Accuracies, budgets, overlaps and widths
are fractions in [0, 1]; times are wall-clock seconds; epochs count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch of training.

    Attributes:
        epoch: number of the epoch, from 0.
        loss: mean training loss at full width over the epoch's samples (NaN if it diverged).
        proxy_loss: mean training loss at the proxy's width; None if the proxy was not trained.
        lr: learning rate at the end of the epoch.
        budget: fraction of the training set that this epoch was to train on (1 in the warm-up).
        samples: training samples used in the epoch.
        steps: optimiser steps taken in the epoch.
        accuracy: test accuracy at full width; None if the epoch ended without an evaluation.
        proxy_accuracy: test accuracy at the proxy's width; None if not evaluated.
        seconds: wall-clock seconds of this epoch by purpose (``training``, ``scoring``, ...).
    """

    epoch: int
    loss: float
    proxy_loss: float | None
    lr: float
    budget: float
    samples: int
    steps: int
    accuracy: float | None
    proxy_accuracy: float | None
    seconds: dict[str, float]


@dataclass(frozen=True)
class RefreshRecord:
    """One refresh: every sample scored, a new selection made.

    Attributes:
        epoch: the epoch that starts with this refresh, from 0.
        selected: size of the new selection.
        threshold: largest margin that was selected; NaN if nothing was scored (a random draw).
        overlap: share of the new selection that the previous one held too; None at the first
            refresh.
        quantiles: 21 values, the 0, 5, ..., 100 % quantiles of the finite margins of all samples
            (all NaN, or empty, when no margin was finite).
        histogram_edges: edges of the histogram of the finite margins, ascending.
        histogram_counts: samples in each bin; one fewer than the edges.
        class_counts: selected samples of each class.
    """

    epoch: int
    selected: int
    threshold: float
    overlap: float | None
    quantiles: list[float]
    histogram_edges: list[float]
    histogram_counts: list[int]
    class_counts: list[int]


@dataclass(frozen=True)
class Summary:
    """The end of a run, finished or interrupted.

    Attributes:
        accuracy: last test accuracy at full width.
        proxy_accuracy: last test accuracy at the proxy's width; None without a proxy.
        proxy_width: the proxy's width as a fraction of the full width; None without a proxy.
        epochs: epochs finished.
        samples: training samples used in all epochs together (a sample counts each time).
        steps: optimiser steps taken.
        seconds: wall-clock seconds of the whole run by purpose.
        total_seconds: wall-clock seconds of the run; what ``seconds`` does not explain is "other".
        completed: False if the run stopped before its last epoch.
        run_dir: directory of the run's files.
        failure: the error that ended the run; None if none did.
    """

    accuracy: float
    proxy_accuracy: float | None
    proxy_width: float | None
    epochs: int
    samples: int
    steps: int
    seconds: dict[str, float]
    total_seconds: float
    completed: bool
    run_dir: str
    failure: str | None = None


@dataclass(frozen=True)
class Run:
    """All that a run's log holds. ``summary`` is None when the run never reached its end."""

    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    epochs: list[EpochRecord] = field(default_factory=list)
    refreshes: list[RefreshRecord] = field(default_factory=list)
    summary: Summary | None = None


@dataclass(frozen=True, eq=False)
class SamplePictures:
    """The training samples closest to and farthest from the decision boundary, as pictures.

    Attributes:
        closest: images, uint8 (n, C, H, W), smallest margin first. C is 1 (grey) or 3 (RGB).
        closest_margins: (n,) their margins.
        closest_labels: (n,) int64, their classes.
        farthest: images, uint8 (m, C, H, W), largest margin first.
        farthest_margins: (m,) their margins.
        farthest_labels: (m,) int64, their classes.
        classes: names of the classes.

    Tensors may be on any device; they are copied to the host when the report is written.
    """

    closest: Tensor
    closest_margins: Tensor
    closest_labels: Tensor
    farthest: Tensor
    farthest_margins: Tensor
    farthest_labels: Tensor
    classes: tuple[str, ...]
