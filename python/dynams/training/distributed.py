"""What several processes must agree on: margins of all shares, batch-norm statistics, when to stop.

With one process everything here is the identity and costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from dynams.selection.precision import wide_dtype
from dynams.training.batches import share
from dynams.training.devices import World
from dynams.training.resolve import Resolved

# How often processes compare whether to stop: whoever stops them waits for no more than this and a step.
_COMPARE_SECONDS = 1.0
_MOST_QUESTIONS = 16


class Placed(ClusterEnvironment):
    """Tells the engine where this process stands, so that it looks for no cluster by itself.

    Args:
        world: the run's processes; all of them are started already.
    """

    creates_processes_externally = True
    main_address = ""
    main_port = 0

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @staticmethod
    def detect() -> bool:  # noqa: D102
        return False

    def world_size(self) -> int:  # noqa: D102
        return self._world.size

    def set_world_size(self, size: int) -> None:  # noqa: D102
        assert size == self._world.size

    def global_rank(self) -> int:  # noqa: D102
        return 0 if self._world.here is None else self._world.here.rank

    def set_global_rank(self, rank: int) -> None:
        """Leave the rank as it is: srun may count them in another order than machine by machine."""

    def local_rank(self) -> int:  # noqa: D102
        return 0 if self._world.here is None else self._world.here.local_rank

    def node_rank(self) -> int:  # noqa: D102
        return self.global_rank() // self._world.local


def build_fabric(resolved: Resolved, world: World | None = None) -> Fabric:
    """Build the engine: device, precision and processes as they were resolved.

    Args:
        resolved: what the configuration comes to.
        world: the processes, all of them started; None: those of ``resolved``.
    """
    # Statistics of batch-norms are averaged when they are needed (`average_buffers`), not
    # broadcast before every step. A proxy rests in some steps, at the latest when no selection is
    # to come any more: its own parameters are unused then. A user's network may have such too, and a first
    # layer that is not trained any more.
    world = world or resolved.world
    unused = len(resolved.widths) > 1 or resolved.own_model
    unused = unused or resolved.config.optim.first_layer_epochs is not None
    # Without, gradients are arranged anew after the first step of a process, and three or more of them are then
    # added in another order: a resumed run would not be, bit for bit, the one that was never stopped.
    unused = unused or (resolved.device.type == "cpu" and world.size > 2)
    strategy = (
        DDPStrategy(find_unused_parameters=unused, broadcast_buffers=False)
        if world.size > 1
        else "auto"
    )
    return Fabric(
        accelerator=resolved.device.type,
        devices=world.local,
        num_nodes=world.machines,
        precision=resolved.config.run.precision,
        strategy=strategy,
        plugins=[Placed(world)],
    )


def gather_shares(fabric: Fabric, part: Tensor, total: int) -> Tensor:
    """Put the shares of all processes together.

    Args:
        fabric: the processes.
        part: (n, ...) this process' share of ``total`` values, as `share` cuts them.
        total: number of values in all.

    Returns:
        (total, ...) on every process, in order.
    """
    if fabric.world_size == 1:
        return part
    longest = -(-total // fabric.world_size)
    padded = part.new_zeros((longest, *part.shape[1:]))
    padded[: len(part)] = part
    gathered = fabric.all_gather(padded)
    assert isinstance(gathered, Tensor)
    pieces = []
    for rank, row in enumerate(gathered.view(fabric.world_size, longest, *part.shape[1:])):
        start, stop = share(0, total, rank, fabric.world_size)
        pieces.append(row[: stop - start])
    return torch.cat(pieces)


@torch.no_grad()
def average_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Give every process the mean of batch-norm statistics, and the first one's other floating-point buffers.

    Running means are linear in what they average, so this is as if each had seen all the shares. Of what a
    user's network keeps otherwise nothing is known. Means are taken in float64, in which they are exact of equal
    numbers: what is the same in all processes stays so, bit for bit, however often it is averaged.
    """
    if fabric.world_size == 1:
        return
    means: list[Tensor] = []
    others: list[Tensor] = []
    for each in module.modules():
        kept = means if isinstance(each, nn.modules.batchnorm._NormBase) else others
        kept += [buffer for buffer in each.buffers(recurse=False) if buffer.is_floating_point()]
    for buffers, operation in ((means, "mean"), (others, "sum")):
        if not buffers:
            continue
        flat = torch.cat([buffer.flatten() for buffer in buffers]).to(wide_dtype(fabric.device))
        if operation == "sum" and fabric.global_rank:
            flat.zero_()
        flat = fabric.all_reduce(flat, reduce_op=operation)  # type: ignore[assignment]
        sizes = [buffer.numel() for buffer in buffers]
        for buffer, value in zip(buffers, torch.split(flat, sizes), strict=True):
            buffer.copy_(value.view_as(buffer))


@torch.no_grad()
def own_buffers(fabric: Fabric, module: nn.Module) -> dict[str, Tensor]:
    """Copy the floating-point buffers of this process, as they are before `average_buffers`; of one process none."""
    if fabric.world_size == 1:
        return {}
    named = module.named_buffers()
    return {name: buffer.clone() for name, buffer in named if buffer.is_floating_point()}


@torch.no_grad()
def put_back(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Give a process its own buffers again, which `own_buffers` copied."""
    named = dict(module.named_buffers())
    for name, value in buffers.items():
        named[name].copy_(value)


def told_by_all(fabric: Fabric, mine: Any) -> list[Any]:
    """What each process tells, in every process: plain values and tensors on the CPU. All must come here together."""
    if fabric.world_size == 1:
        return [mine]
    told: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(told, mine)
    return told


class Agreement:
    """Makes one process' wish to stop everybody's, without waiting for the device at every step.

    Several processes compare about once a second, at the latest at every 16th question: how often they are
    asked is compared too, so that all compare at the same ones. All must ask equally often.

    Args:
        fabric: the processes.
        wanted: whether this process wants to stop.
    """

    def __init__(self, fabric: Fabric, wanted: Callable[[], bool]) -> None:
        self._fabric = fabric
        self._wanted = wanted
        self._agreed = False
        self.begin()

    def begin(self) -> None:
        """Say that work of another kind begins, whose batches may take longer: the next question is compared."""
        self._asked, self._every = 0, 1
        self._compared = time.monotonic()

    def __call__(self) -> bool:
        """Whether all stop now; the same answer in every process."""
        if self._fabric.world_size == 1:
            return self._wanted()
        self._asked += 1
        if self._agreed or self._asked < self._every:
            return self._agreed
        return self.now()

    def now(self) -> bool:
        """As a call, but always compared. All must come here together."""
        if self._fabric.world_size == 1:
            return self._wanted()
        pace = (time.monotonic() - self._compared) / max(self._asked, 1)
        mine = torch.tensor([float(self._wanted()), pace], device=self._fabric.device)
        largest = self._fabric.all_reduce(mine, reduce_op="max")
        assert isinstance(largest, Tensor)
        wish, pace = largest.tolist()
        self._agreed = self._agreed or wish > 0
        self._asked, self._compared = 0, time.monotonic()
        self._every = min(max(int(_COMPARE_SECONDS / max(pace, 1e-9)), 1), _MOST_QUESTIONS)
        return self._agreed
