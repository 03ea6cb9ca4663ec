"""Measures selection from a stream: a long one in chunks, small batches, and what ranks pay that agree.

python bench/stream.py run --out DIR [--count 1000000000]
python bench/stream.py show DIR/stream.json --into PAGE.md     between the page's stream:begin and :end marks

Runs on one core. `run` leaves DIR/stream.json, and its tables in DIR/stream.md. Margins are |N(0, 25)|, of which the
true rank of any threshold is known; what drawing them takes is not counted. Times are of the processor, so that other work beside it matters little.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import dynams_kernels as dk
from dynams.selection.quantiles import QuantileSketch, level_size
from dynams.selection.stream import StreamSelector
from dynams.training.environment import environment
from marks import insert
from proxy import tables, write

Row = dict[str, Any]

BUDGET = 0.6
CHUNK = 2**18
ACCURACIES = (0.01, 0.001)


def margins(source: np.random.Generator, count: int) -> Tensor:
    return torch.from_numpy(np.abs(source.standard_normal(count, dtype=np.float32)) * 5)


def true_rank(threshold: float) -> float:
    return math.erf(threshold / 5 / math.sqrt(2))


def resident_mib() -> float:
    """The most memory so far; a stream whose state grew would raise it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def a_long_stream(count: int, accuracy: float, size: int = CHUNK) -> Row:
    """Keep from `count` margins: seconds, memory beyond that after the first 16 chunks, and the threshold's error."""
    source = np.random.default_rng(0)
    selector = StreamSelector(BUDGET, accuracy=accuracy)
    seconds, before = 0.0, math.nan
    for number in range(-(-count // size)):
        chunk = margins(source, min(size, count - number * size))
        begin = time.process_time()
        selector.keep(chunk)
        seconds += time.process_time() - begin
        if number == 16:
            before = resident_mib()
    grown = resident_mib() - before
    assert selector.threshold is not None
    assert selector.kept_share is not None
    return {
        "margins": f"{count:,}",
        "accuracy": f"{accuracy}",
        "core seconds": f"{seconds:.1f}",
        "millions a second": f"{count / seconds / 1e6:.0f}",
        "state, KiB": f"{len(pickle.dumps(selector.state_dict())) / 1024:.1f}",
        "memory grown by, MiB": f"{grown:.1f}",
        "threshold's rank errs by": f"{abs(true_rank(selector.threshold) - BUDGET):.1e}",
        "counted bound (99 %)": f"{selector.rank_error:.1e}",
        "kept": f"{selector.kept_share:.5f}",
    }


def small_batches(batch: int, accuracy: float, window: int | None) -> Row:
    """Microseconds that one `keep` takes once the sketch is full."""
    source = np.random.default_rng(0)
    selector = StreamSelector(BUDGET, accuracy=accuracy, window=window)
    selector.update(margins(source, 2**20))
    batches = margins(source, 400 * batch).split(batch)
    begin = time.process_time()
    for each in batches:
        selector.keep(each)
    took = (time.process_time() - begin) / len(batches)
    shown = "all" if window is None else f"{window:,}"
    row = {"batch": f"{batch:,}", "accuracy": f"{accuracy}", "window": shown}
    return row | {"microseconds a batch": f"{took * 1e6:.0f}"}


def agreeing(ranks: int, accuracy: float) -> Row:
    """What a rank does to agree with others, but for the network: its message, and to merge theirs."""
    source = np.random.default_rng(0)
    size = level_size(accuracy)
    messages = []
    for rank in range(ranks):
        selector = StreamSelector(BUDGET, accuracy=accuracy, together=True)
        selector._new = QuantileSketch(size, f"{rank}")
        selector.update(margins(source, 20_000))
        messages.append(pickle.dumps(selector._told()))
    begin = time.process_time()
    merged = QuantileSketch(size, "merged")
    merged.merge([QuantileSketch.of_state(pickle.loads(each)["new"]) for each in messages])
    took = time.process_time() - begin
    row = {"ranks": f"{ranks:,}", "accuracy": f"{accuracy}"}
    row |= {"KiB a rank sends": f"{max(map(len, messages)) / 1024:.1f}"}
    return row | {"milliseconds to unpack and merge": f"{took * 1e3:.1f}"}


def exactly(count: int) -> Row:
    """Exact selection of all margins, kept in memory: the best of three."""
    keys = margins(np.random.default_rng(0), count)
    k = int(BUDGET * count)
    out = (torch.zeros(k), torch.zeros(k, dtype=torch.int64))
    best = math.inf
    for _ in range(3):
        begin = time.process_time()
        dk.smallest_k(keys, k, out=out)
        best = min(best, time.process_time() - begin)
    return {"`smallest_k` of margins in memory": f"{count:,}", "milliseconds": f"{best * 1e3:.2f}"}


def run(options: argparse.Namespace) -> Row:
    torch.set_num_threads(1)
    few = max(1, options.count // 10)
    long = [
        a_long_stream(count, accuracy)
        for count, accuracy in zip((options.count, few), ACCURACIES, strict=True)
    ]
    batches = [
        small_batches(batch, accuracy, window)
        for accuracy in ACCURACIES
        for window in (None, 500_000)
        for batch in (256, 4096)
    ]
    agreed = [agreeing(ranks, 0.01) for ranks in (2, 8, 1000)]
    exact = [exactly(count) for count in (10**5, 10**6, 10**7)]
    here = environment(torch.device("cpu"))
    return {"kind": "stream", "environment": here, "tables": [long, batches, agreed, exact]}


def show(options: argparse.Namespace) -> None:
    report: Row = json.loads(options.report.read_text())
    for page in options.into:
        insert(page, "stream", tables(report))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("run", help="measure")
    one.add_argument("--count", type=int, default=10**9, help="margins of the long stream")
    one.add_argument("--out", type=Path, required=True, help="folder of the report")
    two = kinds.add_parser("show", help="the tables of a report")
    two.add_argument("report", type=Path)
    two.add_argument("--into", type=Path, nargs="+", metavar="PAGE", required=True)
    options = parser.parse_args(arguments)
    if options.kind == "show":
        show(options)
        return
    report = run(options)
    write(report, options.out)
    print(tables(report), end="")


if __name__ == "__main__":
    main()
