"""Calls on a GPU: captured, spoilt and compared where the tensors lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import oracle


def same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Whether all are equal bit for bit."""
    return all(oracle.same_bits(a, b) for a, b in zip(left, right, strict=True))


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def words(tensor: Tensor) -> Tensor:
    """The tensor's bits as integers, in its own memory."""
    return tensor.view(_WORDS[tensor.element_size()])


def same_there(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """As `same`, compared where the tensors lie: for answers too large to be fetched."""
    return all(
        a.dtype == b.dtype and torch.equal(words(a), words(b))
        for a, b in zip(left, right, strict=True)
    )


def spoil(tensors: Sequence[Tensor], byte: int) -> None:
    """Makes every byte of the tensors `byte`: what a call leaves out would show."""
    for tensor in tensors:
        size = tensor.element_size()
        words(tensor).fill_(int.from_bytes(bytes([byte] * size), "little", signed=size > 1))


def captured(call: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A graph of the call, and what it writes."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    return graph, out
