"""Seconds and bytes of a head whose classes are spread over processes, against gathering its logits.

    torchrun --nproc-per-node 2 bench/heads_over_ranks.py --rows 1024 --size 512 --classes 65536

Each process runs on one thread. `whole` is one process with all classes, on one thread too; `gathered` multiplies each process'
classes, gathers the logits and scores them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

import dynams_kernels as dk

KINDS = ("loss", "entropy")


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of a call that all processes begin together."""
    times = []
    for _ in range(repeats + 1):
        dist.barrier()
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def main() -> None:
    """Prints one line a way, from rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("rows", 1024), ("size", 512), ("classes", 65536), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(args.rows, args.size, generator=generator)
    weight = torch.randn(args.classes, args.size, generator=generator) / args.size**0.5
    labels = torch.randint(args.classes, (args.rows,), generator=generator)
    own = weight.tensor_split(ranks)[rank].clone()
    widest = -(-args.classes // ranks)

    def gathered() -> None:
        logits = torch.zeros(args.rows, widest)
        logits[:, : len(own)] = features @ own.T
        parts = [torch.empty_like(logits) for _ in range(ranks)]
        dist.all_gather(parts, logits)
        sizes = [len(part) for part in weight.tensor_split(ranks)]
        whole = torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], 1)
        dk.scores(whole, KINDS, labels=labels)

    def whole() -> None:
        if rank == 0:
            dk.linear_scores(features, weight, KINDS, labels=labels)

    ways = {
        "sharded": lambda: dk.distributed.linear_scores(features, own, KINDS, labels=labels),
        "gathered": gathered,
        "whole": whole,
    }
    bytes_sent = {
        "sharded": 512 + args.rows * 5 * 4,
        "gathered": args.rows * widest * 4,
        "whole": 0,
    }
    for name, way in ways.items():
        took = seconds(way, args.repeats)
        if rank == 0:
            print(f"{name}: {took:.3f} s, {bytes_sent[name]:,} bytes a rank", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
