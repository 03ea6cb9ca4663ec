"""Times of kernels and of what they are held against, in turn, so that a machine whose speed drifts slows all alike.

A time is what a training loop waits: the host's part and the device's. Inputs stay the same from call to call, so what fits
a cache is read from there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.benchmark import Timer

from dynams.bench.cases import Timed, cases
from dynams.bench.config import BenchConfig
from dynams.training.devices import resolve_device
from dynams.training.environment import environment

# What is timed at once lasts so long that neither the clock nor a synchronisation of the device counts.
_LEAST_SECONDS = 2e-3
_MOST_CALLS = 1000
# Beyond the caches of processors and of GPUs.
_COPIED_BYTES = 1 << 28


@dataclass(frozen=True)
class Peer:
    """What a kernel is held against.

    Attributes:
        name: what it does.
        seconds: median of a call.
        speedup: median over rounds of its seconds by the kernel's: above 1 the kernel is faster.
    """

    name: str
    seconds: float
    speedup: float


@dataclass(frozen=True)
class Result:
    """A kernel's time.

    Attributes:
        kernel: its name.
        inputs: what it was called with, in words.
        seconds: median of a call.
        bytes_per_second: bytes that must be moved at least, by seconds; None where memory is not the limit.
        flops: floating-point operations a second; None where arithmetic is not the limit.
        of_copy: `bytes_per_second` by a copy's, which may pass 1 for what a cache holds; None likewise.
        peers: what it is held against, torch's way to the same answer first.
    """

    kernel: str
    inputs: str
    seconds: float
    bytes_per_second: float | None
    flops: float | None
    of_copy: float | None
    peers: tuple[Peer, ...]


@dataclass(frozen=True)
class Measurement:
    """What `measure` found.

    Attributes:
        config: what was asked for.
        environment: versions, processor, device and which kernels serve.
        copy_bytes_per_second: bytes read and written a second by a copy of 256 MiB.
        results: one for each kernel and shape.
    """

    config: BenchConfig
    environment: Mapping[str, Any]
    copy_bytes_per_second: float
    results: tuple[Result, ...]


def measure(config: BenchConfig, say: Callable[[str], None] = lambda text: None) -> Measurement:
    """Time the kernels.

    Args:
        config: which, and on what.
        say: told of each kernel before it is timed.

    Raises:
        ValueError: the device is not there.
    """
    device = _device(config.device)
    # Timers wait for the current CUDA device, and the environment names it.
    index = device.index if device.type == "cuda" else -1
    with _threads(config.threads), torch.cuda.device(index):
        say("a copy")
        copied = _copy(config, device)
        results = []
        for case in cases(config, device):
            say(f"{case.kernel}, {case.inputs}")
            calls = [case.ours, *case.peers.values()]
            ours, *theirs = _in_turn(calls, config.rounds)
            seconds = statistics.median(ours)
            rate = None if case.moved is None else case.moved / seconds
            peers = tuple(
                Peer(name, statistics.median(times), _speedup(ours, times))
                for name, times in zip(case.peers, theirs, strict=True)
            )
            results.append(
                Result(
                    kernel=case.kernel,
                    inputs=case.inputs,
                    seconds=seconds,
                    bytes_per_second=rate,
                    flops=None if case.flops is None else case.flops / seconds,
                    of_copy=None if rate is None else rate / copied,
                    peers=peers,
                )
            )
        return Measurement(config, environment(device), copied, tuple(results))


def _speedup(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(other / mine for mine, other in zip(ours, theirs, strict=True))


def _in_turn(calls: Sequence[Timed], rounds: int) -> list[list[float]]:
    """Seconds of each call in each round."""
    # A timer sets the threads, to 1 unless it is told.
    timers = [
        Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        for call in calls
    ]
    counts = []
    for call, timer in zip(calls, timers, strict=True):
        call()  # compiles, loads and allocates what the first call does
        once = timer.timeit(1).median
        counts.append(max(1, min(_MOST_CALLS, math.ceil(_LEAST_SECONDS / max(once, 1e-9)))))
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for times, timer, count in zip(seconds, timers, counts, strict=True):
            times.append(timer.timeit(count).median)
    return seconds


def _copy(config: BenchConfig, device: torch.device) -> float:
    random = torch.Generator(device).manual_seed(config.seed)
    source = torch.randn(_COPIED_BYTES // 4, generator=random, device=device)
    target = torch.empty_like(source)
    (times,) = _in_turn([lambda: target.copy_(source)], config.rounds)
    return 2 * _COPIED_BYTES / statistics.median(times)


def _device(name: str) -> torch.device:
    device = resolve_device(name, "device", mps=False)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
