"""Times exact selection over ranks against selection by one process of the same keys.

python bench/over_ranks.py --sizes 1e6 1e8 --ranks 2 4 --out DIR

Keys are float32 margins, as a trained network gives them, in as many parts as `PARTS`, so that every number of ranks has the same. For each
size one process selects with as many threads as there are cores; then ranks of a gloo group on this machine, a thread each. The answers are
compared. A time is the median of several calls, of the slowest rank each; beside it stands the processor's time of all threads of a process, which
other work on the machine hardly changes. Bytes are what a rank gives to its collectives, counted at the call.
10^9 keys and a tenth of them take 6 GB. DIR/over-ranks.json holds the rows, DIR/over-ranks.md the same as a table; without --out
the table is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import dynams_kernels as dk
import units

Row = dict[str, Any]
PARTS = 8


def keys(size: int, parts: range) -> Tensor:
    """These parts of the keys."""
    each = size // PARTS
    made = torch.empty(each * len(parts))
    for place, part in enumerate(parts):
        generator = torch.Generator().manual_seed(part)
        own = made[place * each : (place + 1) * each].normal_(generator=generator)
        own.abs_().mul_(5)
    return made


def checksum(selected: dk.SmallestK) -> tuple[int, int]:
    """What answers are compared by: the sums of all indices, and of their products with the values' bits, which wrap around."""
    bits = selected.values.view(torch.int32).long()
    return int(selected.indices.sum()), int(bits.mul_(selected.indices).sum())


def repetitions(size: int) -> int:
    return 30 if size <= 10_000_000 else 5 if size <= 200_000_000 else 3


def alone(size: int, share: float) -> Row:
    """One process, all cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    values = keys(size, range(PARTS))
    sums = checksum(dk.smallest_k(values, share))
    times, busy = timed(lambda: dk.smallest_k(values, share), size)
    seconds = {"seconds": statistics.median(times), "busy": statistics.median(busy)}
    return {"size": size, "ranks": 1, **seconds, "sums": sums}


def timed(
    call: Callable[[], object], size: int, before: Callable[[], object] | None = None
) -> tuple[list[float], list[float]]:
    """Seconds of each call, and the processor's."""
    times, busy = [], []
    for _ in range(repetitions(size)):
        if before is not None:
            before()
        begin, busy_before = time.perf_counter(), time.process_time()
        call()
        times.append(time.perf_counter() - begin)
        busy.append(time.process_time() - busy_before)
    return times, busy


class Collectives:
    """Counts the calls of torch's collectives in a process, and the bytes that it gives to them."""

    def __init__(self) -> None:
        self.rounds = self.gathers = self.bytes = 0
        reduce, gather = dist.all_reduce, dist.all_gather

        def all_reduce(tensor: Tensor, *rest: Any, **named: Any) -> Any:
            self.rounds += 1
            self.bytes += tensor.nbytes
            return reduce(tensor, *rest, **named)

        def all_gather(into: list[Tensor], tensor: Tensor, *rest: Any, **named: Any) -> Any:
            self.gathers += 1
            self.bytes += tensor.nbytes
            return gather(into, tensor, *rest, **named)

        dist.all_reduce, dist.all_gather = all_reduce, all_gather


def one_rank(rank: int, ranks: int, size: int, share: float, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks
    )
    each = PARTS // ranks
    values = keys(size, range(rank * each, (rank + 1) * each))
    sums = checksum(dk.distributed.smallest_k(values, share))
    times, busy = timed(lambda: dk.distributed.smallest_k(values, share), size, dist.barrier)
    counted = Collectives()
    dk.distributed.smallest_k(values, share)
    told = {"times": times, "busy": busy, "sums": sums, **vars(counted)}
    Path(folder, f"rank {rank}").write_text(json.dumps(told))
    dist.destroy_process_group()


def over(ranks: int, size: int, share: float) -> Row:
    """As many processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one_rank, (ranks, size, share, folder), ranks)
        told = [json.loads(Path(folder, f"rank {rank}").read_text()) for rank in range(ranks)]
    slowest = [max(times) for times in zip(*(one["times"] for one in told), strict=True)]
    busiest = [max(times) for times in zip(*(one["busy"] for one in told), strict=True)]
    sums = tuple(sum(both) for both in zip(*(one["sums"] for one in told), strict=True))
    return {
        "size": size,
        "ranks": ranks,
        "seconds": statistics.median(slowest),
        "busy": statistics.median(busiest),
        "sums": sums,
        **{name: told[0][name] for name in ("rounds", "gathers", "bytes")},
    }


def wrapped(sums: Any) -> list[int]:
    return [one % 2**64 for one in sums]


def table(rows: list[Row]) -> str:
    lines = [
        "| keys | ranks | time | processor's, of a rank | sums | bytes given by a rank |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        line = f"| {row['size']:,} | {row['ranks']} | {units.time(row['seconds'])} | {units.time(row['busy'])} |"
        given = f" {row['rounds']} | {row['bytes']:,} |" if row["ranks"] > 1 else " | |"
        lines.append(line + given)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e6, 1e8], metavar="N")
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4], choices=[2, 4, 8])
    parser.add_argument("--share", type=float, default=0.1, help="k as a fraction of N")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for size in (int(size) // PARTS * PARTS for size in options.sizes):
        one = alone(size, options.share)
        rows.append(one)
        for ranks in options.ranks:
            row = over(ranks, size, options.share)
            assert wrapped(row["sums"]) == wrapped(one["sums"]), "another answer"
            rows.append(row)
    if options.out is None:
        print(table(rows), end="")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    told = {
        "share": options.share,
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "rows": rows,
    }
    (options.out / "over-ranks.json").write_text(json.dumps(told, indent=1) + "\n")
    (options.out / "over-ranks.md").write_text(table(rows))


if __name__ == "__main__":
    main()
