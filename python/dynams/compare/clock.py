"""How long cells will take, and when to stop.

A cell's time is estimated from finished cells of the same environment, the nearest kin first: the
same recipe, budget and epochs; the same recipe, in proportion to the samples planned; any recipe,
in proportion, with the slowest of them counting. What is wall-clock counts whole: evaluation and
checkpoints too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from dynams.compare.cells import CellKey, planned_share
from dynams.compare.results import Cell
from dynams.training.config import TrainConfig
from dynams.training.interrupt import Interrupt
from dynams.training.options import build

# Finished cells of one recipe and budget differ by little, but a cell that comes too late is lost time.
_CAUTION = 1.1


@dataclass(frozen=True)
class Expected:
    """Seconds that a cell is expected to take, and from what that is concluded."""

    seconds: float
    basis: str


def expected(
    key: CellKey, config: TrainConfig, finished: Iterable[Cell], machine: str
) -> Expected | None:
    """Tell the seconds that a whole cell is expected to take.

    Args:
        key: the cell.
        config: what it trains.
        finished: finished cells.
        machine: the environment that it would run in, as `machine_of` tells it.

    Returns:
        None if nothing is known.
    """
    timed = [cell for cell in finished if cell.machine == machine and cell.total_seconds > 0]
    own = [cell for cell in timed if cell.key.recipe == key.recipe]
    same = [cell for cell in own if cell.key.budget == key.budget]
    same = [cell for cell in same if cell.options["optim.epochs"] == config.optim.epochs]
    if same:
        seconds = max(cell.total_seconds for cell in same)
        return Expected(_CAUTION * seconds, "other seeds")
    share = planned_share(config)
    for kin, basis in ((own, "other budgets"), (timed, "other recipes")):
        rates = [cell.total_seconds / planned_share(build(cell.options)) for cell in kin]
        if rates:
            return Expected(_CAUTION * share * max(rates), basis)
    return None


class Deadline(Interrupt):
    """An interrupt that also asks to stop when the time is up.

    Args:
        seconds: from now; None for no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__()
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until the time is up; infinite without a limit."""
        return float("inf") if self._end is None else self._end - time.monotonic()

    @property
    def asked(self) -> bool:
        """True once a signal or a caller asked to stop, whatever the time."""
        return super().requested

    @property
    def requested(self) -> bool:
        """True once the run was asked to stop, or the time is up."""
        return super().requested or self.seconds_left <= 0


def usable(limit_seconds: float) -> float:
    """Seconds of a limit that cells may use: some are kept back to save and to write the report."""
    return limit_seconds - min(15.0, max(2.0, 0.1 * limit_seconds))
