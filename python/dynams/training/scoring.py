"""Scoring: what a strategy wants to know of every candidate, by the proxy, as cheaply as the hardware allows.

The proxy is frozen once (see `dynams.training.frozen`) and reads the images once, in order, in large
batches, without gradients or augmentation. Where one margin is all that is wanted it comes from
`dynams_kernels.linear_margin`, which never stores logits; several scores come from one read of a
batch's logits. The head is computed in float32 also where the network runs in bfloat16: eight bits
would put whole crowds of samples at one margin, to be told apart by their index. Each process scores
its share; all get everything.

Memory: 4 bytes a sample and score; features and residuals 4 (D + C) bytes a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import dynams_kernels as dk
from dynams.data import ImageSet
from dynams.selection.strategies.base import Signals
from dynams.selection.strategies.difficulty import last_layer_gradient_norm
from dynams.selection.strategies.margin import MARGINS
from dynams.training.batches import Batches, share
from dynams.training.choosing import ROW_SCORES
from dynams.training.distributed import gather_shares
from dynams.training.frozen import Slimmable, frozen

_TENSORS = frozenset({"features", "residuals"})


def score_signals(
    fabric: Fabric,
    module: Slimmable,
    images: ImageSet,
    batches: Batches,
    needs: Iterable[str],
    *,
    width: float = 1.0,
    batch_size: int = 512,
    indices: Tensor | None = None,
    stop: Callable[[], bool] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Signals | None:
    """Compute what is wanted of ``images``.

    Args:
        fabric: gives precision, rank and number of processes.
        module: the network; its state is left as it is.
        images: the candidates.
        batches: makes float batches of them.
        needs: names of scores (all of `dynams_kernels.scores`, "distance", "grand"), "labels",
            "features" and "residuals".
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
    network = frozen(module, width, batches.reading_format)
    reader = _Reader(network.head, needs)
    total = len(images) if indices is None else len(indices)
    start, end = share(0, total, fabric.global_rank, fabric.world_size)
    longest = -(-total // fabric.world_size)
    known = reader.room(end - start, batches.device)
    done = 0
    with torch.inference_mode():
        for batch, labels in _read(batches, images, indices, start, end, batch_size):
            with fabric.autocast():
                features = network.features(batch)
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
    labels = images.labels if indices is None else images.labels[indices.to(images.labels.device)]
    return Signals(
        total,
        {name: values for name, values in whole.items() if name not in _TENSORS},
        labels.to(batches.device) if "labels" in needs else None,
        whole.get("features"),
        whole.get("residuals"),
        device=batches.device,
    )


def score_candidates(
    fabric: Fabric,
    module: Slimmable,
    images: ImageSet,
    batches: Batches,
    *,
    width: float = 1.0,
    kind: str = "gap",
    batch_size: int = 512,
    stop: Callable[[], bool] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Tensor | None:
    """Margins of all ``images``: `score_signals` for the one score ``kind``.

    Returns:
        (len(images),) float32 on the device, or None if ``stop`` said so.
    """
    known = score_signals(
        fabric,
        module,
        images,
        batches,
        {kind},
        width=width,
        batch_size=batch_size,
        stop=stop,
        advance=advance,
    )
    return None if known is None else known.score(kind)


def row_scores(logits: Tensor, labels: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Return scores (B,) float32 of a batch's logits (B, C), all from one read of them."""
    wanted = sorted(names)
    return dk.scores(logits, wanted, labels=labels) if wanted else {}


def _read(
    batches: Batches, images: ImageSet, indices: Tensor | None, start: int, end: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    if indices is None:
        return batches.plain(images, start, end, size)
    return batches.picked(images, indices[start:end], size)


class _Reader:
    """Features of a batch to what is wanted of it.

    Raises:
        ValueError: it is something that no network gives.
    """

    def __init__(self, head: nn.Module, needs: frozenset[str]) -> None:
        weight, bias = head.get_parameter("weight"), head.bias
        assert bias is None or isinstance(bias, Tensor)
        self._weight, self._bias = weight.float(), None if bias is None else bias.float()
        names = needs - {"labels"}
        if unknown := names - ROW_SCORES - _TENSORS - {"distance", "grand"}:
            raise ValueError(f"needs: no network gives {', '.join(sorted(unknown))}")
        rows = names & ROW_SCORES
        from_logits = names - {"distance"}
        # A lone margin needs no logits; two reads of the weight would cost more than the logits.
        self._linear = sorted(names & {"distance"})
        if len(from_logits) == 1 and from_logits <= set(MARGINS):
            self._linear += sorted(from_logits)
            rows, from_logits = frozenset(), frozenset()
        self._tensors = from_logits & _TENSORS
        self._grand = "grand" in from_logits
        self._rows = rows | ({"el2n"} if self._grand else set())
        self._names = names
        self._distances = dk.class_distances(self._weight) if "distance" in names else None

    def room(self, count: int, device: torch.device) -> dict[str, Tensor]:
        classes, width = self._weight.shape
        columns = {"features": (width,), "residuals": (classes,)}
        return {
            name: torch.empty((count, *columns.get(name, ())), device=device)
            for name in sorted(self._names)
        }

    def __call__(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        found = {
            kind: dk.linear_margin(
                features,
                self._weight,
                self._bias,
                kind=kind,
                labels=labels if kind == "label" else None,
                class_distances=self._distances if kind == "distance" else None,
            )
            for kind in self._linear
        }
        if self._rows or "residuals" in self._tensors:
            logits = nn.functional.linear(features, self._weight, self._bias)
            found |= row_scores(logits, labels, self._rows)
            if "residuals" in self._tensors:
                residuals = logits.softmax(1)
                residuals[torch.arange(len(labels), device=labels.device), labels] -= 1.0
                found["residuals"] = residuals
        if self._grand:
            norms = torch.linalg.vector_norm(features, dim=1)
            found["grand"] = last_layer_gradient_norm(found["el2n"], norms)
        if "features" in self._tensors:
            found["features"] = features
        return {name: values for name, values in found.items() if name in self._names}
