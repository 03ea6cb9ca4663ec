"""Device times, each helper against one way of fooling oneself.

A graph replayed removes the host from the time of small kernels; input sets in turn, together larger than the cache, remove
what the call before left there; samples of ours and of its peers in turn let a clock that drifts slow all alike.
"""

from __future__ import annotations

import ctypes
import math
import signal
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

Call = Callable[[], Any]

# The median of an odd number of samples is one of them.
ROUNDS = 11
# Events tell half a microsecond: a sample of a millisecond is then good to a tenth of a percent.
LEAST_SAMPLE = 1e-3
# A GPU at the limit of its power sets its clock by the last tens of milliseconds: what runs behind a peer that
# drew less would be timed at the peer's clock. So long does everything run before it is timed.
OWN_CLOCK = 30e-3
# What draws less runs so long: the caches and the queue are then its own.
WARM = 5e-3
# Calls in one graph: enough to pass a 50 MB cache four times with inputs of 0.8 MB.
MOST_SETS = 256


def sets_beyond_cache(bytes_per_call: int, cache: int) -> int:
    """How many input sets to use in turn, so that none is in a cache of `cache` bytes when its turn comes again.

    Four caches' worth, as replacement is not strictly oldest first; one set where it fills the cache twenty times by itself.
    """
    if bytes_per_call >= 20 * cache:
        return 1
    return max(2, min(MOST_SETS, math.ceil(4 * cache / bytes_per_call)))


def repeats_for(seconds: float, least: float = LEAST_SAMPLE) -> int:
    """How often to repeat what takes `seconds` for at least so many."""
    return max(1, min(1000, math.ceil(least / max(seconds, 1e-9))))


def speedup(ours: Sequence[float], peers: Sequence[float]) -> float:
    """The median over rounds of peer / ours: above 1 ours is faster."""
    return statistics.median(peer / our for our, peer in zip(ours, peers, strict=True))


class ManualClock:
    """A benchmark's clock that stands still but for the time it is told of."""

    __name__ = "manual_clock"

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        self._seconds += seconds


class Timed:
    """Calls of one function, one call for each input set, that are timed together on the device.

    They are captured as one graph. Where capture fails they are launched one by one between two events, behind a pause of the
    device long enough for all the launches, and `how` says so.
    """

    def __init__(self, calls: Sequence[Call], own_clock: float = OWN_CLOCK) -> None:
        self._calls = calls
        self._graph: torch.cuda.CUDAGraph | None = None
        self.how = "graph"
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):  # compilation, lazy loading, the libraries' workspaces
                calls[0]()
        torch.cuda.synchronize()
        try:
            with waiting_refused():
                calls[0]()
            self._graph = self._captured()
        except RuntimeError as error:
            self.how = f"events: no graph of it ({first_line(error)})"
            torch.cuda.synchronize()
        self._sample(1)
        seconds = self._sample(1) * len(calls)
        self._before, self._repeats = repeats_for(seconds, own_clock), repeats_for(seconds)

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                # Results are kept until all calls are captured: the memory of one freed, still in cache, would go to the next.
                kept = [call() for call in self._calls]
        except RuntimeError:
            # The generator believes that the capture goes on, and would refuse to draw ever after.
            device = torch.cuda.current_device()
            torch.cuda.default_generators[device].graphsafe_set_state(
                torch.Generator(f"cuda:{device}")
            )
            raise
        del kept
        return graph

    def _run(self, repeats: int) -> None:
        for _ in range(repeats):
            if self._graph is not None:
                self._graph.replay()
            else:
                for call in self._calls:
                    call()

    def _sample(self, repeats: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # The device waits while the host queues: the first launch's latency stays out of the time.
        torch.cuda._sleep(200_000 if self._graph is not None else 4_000_000)
        begin.record()
        self._run(repeats)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeats / len(self._calls)

    def seconds(self) -> float:
        """Device seconds of one call, of one sample, at the clock that the call itself brings about."""
        self._run(self._before)
        return self._sample(self._repeats)


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Calls that wait for the device raise: they cannot be captured, and a capture that fails leaves torch in disorder."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a table."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]


def peak_extra_bytes(call: Call) -> int:
    """Device memory a call holds at its worst beyond what was held before, its result included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def launches(call: Call) -> int | None:
    """How many kernels, copies and fills a call queues; None where this torch does not hand out its graphs."""
    try:
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        with torch.cuda.graph(graph):
            kept = call()
        nodes = ctypes.c_size_t()
        driver = ctypes.CDLL("libcuda.so.1")
        raw = ctypes.c_void_p(graph.raw_cuda_graph())
        if driver.cuGraphGetNodes(raw, None, ctypes.byref(nodes)) != 0:
            return None
        del kept
    except (TypeError, AttributeError, OSError, RuntimeError):
        torch.cuda.synchronize()
        return None
    return nodes.value


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raises TimeoutError in the main thread once `seconds` have passed: a peer that compiles for minutes must not cost the run."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{what}: not ready after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
