"""The ranks of a process group: what they tell each other, and that an error of one is an error of all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# What a rank tells of its call, padded to one size: an exchange is one collective. An error's message is cut to fit.
TOLD_BYTES = 512


@dataclass(frozen=True)
class Ranks:
    """A process' place among the ranks of a group; without a group it is a world of one."""

    rank: int
    size: int
    group: Any = None

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor (...), of one shape, as (ranks, ...)."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        gathered = tensor.new_empty(self.size, *tensor.shape)
        dist.all_gather(list(gathered.unbind(0)), tensor.contiguous(), group=self.group)
        return gathered

    def device_types(self) -> list[str]:
        """The devices whose tensors the group's backends take: all of them in a world of one."""
        if self.size == 1:
            return []
        # "cpu:gloo,cuda:nccl"
        return [one.partition(":")[0] for one in dist.get_backend_config(self.group).split(",")]

    def check_device(self, name: str, device: torch.device) -> None:
        """ValueError where the group cannot take tensors of this device."""
        usable = self.device_types()
        if usable and device.type not in usable:
            backend = dist.get_backend(self.group)
            raise ValueError(
                f"{name}: got device {device}, want {' or '.join(usable)}: the group's backend is {backend}"
            )


def ranks_of(group: Any = None) -> Ranks:
    """The ranks of a group, by default of all processes.

    Raises:
        ValueError: this process is none of them.
        TypeError: it is no process group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        if group is not None:
            raise ValueError(
                f"group: got {type(group).__name__}, want None: there is no process group"
            )
        return Ranks(0, 1)
    outside = group is dist.GroupMember.NON_GROUP_MEMBER
    if not (group is None or outside or isinstance(group, dist.ProcessGroup)):
        raise TypeError(f"group: got {type(group).__name__}, want a process group or None")
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError("group: got one without this process, want a group that it belongs to")
    return Ranks(rank, dist.get_world_size(group), group)


def agree(
    ranks: Ranks, tell: Callable[[], dict[str, Any]], same: Sequence[str]
) -> list[dict[str, Any]]:
    """What every rank tells of its call, in the order of ranks: one collective of `TOLD_BYTES` a rank.

    Args:
        ranks: who takes part; all of them call this.
        tell: checks this rank's arguments and gives what the others must know: plain values for JSON, some 400 bytes.
        same: of what it gives, what must be the same on all ranks.

    Raises:
        TypeError, ValueError: on every rank where `tell` raised on any (its own error there) or ranks differ.
        RuntimeError: the ranks did not all come, within the group's time-out.
    """
    failed: Exception | None = None
    try:
        own = tell()
        raw = json.dumps(own).encode()
        if len(raw) > TOLD_BYTES:
            raise ValueError(f"what a rank tells: got {len(raw)} bytes, want at most {TOLD_BYTES}")
    except Exception as error:
        failed = error
        raw = _refusal(error)
    if ranks.size == 1:
        if failed is not None:
            raise failed
        return [own]
    try:
        told = _exchange(ranks, raw)
    except RuntimeError as error:
        if failed is not None:
            raise failed from error
        raise RuntimeError(
            f"group: got no answer from all of its {ranks.size} ranks, want the same call with the same group on each: {error}"
        ) from error
    if failed is not None:
        raise failed
    for rank, one in enumerate(told):
        if "error" in one:
            kind = {"TypeError": TypeError, "ValueError": ValueError}.get(
                one["error"], RuntimeError
            )
            raise kind(f"on rank {rank}: {one['message']}")
    for name in same:
        for rank, one in enumerate(told):
            # Of another call a rank tells something else.
            got, first = one.get(name), told[0].get(name)
            if got != first:
                raise ValueError(
                    f"{name}: got {got} on rank {rank} and {first} on rank 0, want the same on all"
                )
    return told


def _refusal(error: Exception) -> bytes:
    """An error as other ranks are told it, its message as far as there is room."""
    message = str(error)
    while True:
        raw = json.dumps({"error": type(error).__name__, "message": message}).encode()
        if len(raw) <= TOLD_BYTES:
            return raw
        message = message[: len(message) * 3 // 4]


def _exchange(ranks: Ranks, raw: bytes) -> list[dict[str, Any]]:
    # Ranks may disagree on the device of their values, but not on the group's.
    device = "cpu" if "cpu" in ranks.device_types() else f"cuda:{torch.cuda.current_device()}"
    padded = torch.frombuffer(bytearray(raw.ljust(TOLD_BYTES)), dtype=torch.uint8).to(device)
    gathered = ranks.gather(padded).cpu()
    return [json.loads(bytes(row.tolist())) for row in gathered]
