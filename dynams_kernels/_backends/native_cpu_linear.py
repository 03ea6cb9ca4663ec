"""Scores of a linear head on the CPU, tile of logits by tile: each thread takes the next piece of work when it is free, and
multiplies and scores it alone, in its own cache.

A product of one thread has the same bits wherever it runs; what is one piece of work depends on the shape alone; and what
pieces know of the same rows is merged in the order of their classes. So the scores depend neither on the number of
threads nor on which of them is slow.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynams_kernels._backends.native_rows import RowKernels
from dynams_kernels._backends.products import apart
from dynams_kernels._backends.tile_plan import TilePlan


@dataclass(frozen=True)
class LinearTask:
    """The operands of a call, and where its results go; bias, labels and pairs are contiguous."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor | None
    class_distances: Tensor | None
    widths: Sequence[int]  # ascending
    kinds: int
    scores: Tensor  # (n, w, B)
    pairs: Tensor | None


@dataclass(frozen=True)
class _Classes:
    """The classes [first, last) of one tile, as its products take them."""

    first: int
    last: int
    weights: tuple[Tensor, ...]  # for each product its columns, transposed
    bias: Tensor | None


def product_columns(widths: Sequence[int], is_half: bool) -> list[slice]:
    """The columns that each width's product takes: of several widths, those that the width before has not.

    Half-precision logits are rounded, as F.linear rounds them: none are built on others.
    """
    begins = [0] * len(widths) if is_half else [0, *widths[:-1]]
    return [slice(begin, width) for begin, width in zip(begins, widths, strict=True)]


def multiply(
    features: Tensor, weight: Tensor, bias: Tensor | None, logits: Tensor | None, *, adds: bool
) -> tuple[Tensor, Tensor | None]:
    """Products with a transposed weight, in place of the `logits` or added to them; and the bias still to be added.

    Half-precision products are rounded with their bias, as F.linear does.
    """
    if bias is not None and features.element_size() == 2:
        return torch.addmm(bias, features, weight, out=logits), None
    if logits is not None and adds:
        return logits.addmm_(features, weight), bias
    return torch.mm(features, weight, out=logits), bias


class LinearSweep:
    """One call's pieces of work, and the threads that do them.

    `keeps_states`: the classes are a shard of those that are scored; what is known of their rows is left in `states`.
    """

    def __init__(
        self, kernels: RowKernels, task: LinearTask, plan: TilePlan, *, keeps_states: bool = False
    ) -> None:
        self._kernels = kernels
        self._task = task
        self._plan = plan
        self._columns = product_columns(task.widths, task.features.element_size() == 2)
        self._classes = [self._classes_of(tile) for tile in range(plan.tiles)]
        # Threads go through the same classes together: the weight comes from memory once.
        self._todo = deque(itertools.product(range(plan.runs), range(plan.blocks)))
        # What is known of rows after each run of classes. The thread that ends the last run of some rows finishes them.
        several = plan.runs > 1 or keeps_states
        self._states = self._new_states(plan.batch) if several else None
        self._ended = [itertools.count(1) for _ in range(plan.blocks)]

    def _classes_of(self, tile: int) -> _Classes:
        first = tile * self._plan.classes
        last = min(first + self._plan.classes, self._plan.total)
        weight, bias = self._task.weight[first:last], self._task.bias
        weights = tuple(weight[:, columns].T for columns in self._columns)
        return _Classes(first, last, weights, None if bias is None else bias[first:last])

    def _new_states(self, rows: int) -> Tensor:
        shape = (self._plan.runs, len(self._columns), rows, self._kernels.row_state_bytes)
        return self._task.features.new_empty(shape, dtype=torch.uint8)

    @property
    def states(self) -> Tensor:
        """The states (B, bytes) of the rows at the first width, after `run`, where they are kept."""
        assert self._states is not None
        return self._states[0, 0]

    def run(self) -> None:
        """Does all the work, in torch's number of threads."""
        threads = torch.get_num_threads()
        if not self._kernels.call_in_team(self._work, min(threads, len(self._todo))):
            self._work(threads)

    def _work(self, threads: int = 1) -> None:
        """Takes pieces of work while there are any; `threads` score each of its tiles."""
        plan = self._plan
        try:
            # A thread of a team starts with torch's defaults: gradients on, no mode.
            with torch.inference_mode():
                tile = self._task.features.new_empty(plan.rows * plan.classes)
                states = None
                if self._states is None and plan.tiles > 1:
                    states = self._new_states(plan.rows)
                for run, block in self._pieces():
                    self._score_piece(run, block, tile, states, threads)
        except BaseException:
            self._todo.clear()  # the others stop
            raise

    def _pieces(self) -> Iterator[tuple[int, int]]:
        while True:
            try:
                piece = self._todo.popleft()
            except IndexError:
                return
            yield piece

    def _score_piece(
        self, run: int, block: int, tile: Tensor, own_states: Tensor | None, threads: int
    ) -> None:
        task, plan = self._task, self._plan
        begin, end = plan.rows_of(block)
        features = [apart(task.features[begin:end, columns]) for columns in self._columns]
        labels = None if task.labels is None else task.labels[begin:end]
        pairs = None if task.pairs is None else task.pairs[begin:end]
        scores = task.scores[:, :, begin:end].unbind(1)
        states: Sequence[Tensor | None] = [None] * len(features)
        if self._states is not None:
            states = self._states[run, :, begin:end].unbind()
        elif own_states is not None:
            states = own_states[0].unbind()
        tiles = plan.tiles_of(run)
        for place in tiles:
            classes = self._classes[place]
            logits = tile[: (end - begin) * (classes.last - classes.first)].view(end - begin, -1)
            for nth, operand in enumerate(features):
                adds = self._columns[nth].start != 0
                _, rest = multiply(operand, classes.weights[nth], classes.bias, logits, adds=adds)
                self._kernels.score_block(
                    logits,
                    rest,
                    labels,
                    task.class_distances,
                    task.kinds,
                    scores[nth],
                    pairs,
                    states[nth],
                    classes.first,
                    is_first=place == tiles[0],
                    is_last=classes.last == plan.total and self._states is None,
                    threads=threads,
                )
        if self._states is None or next(self._ended[block]) < plan.runs:
            return
        # Of states that are kept this joins the runs; the scores are those of the shard alone, which nobody asked for.
        for nth, of_kinds in enumerate(scores):
            self._kernels.finish_block(
                self._states[:, nth, begin:end],
                plan.run * plan.classes,
                plan.total,
                task.features.dtype,
                labels,
                task.kinds,
                of_kinds,
                pairs,
            )
