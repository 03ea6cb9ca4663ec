"""Processes of one gloo group that stay for many calls: forked once, so that each of many drawn cases costs a message, not a start."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_SECONDS = 60


class LiveRanks:
    """A group of `size` ranks. What is called must be found by its name in a module that was imported before."""

    def __init__(self, size: int) -> None:
        context = mp.get_context("fork")
        self.size = size
        self._folder = tempfile.TemporaryDirectory()
        pipes = [context.Pipe() for _ in range(size)]
        self._ends = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(theirs, rank, size, self._folder.name))
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()

    def call(self, function: Callable[..., Any], each: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What `function(*arguments)` returns or raises on every rank, called with its own of `each`."""
        assert len(each) == self.size
        for end, arguments in zip(self._ends, each, strict=True):
            # Bytes, as the pipe's own way with tensors is shared memory.
            end.send_bytes(pickle.dumps((function, arguments)))
        found = []
        for rank, end in enumerate(self._ends):
            assert end.poll(_SECONDS), f"rank {rank}: no answer in {_SECONDS} s"
            found.append(pickle.loads(end.recv_bytes()))
        return found

    def close(self) -> None:
        """Ends the processes."""
        for end in self._ends:
            end.send_bytes(pickle.dumps(None))
        for process in self._processes:
            process.join(_SECONDS)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()


def _serve(end: Connection, rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=_SECONDS // 2),
    )
    while True:
        asked = pickle.loads(end.recv_bytes())
        if asked is None:
            break
        function, arguments = asked
        try:
            found = function(*arguments)
        except Exception as error:
            found = error
        end.send_bytes(pickle.dumps(found))
    dist.destroy_process_group()
