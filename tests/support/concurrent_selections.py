"""A program of selections whose grids do not fit on a GPU together: each needs all its multiprocessors at once. In a
process of its own, as grids that wait for each other would never end. Prints the name of what came out right.
"""

from __future__ import annotations

import torch

import dynams_kernels as dk
from cuda_calls import same_there, spoil
from cuda_selections import answer, numbers

SIZE, K = 1_280_000, 768_000


def streams_beside_a_product() -> bool:
    """Four streams of selections while a fifth multiplies matrices for longer than they take."""
    inputs = [numbers("random", SIZE, torch.float32, seed=seed) for seed in range(4)]
    right = [answer(values, K).selected() for values in inputs]
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    streams = [torch.cuda.Stream() for _ in inputs]
    long = torch.cuda.Stream()
    torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    with torch.cuda.stream(long):
        for _ in range(20):  # 1.5 ms each
            torch.mm(matrix, matrix)
    got = []
    for _ in range(10):
        for values, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                got.append(list(dk.smallest_k(values, K)))
    torch.cuda.synchronize()
    return all(same_there(some, right[i % len(right)]) for i, some in enumerate(got))


def branches_of_one_graph() -> bool:
    """Two selections that a graph leaves free to run at the same time."""
    left, right = (numbers("ties", size, torch.float32) for size in (SIZE, 8_000_000))
    for values in (left, right):
        dk.smallest_k(values, K)
    torch.cuda.synchronize()
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph):
        main = torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            others = list(dk.smallest_k(right, K))
        out = list(dk.smallest_k(left, K))
        main.wait_stream(side)
    good = True
    for seed in range(1, 4):
        for values in (left, right):
            values.copy_(numbers("random", len(values), torch.float32, seed=seed))
        want = [*answer(left, K).selected(), *answer(right, K).selected()]
        for replay in range(10):
            spoil([*out, *others], replay)
            graph.replay()
            good &= same_there([*out, *others], want)
    return good


def main() -> None:
    """Runs each, and tells of it before the next begins."""
    for each in (streams_beside_a_product, branches_of_one_graph):
        print(each.__name__ if each() else f"{each.__name__}: WRONG", flush=True)


if __name__ == "__main__":
    main()
