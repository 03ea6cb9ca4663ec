"""Scoring: what a strategy wants to know of every candidate, by the proxy, as cheaply as the hardware allows.

The proxy is frozen once (see `dynams.training.network`) and reads the images once, in order, in large
batches, without gradients or augmentation. Scores come from `dynams_kernels.linear_scores`, which never
stores logits; only residuals, which are as large, need them. The head is computed in float32 also where
the network runs in bfloat16: eight bits would put whole crowds of samples at one margin, to be told
apart by their index. Each process scores its share; all get everything.

Memory: 4 bytes a sample and score; features and residuals 4 (D + C) bytes a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast, get_args

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import dynams_kernels as dk
from dynams.selection.methods.difficulty import last_layer_gradient_norm
from dynams.selection.signals import Signals
from dynams.training.batches import Batches, share
from dynams.training.computing import autocast_dtype
from dynams.training.distributed import gather_shares
from dynams.training.network import Classifier, Network, evaluated
from dynams.training.own_network import FROM_FEATURES

_KINDS: tuple[dk.ScoreKind, ...] = get_args(dk.ScoreKind)
_TENSORS = frozenset({"features", "residuals"})


def score_signals(
    fabric: Fabric,
    network: Network,
    batches: Batches,
    needs: Iterable[str],
    *,
    width: float = 1.0,
    batch_size: int = 512,
    indices: Tensor | None = None,
    stop: Callable[[], bool] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Signals | None:
    """Compute what is wanted of the candidates.

    Args:
        fabric: gives precision, rank and number of processes.
        network: its state is left as it is.
        batches: the candidates.
        needs: names of scores (all of `dynams_kernels.linear_scores`, "grand"), "labels", "features"
            and "residuals".
        width: width to score at.
        batch_size: candidates at a time.
        indices: (n,) int64, the candidates to score, in this order; None: all.
        stop: asked after each batch, equally often in every process and with the same answer
            there; True gives the scoring up.
        advance: told the number of candidates of each batch that is done.

    Returns:
        Signals of the candidates on the device, or None if ``stop`` said so.

    Raises:
        ValueError: something is wanted that no network gives.
    """
    needs = frozenset(needs)
    total = len(batches) if indices is None else len(indices)
    start, end = share(0, total, fabric.global_rank, fabric.world_size)
    longest = -(-total // fabric.world_size)
    done = 0
    with evaluated(network, width, batches.reading_format, autocast_dtype(fabric)) as scorer:
        reader = _Reader(scorer.head, needs, len(batches.classes))
        known = reader.room(end - start, batches.device)
        for batch, labels in _read(batches, indices, start, end, batch_size):
            with fabric.autocast():
                features = scorer.features(batch)
            for name, values in reader(features.float(), labels).items():
                known[name][done : done + len(labels)] = values
            done += len(labels)
            if advance is not None:
                advance(len(labels))
            if stop is not None and stop():
                return None
        # A share one sample shorter than the longest can have one batch less.
        missing = -(-longest // batch_size) - -(-(end - start) // batch_size)
        if stop is not None and any(stop() for _ in range(missing)):
            return None
    whole = {name: gather_shares(fabric, part, total) for name, part in known.items()}
    labels = batches.labels
    if indices is not None:
        labels = labels[indices.to(labels.device)]
    return Signals(
        total,
        {name: values for name, values in whole.items() if name not in _TENSORS},
        labels.to(batches.device) if "labels" in needs else None,
        whole.get("features"),
        whole.get("residuals"),
        device=batches.device,
    )


def row_scores(logits: Tensor, labels: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Return scores (B,) float32 of a batch's logits (B, C), all from one read of them."""
    return dk.scores(logits, _named(names), labels=labels)


@torch.no_grad()
def head_scores(
    head: Classifier | None, features: Tensor, labels: Tensor, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return scores (B,) float32 of a batch's features (B, D), whose logits by ``head`` are never stored.

    Without a head the features are the logits.
    """
    if head is None:
        return row_scores(features.float(), labels, names)
    weight, bias = _parameters(head)
    return dk.linear_scores(features.float(), weight, _named(names), bias, labels=labels)


def _named(names: Iterable[str]) -> list[dk.ScoreKind]:
    # The call that gets them refuses a name that it does not know.
    return cast(list[dk.ScoreKind], sorted(names))


def _parameters(head: Classifier) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer in float32."""
    return head.weight.float(), None if head.bias is None else head.bias.float()


def _read(
    batches: Batches, indices: Tensor | None, start: int, end: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    if indices is None:
        return batches.plain(start, end, size)
    return batches.picked(indices[start:end], size)


class _Reader:
    """Features of a batch, or its logits where there is no head, to what is wanted of it.

    Raises:
        ValueError: it is something that no network gives, or none without a head.
    """

    def __init__(self, head: Classifier | None, needs: frozenset[str], classes: int) -> None:
        self._names = needs - {"labels"}
        if unknown := self._names - _TENSORS - {*_KINDS, "grand"}:
            raise ValueError(f"needs: got {', '.join(sorted(unknown))}, want what a network gives")
        self._classes, self._weight, self._bias = classes, None, None
        if head is not None:
            self._weight, self._bias = _parameters(head)
        elif missing := self._names & FROM_FEATURES:
            raise ValueError(
                f"needs: got {', '.join(sorted(missing))}, want what logits give: the network has no head"
            )
        wanted = self._names | ({"el2n"} if "grand" in self._names else set())
        self._kinds = [kind for kind in _KINDS if kind in wanted]
        # Once, not in every batch: it takes C^2 D operations.
        self._distances = None
        if self._weight is not None and "distance" in wanted:
            self._distances = dk.class_distances(self._weight)

    def room(self, count: int, device: torch.device) -> dict[str, Tensor]:
        columns = {"residuals": (self._classes,)}
        if self._weight is not None:
            columns["features"] = (self._weight.shape[1],)
        return {
            name: torch.empty((count, *columns.get(name, ())), dtype=torch.float32, device=device)
            for name in sorted(self._names)
        }

    def __call__(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        weight, bias, distances = self._weight, self._bias, self._distances
        if weight is None or "residuals" in self._names:
            logits = features if weight is None else nn.functional.linear(features, weight, bias)
            found = dk.scores(logits, self._kinds, labels=labels, class_distances=distances)
            if "residuals" in self._names:
                residuals = logits.softmax(1)
                residuals[torch.arange(len(labels), device=labels.device), labels] -= 1.0
                found["residuals"] = residuals
        else:
            found = dk.linear_scores(
                features, weight, self._kinds, bias, labels=labels, class_distances=distances
            )
        if "grand" in self._names:
            norms = torch.linalg.vector_norm(features, dim=1)
            found["grand"] = last_layer_gradient_norm(found["el2n"], norms)
        if "features" in self._names:
            found["features"] = features
        return {name: values for name, values in found.items() if name in self._names}
