"""Scores of samples that a loader gives, by any network: what `SubsetSampler` wants from its `score`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

import dynams_kernels as dk
from dynams.checks import one_of
from dynams.selection.evaluating import evaluating, reached_by
from dynams.selection.exchange import scored_together
from dynams.selection.ranks import of_world
from dynams.selection.sampler_checks import check_int64
from dynams.selection.shares import RankShard

_LABELLED = frozenset({"label", "loss", "el2n"})


class ScoredBatches(Iterator[tuple[Tensor, Tensor]]):
    """The pairs of one pass over a loader, each made when it is asked for.

    Attributes:
        kind: of the scores; a sampler refuses those of another kind than it ranks by.
    """

    def __init__(
        self,
        kind: dk.ScoreKind,
        pairs: Iterator[tuple[Tensor, Tensor]],
        own: Iterator[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.kind = kind
        self._pairs = pairs
        self._own = own

    def of_this_rank(self) -> ScoredBatches:
        """Return the pairs of this rank's part alone: ranks score together all the same, and gather nothing.

        In place of iterating over this; all ranks do the same. A sharded sampler does so by itself.
        """
        return self if self._own is None else ScoredBatches(self.kind, self._own)

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Return the indices and scores of the next batch."""
        return next(self._pairs)


def score_batches(
    model: Callable[..., Tensor],
    loader: Iterable[Any],
    *,
    forward: Callable[[Any, Any], Tensor] | None = None,
    indices: Callable[[Any], tuple[Any, ...]] | None = None,
    width: float | None = None,
    kind: dk.ScoreKind = "gap",
    class_distances: Tensor | None = None,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
) -> ScoredBatches:
    """Score samples batch by batch.

    All networks that are called are in eval mode for each call, without gradients, and get their modes back
    after it; also those inside functions. One that is called in training mode, because it cannot be found from
    outside, is refused, but where torch.compile made any of what is called. Nothing makes the host wait.

        sampler = SubsetSampler(len(train_set), score=lambda: score_batches(model, scoring_loader))

    A loader whose sampler is a `RankShard` is scored by all ranks together: each scores its part, by the
    batch-norm statistics of rank 0 for that time (parameters are taken to be the same everywhere), and all get the
    same scores of all samples, bit for bit, on the CPU; where batches are cut otherwise than in one process, last
    bits may differ from its. They meet when the first pair is asked for. A DistributedDataParallel does not wait for other ranks
    meanwhile; another network that does so in its forward (FSDP) needs as many batches on each.

    Args:
        model: a network, or a function around one, from inputs to logits (B, C).
        loader: a `DataLoader`, or any iterable of batches. A batch is the inputs, or a tuple that begins with
            them and goes on with labels. Samples are numbered in the order in which they come, so a loader
            that shuffles, gives them in any other order that can be told beforehand, or leaves some out is
            refused unless `indices` is given.
        forward: called as `forward(model, inputs)` for the logits, in place of `model(inputs)`.
        indices: called with each batch; gives the samples' indices (B,) int64 and the inputs, and labels
            after them if there are any.
        width: of a slimmable network: `model(inputs, width=width)`.
        kind: of margin, or another score of `dynams_kernels.scores`: the one that the sampler's strategy ranks
            by. "label", "loss" and "el2n" need labels.
        class_distances: (C, C), for "distance": `dynams_kernels.class_distances` of the head's weight.
        device: where the inputs go before they are scored; None: where the network's parameters are.
        autocast: dtype of autocast while the network runs, such as torch.bfloat16; None: as the caller has it.

    Returns:
        An iterator of the batches' indices (B,) int64 and scores (B,), float32 (float64 of float64 logits),
        with the kind of score as its `kind`.

    Raises:
        ValueError: an argument, the loader's order, or what the network gave does not fit; a network in
            training mode is called that cannot be found; or ranks score together and differ in the loader's
            samples, the kind or the network.
        RuntimeError: ranks score together and another one failed.
        TypeError: `model` cannot be called, or the network gave no tensor.
    """
    one_of("kind", kind, get_args(dk.ScoreKind))
    if not callable(model):
        raise TypeError(f"model: got {type(model).__name__}, want a network or a function")
    if forward is not None and width is not None:
        raise ValueError(f"width: got {width!r} beside forward, want one of the two")
    _check_arguments(loader, forward, indices, device, autocast)
    total = _checked_order(loader) if indices is None else None
    shard = _shard(loader)
    if shard is not None and shard.world not in (1, of_world()):
        raise ValueError(
            f"world: got {shard.world}, want {of_world()}, as many ranks as the default process group has"
        )
    call = _call(model, forward, width)
    networks, compiled = reached_by(model, forward)
    if device is None:
        device = _device_of([model] if isinstance(model, nn.Module) else networks)

    def scored() -> Iterator[tuple[Tensor, Tensor]]:
        first = 0 if shard is None else shard.part.start
        done = 0
        for batch in loader:
            given, inputs, labels = _parts(batch, indices)
            inputs = _moved(inputs, device)
            # Outside the block that yields: modes set around a yield would leak into the caller's code.
            with torch.no_grad(), evaluating(networks, watch=not compiled):
                with _autocast(device, autocast):
                    logits = call(inputs)
                scores = _scores(logits, inputs, labels, kind, class_distances)
            if given is None:
                given = torch.arange(first + done, first + done + len(scores), device="cpu")
                done += len(scores)
            elif given.shape != scores.shape:
                raise ValueError(
                    f"indices: got shape {tuple(given.shape)} for {len(scores)} rows of logits, want one each"
                )
            yield given, scores
        if total is not None and done < total:
            raise ValueError(
                f"loader: got {done} samples, want all {total}, or indices=... that tells which they are"
            )

    def scored_by_all(of: RankShard, gather: bool) -> Iterator[tuple[Tensor, Tensor]]:
        facts = {"num_samples": of.num_samples, "kind": kind, "whether scores are gathered": gather}
        yield from scored_together(networks, facts, scored, gather=gather)

    if shard is None or shard.world == 1:
        return ScoredBatches(kind, scored())
    return ScoredBatches(kind, scored_by_all(shard, True), scored_by_all(shard, False))


def _call(
    model: Callable[..., Tensor], forward: Callable[[Any, Any], Tensor] | None, width: float | None
) -> Callable[[Any], Tensor]:
    if forward is not None:
        return lambda inputs: forward(model, inputs)
    if width is not None:
        return lambda inputs: model(inputs, width=width)
    return model


def _check_arguments(
    loader: object, forward: object, indices: object, device: object, autocast: object
) -> None:
    if not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise TypeError(f"loader: got {type(loader).__name__}, want a DataLoader or batches")
    for name, function in (("forward", forward), ("indices", indices)):
        if function is not None and not callable(function):
            raise TypeError(f"{name}: got {function!r}, want a function or None")
    if autocast is not None and not isinstance(autocast, torch.dtype):
        raise TypeError(f"autocast: got {autocast!r}, want a dtype, such as torch.bfloat16")
    if device is not None:
        try:
            torch.device(device)  # type: ignore[call-overload]
        except (RuntimeError, TypeError):
            raise ValueError(f"device: got {device!r}, want a device, such as 'cuda'") from None


def _checked_order(loader: object) -> int | None:
    """Refuse a loader whose batches do not hold all samples in order; count them, where that can be told."""
    if not isinstance(loader, DataLoader):
        return None
    if not getattr(loader, "in_order", True):
        raise ValueError("loader: got in_order=False, want batches in order, or indices=...")
    if isinstance(loader.dataset, IterableDataset):
        if loader.num_workers > 1:
            raise ValueError(
                f"loader: got an IterableDataset in {loader.num_workers} workers, want at most one, or "
                "indices=... that tells which samples they give"
            )
        return None
    batches: Any = loader.batch_sampler
    drawn_by = _drawn_by(loader)
    if type(drawn_by) not in (SequentialSampler, RankShard) or type(batches) not in (
        BatchSampler,
        type(None),
    ):
        source = drawn_by if type(batches) in (BatchSampler, type(None)) else batches
        raise ValueError(
            f"loader: got samples in the order of a {type(source).__name__}, want shuffle=False, or "
            "indices=... that tells which they are"
        )
    sizes = {len(drawn_by)}
    if isinstance(drawn_by, RankShard):
        sizes = _part_sizes(drawn_by, loader)
    left = (
        max(size % batches.batch_size for size in sizes)
        if batches is not None and batches.drop_last
        else 0
    )
    if left:
        raise ValueError(f"loader: got drop_last=True, want the last {left} samples too")
    # Without a batch sampler the data set gives batches, of any size.
    return None if batches is None else len(drawn_by)


def _drawn_by(loader: DataLoader[Any]) -> Any:
    batches = loader.batch_sampler
    return loader.sampler if batches is None else getattr(batches, "sampler", None)


def _shard(loader: object) -> RankShard | None:
    drawn_by = _drawn_by(loader) if isinstance(loader, DataLoader) else None
    return drawn_by if isinstance(drawn_by, RankShard) else None


def _part_sizes(shard: RankShard, loader: DataLoader[Any]) -> set[int]:
    """How large the ranks' parts of a loader's samples are: what is refused is refused on all ranks."""
    if loader.batch_sampler is None:
        raise ValueError("loader: got batch_size=None with a RankShard, want a batch_size")
    data_set: Any = loader.dataset
    if hasattr(data_set, "__len__") and len(data_set) != shard.num_samples:
        raise ValueError(
            f"num_samples: got {shard.num_samples}, want {len(data_set)}, the samples of the loader's data set"
        )
    return {shard.num_samples // shard.world, -(-shard.num_samples // shard.world)}


def _parts(
    batch: Any, indices: Callable[[Any], tuple[Any, ...]] | None
) -> tuple[Tensor | None, Any, Any]:
    """The indices, if told, the inputs, and the labels, if any, of a batch."""
    if indices is None:
        values = (None, *batch) if isinstance(batch, (tuple, list)) else (None, batch)
    else:
        told = indices(batch)
        if not isinstance(told, (tuple, list)):
            raise TypeError(f"indices: got a {type(told).__name__}, want (indices, inputs)")
        if len(told) < 2:
            raise ValueError(f"indices: got {len(told)} value, want (indices, inputs)")
        values = tuple(told)
        check_int64("indices", values[0])
    if len(values) < 2:
        raise ValueError("loader: got an empty batch, want inputs")
    return values[0], values[1], values[2] if len(values) > 2 else None


def _moved(value: Any, device: torch.device | str | None) -> Any:
    if device is None:
        return value
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if hasattr(value, "to"):  # batches of other libraries
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_moved(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _device_of(networks: list[nn.Module]) -> torch.device | None:
    """The device that the networks are on; None: on several, or they have no parameters."""
    first = (next(itertools.chain(each.parameters(), each.buffers()), None) for each in networks)
    devices = {tensor.device for tensor in first if tensor is not None}
    return devices.pop() if len(devices) == 1 else None


def _autocast(device: torch.device | str | None, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        return nullcontext()
    return torch.autocast(torch.device("cpu" if device is None else device).type, dtype)


def _scores(
    logits: object,
    inputs: object,
    labels: Any,
    kind: dk.ScoreKind,
    class_distances: Tensor | None,
) -> Tensor:
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"model: got {type(logits).__name__}, want logits (B, C): forward=... can take them out of it"
        )
    rows = inputs.shape[0] if isinstance(inputs, Tensor) and inputs.dim() else None
    if logits.dim() != 2 or rows not in (None, logits.shape[0]):
        want = "one row of logits for each input" if rows is None else f"logits ({rows}, C)"
        raise ValueError(f"model: got logits of shape {tuple(logits.shape)}, want {want}")
    if kind in _LABELLED:
        if not isinstance(labels, Tensor):
            raise ValueError(
                f"kind: got {kind!r}, which needs labels, want batches (inputs, labels)"
            )
        labels = labels.to(logits.device, non_blocking=True)
    else:
        labels = None
    return dk.scores(logits, [kind], labels=labels, class_distances=class_distances)[kind]
