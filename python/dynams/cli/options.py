"""The options of `dynams train`, made from the configuration's dataclasses.

What counts, later before earlier: `--preset`, `--config`, options. That holds wherever they stand
on the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from dynams.checks import one_of, positive
from dynams.cli.errors import UsageError
from dynams.cli.parsing import (
    OptionParser,
    config_files,
    joined,
    nested_options,
    number_in,
    path_in,
    settings_file,
)
from dynams.training.config import TrainConfig
from dynams.training.launched import launched
from dynams.training.options import Options, build
from dynams.training.rundir import AUTO, fixed_run_dir, is_begun, read_config
from dynams.training.settings import declared

_OWN = "selection.options"

_DESCRIPTION = """\
Train a slimmable network on the samples that DynaMS selects. Without any option: a thin residual
network on the bundled digits, under a minute on two cores. Every option is also a key of a YAML
file for --config; options count before --config, which counts before --preset."""

_EPILOG = """\
A run's files are in run.dir/NAME-TIME: log.jsonl, config.yaml (the whole configuration),
checkpoints, tensorboard and report.html. SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGUSR1 finish the
step, save and exit with status 130; a second SIGINT stops at once. Ignored ones (nohup) stay so."""


@dataclass(frozen=True)
class TrainRequest:
    """What `dynams train` was asked to do.

    Attributes:
        config: the configuration.
        resume: the run to resume, if any; or "auto".
        forecast: what is to be known of its cost first, if anything.
        show: whether the configuration is to be printed, and nothing trained.
    """

    config: TrainConfig
    resume: str | Path | None
    forecast: ForecastRequest | None = None
    show: bool = False


@dataclass(frozen=True)
class ForecastRequest:
    """What is to be known of a run's cost before it begins.

    Attributes:
        rates: directory of the run that was measured.
        seconds: target in seconds, if any.
        fraction: target as a fraction of the same epochs on all samples, if any.
    """

    rates: Path
    seconds: float | None
    fraction: float | None


def presets() -> dict[str, Path]:
    """List the presets that come with the package: name and file."""
    folder = Path(str(resources.files("dynams.cli"))) / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def make_parser() -> OptionParser:
    """Make the parser of `dynams train`."""
    parser = OptionParser(
        prog="dynams train",
        usage="dynams train [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        action="append",
        default=[],
        help=f"start from a preset: {', '.join(presets())}; of several, such as cifar10 and "
        "dynams-paper, a later one counts before an earlier one",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        default=[],
        type=path_in,
        help="YAML file of options; of several, a later one counts before an earlier one",
    )
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="print the whole configuration, as a file for --config, and train nothing",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        type=_run_in,
        help="go on with the run in this directory, with its own configuration; or from an earlier state of it, "
        "such as RUN_DIR/checkpoints/best.pt; auto: the run is in run.dir/run.name, where it goes on if it "
        "has saved anything and begins if not, so that one command serves however often it is restarted",
    )
    parser.add_argument(
        "--rates",
        metavar="RUN_DIR",
        type=path_in,
        help="predict this run's seconds by those of an earlier one with the same network, data, batch "
        "size, strategy and device (a few epochs with two selections are enough), and warn where "
        "selecting costs more than it saves",
    )
    parser.add_argument(
        "--within",
        metavar="SECONDS",
        type=number_in,
        help="with --rates: set selection.budget to the largest that is predicted to take so long at most",
    )
    parser.add_argument(
        "--within-fraction",
        metavar="FRACTION",
        type=number_in,
        help="the same, as a fraction of what the same epochs on all samples take, such as 0.5",
    )
    add_train_settings(parser)
    return parser


def add_train_settings(parser: OptionParser, *, in_help: bool = True) -> None:
    """Give a parser an option for every setting of `TrainConfig`."""
    for section in dataclasses.fields(TrainConfig):
        kind: Any = section.default_factory
        title = str(kind.__doc__).partition(".\n")[0]
        parser.add_settings(title, declared(kind, section.name), in_help=in_help)


def read_train_options(
    parser: OptionParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, Options, Options]:
    """Read arguments some of which are options of `dynams train`.

    Returns:
        The command's own options, the settings that were given, and the single options of strategies,
        which go on top of what files give the strategy.

    Raises:
        UsageError, TypeError, ValueError: an argument is unknown or refused.
    """
    single, rest = nested_options(argv, _OWN)
    own, given = parser.read(rest)
    return own, given, single


def with_single(options: Options, single: Options) -> Options:
    """Put single options of strategies on top of all others."""
    return {**options, _OWN: joined(options.get(_OWN, {}), single)} if single else options


def parse(argv: Sequence[str]) -> TrainRequest:
    """Read the arguments after `dynams train`.

    Raises:
        UsageError: an option, key or value is unknown or refused, or a file is missing.
        TypeError, ValueError: a value is out of range, or a file holds no keys.
        SystemExit: help was asked for and is printed.
    """
    parser = make_parser()
    own, given, single = read_train_options(parser, argv)
    if own.rates is None and (own.within, own.within_fraction) != (None, None):
        raise UsageError("--within: needs --rates, an earlier run to predict by")
    if own.resume is not None:
        if own.preset and own.resume != AUTO:
            raise UsageError("--preset: a resumed run keeps its configuration; leave it out")
        if own.rates is not None:
            raise UsageError("--rates: a resumed run keeps its budget; leave it out")
    values: Options = {}
    for name in own.preset:
        one_of("--preset", name, presets())
        values |= settings_file(presets()[name], f"--preset {name}", parser.settings)
    values |= config_files(own.config, parser.settings) | given
    config = build(with_single({**_of_the_run(own.resume, values), **values}, single))
    forecast = None
    if own.rates is not None:
        _check_target(own, given)
        forecast = ForecastRequest(own.rates, own.within, own.within_fraction)
    return TrainRequest(config, own.resume, forecast, own.print_config)


def _run_in(word: str) -> str | Path:
    """Read what is to be resumed; a directory of the name is ./auto."""
    return AUTO if word == AUTO else path_in(word)


def _of_the_run(resume: str | Path | None, given: Options) -> Options:
    """The options of the run that is resumed, if there is one; it has as many processes as were started."""
    if resume == AUTO:
        # Read only for where it is: the rest counts on top of the run's own.
        place: Options = {name: given[name] for name in ("run.dir", "run.name") if name in given}
        resume = fixed_run_dir(build(place))
        if not is_begun(resume):
            return {}
    if resume is None:
        return {}
    values, here = read_config(resume), launched()
    return values if here is None else {**values, "run.devices": here.size}


def _check_target(own: argparse.Namespace, given: Options) -> None:
    if own.within is not None and own.within_fraction is not None:
        raise UsageError("--within-fraction: does not go with --within")
    for name, target in (("--within", own.within), ("--within-fraction", own.within_fraction)):
        if target is not None:
            positive(name, target)
            if "selection.budget" in given:
                raise UsageError("--selection.budget: --within sets it; leave one of them out")
