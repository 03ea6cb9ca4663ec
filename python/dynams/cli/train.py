"""`dynams train`: parse, predict where that is asked for, train, show the final table."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from dynams.cli.errors import INTERRUPTED, OK, tell, tell_error
from dynams.cli.options import ForecastRequest, parse
from dynams.training.interrupt import Interrupt
from dynams.training.launched import rank_here
from dynams.training.rundir import config_text, resume_command

if TYPE_CHECKING:
    from dynams.report import Summary
    from dynams.training.config import TrainConfig


def run(argv: Sequence[str]) -> int:
    """Run `dynams train`.

    Returns:
        The exit status.
    """
    # Importing and loading take seconds; once there is something to save the run itself looks after it.
    with Interrupt(nothing_to_save=True) as interrupt:
        return _run(argv, interrupt)


def _run(argv: Sequence[str], interrupt: Interrupt) -> int:
    try:
        request = parse(argv)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    config = request.config
    if request.forecast is not None:
        config = _planned(config, request.forecast)
    if request.show:
        sys.stdout.write(config_text(config))
        return OK
    _quieten()
    import dynams_kernels as dk
    from dynams.report.console import make_console
    from dynams.training.devices import resolve_device
    from dynams.training.entry import train
    from dynams.training.errors import ReportError

    make_console()  # the table at the end needs it: what is missing is told now
    if rank_here() == 0:
        dk.tell_fallback(resolve_device(config.run.accelerator), tell)
    unreported: ReportError | None = None
    try:
        summary = train(config, resume=request.resume, interrupt=interrupt)
    except ReportError as error:
        summary, unreported = error.summary, error
    # Another process than the first must not fail: the launcher would kill the first one for it.
    if rank_here() > 0:
        return OK
    with suppress(OSError):  # a terminal that is gone asked the run to stop
        _show(summary)
    status = OK if unreported is None else tell_error(unreported)
    if summary.completed:
        return status
    tell(f"stopped; resume with: {resume_command(summary.run_dir)}")
    return INTERRUPTED


def _planned(config: TrainConfig, wanted: ForecastRequest) -> TrainConfig:
    """Tell what the run will cost. Returns it with the budget that was found, if one was wanted."""
    from dynams.training.run_cost import forecast_of, told

    found = forecast_of(config, wanted.rates, seconds=wanted.seconds, fraction=wanted.fraction)
    if rank_here() == 0:
        for line in told(found):
            tell(line)
        for text in found.warnings:
            tell(f"warning: {text}")
    if wanted.seconds is None and wanted.fraction is None:
        return config
    selection = dataclasses.replace(config.selection, budget=found.budget)
    return dataclasses.replace(config, selection=selection)


def _show(summary: Summary) -> None:
    from dynams.report.console import make_console, summary_table

    console = make_console()
    console.print(summary_table(summary, console.encoding), soft_wrap=True)


def _quieten() -> None:
    """Leave out what the engine says about itself."""
    import logging

    import lightning_fabric  # noqa: F401  (importing it sets the levels of its loggers)

    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning_fabric.*")
