"""What several processes must agree on: margins of all shares, batch-norm statistics, when to stop.

With one process everything here is the identity and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from dynams.training.batches import share
from dynams.training.devices import World
from dynams.training.resolve import Resolved


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
    # to come any more: its own parameters are unused then. A user's network may have such too.
    world = world or resolved.world
    unused = len(resolved.widths) > 1 or resolved.own_model
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
    user's network keeps otherwise nothing is known; a table that is the same in all processes stays so, bit for bit.
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
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        if operation == "sum" and fabric.global_rank:
            flat.zero_()
        flat = fabric.all_reduce(flat, reduce_op=operation)  # type: ignore[assignment]
        sizes = [buffer.numel() for buffer in buffers]
        for buffer, value in zip(buffers, torch.split(flat, sizes), strict=True):
            buffer.copy_(value.view_as(buffer))


class Agreement:
    """Makes one process' wish to stop everybody's, without waiting for the device at every step.

    Args:
        fabric: the processes.
        wanted: whether this process wants to stop.
        every: several processes compare at every n-th question only. All must ask equally often.
    """

    def __init__(self, fabric: Fabric, wanted: Callable[[], bool], every: int = 16) -> None:
        self._fabric = fabric
        self._wanted = wanted
        self._every = every
        self._asked = 0
        self._agreed = False

    def __call__(self) -> bool:
        """Whether all stop now; the same answer in every process."""
        if self._fabric.world_size == 1:
            return self._wanted()
        self._asked += 1
        if self._agreed or self._asked % self._every:
            return self._agreed
        return self.now()

    def now(self) -> bool:
        """As a call, but always compared. All must come here together."""
        if self._fabric.world_size == 1:
            return self._wanted()
        wish = torch.tensor(
            [float(self._wanted())], dtype=torch.float32, device=self._fabric.device
        )
        total = self._fabric.all_reduce(wish, reduce_op="sum")
        assert isinstance(total, Tensor)
        self._agreed = self._agreed or bool(total.item() > 0)
        return self._agreed
