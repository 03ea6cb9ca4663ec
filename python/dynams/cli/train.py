"""`dynams train`: parse, predict where that is asked for, train, show the final table."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynams.cli.errors import INTERRUPTED, OK, tell
from dynams.cli.options import ForecastRequest, parse

if TYPE_CHECKING:
    from dynams.report import Summary
    from dynams.training.config import TrainConfig


def run(argv: Sequence[str]) -> int:
    """Run `dynams train`.

    Returns:
        The exit status.
    """
    try:
        request = parse(argv)
        if request.forecast is not None:
            request = parse([*request.forecast.argv, *_planned(request.config, request.forecast)])
    except SystemExit as done:  # --help and --print_config
        return int(done.code or 0)
    _quieten()
    from dynams.training.loop import train

    summary = train(request.config, resume=request.resume)
    # Another process than the first must not fail: the launcher would kill the first one for it.
    if not _is_first():
        return OK
    _show(summary)
    if summary.completed:
        return OK
    tell(f"stopped; resume with: dynams train --resume {shlex.quote(summary.run_dir)}")
    return INTERRUPTED


def _planned(config: TrainConfig, wanted: ForecastRequest) -> list[str]:
    """Tell what the run will cost. Returns the option of the budget that was found, if one was wanted."""
    from dynams.training.run_cost import forecast_of, told

    found = forecast_of(config, wanted.rates, seconds=wanted.seconds, fraction=wanted.fraction)
    if _is_first():
        for line in told(found):
            tell(line)
        for text in found.warnings:
            tell(f"warning: {text}")
    if wanted.seconds is None and wanted.fraction is None:
        return []
    return [f"--selection.budget={found.budget!r}"]


def _is_first() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _show(summary: Summary) -> None:
    from dynams.report.console import make_console, summary_table

    make_console().print(summary_table(summary))


def _quieten() -> None:
    """Leave out what the engine says about itself."""
    import logging

    import lightning_fabric  # noqa: F401  (importing it sets the levels of its loggers)

    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning_fabric.*")
