"""What a run's log says of a refresh, and the pictures its report shows of the margins."""

from __future__ import annotations

import torch
from torch import Tensor

from dynams.report import RefreshRecord, SamplePictures
from dynams.selection import Refresh
from dynams.training.batches import Batches

_QUANTILES = 21
_BINS = 40


def refresh_record(refresh: Refresh, batches: Batches) -> RefreshRecord:
    """Summarise a refresh on the host.

    Args:
        refresh: what the sampler selected.
        batches: the candidates, for their classes.
    """
    labels = batches.labels.cpu()[refresh.indices.cpu()]
    margins = refresh.margins.cpu()
    finite = margins[margins.isfinite()].double()
    edges, counts = _histogram(finite)
    return RefreshRecord(
        epoch=refresh.epoch,
        selected=len(refresh.indices),
        threshold=refresh.threshold,
        overlap=refresh.overlap,
        quantiles=_quantiles(finite),
        histogram_edges=edges,
        histogram_counts=counts,
        class_counts=torch.bincount(labels, minlength=len(batches.classes)).tolist(),
    )


def sample_pictures(margins: Tensor, batches: Batches, count: int = 16) -> SamplePictures | None:
    """Pick the samples closest to and farthest from the decision boundary.

    Args:
        margins: (N,) of all samples; those without a finite margin are left out.
        batches: the samples.
        count: how many of each kind at most.

    Returns:
        None if no margin is finite, or the samples are no pictures.
    """
    margins = margins.detach().cpu()
    scored = margins.isfinite().nonzero().flatten()
    order = scored[margins[scored].argsort(stable=True)]
    if not len(order):
        return None
    closest, farthest = order[:count], order.flip(0)[:count]
    near, far = batches.pictures(closest), batches.pictures(farthest)
    if near is None or far is None:
        return None
    labels = batches.labels.cpu()
    return SamplePictures(
        closest=near,
        closest_margins=margins[closest],
        closest_labels=labels[closest],
        farthest=far,
        farthest_margins=margins[farthest],
        farthest_labels=labels[farthest],
        classes=batches.classes,
    )


def _quantiles(values: Tensor) -> list[float]:
    """21 quantiles by linear interpolation; `torch.quantile` stops at 16 million values."""
    if not len(values):
        return []
    ordered = values.sort().values
    places = torch.linspace(
        0, len(values) - 1, _QUANTILES, dtype=torch.float64, device=values.device
    )
    below = places.floor().long()
    above = places.ceil().long()
    return torch.lerp(ordered[below], ordered[above], places - below).tolist()


def _histogram(values: Tensor) -> tuple[list[float], list[int]]:
    if not len(values):
        return [], []
    counts, edges = torch.histogram(values, bins=_BINS)
    return edges.tolist(), [int(count) for count in counts.tolist()]
