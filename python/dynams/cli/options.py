"""The options of `dynams train`, made from the configuration's dataclasses by jsonargparse.

What counts, later before earlier: `--preset`, `--config`, options. That holds wherever they stand
on the command line, because the two kinds of file are moved to the front before it is parsed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from dynams.checks import one_of, positive
from dynams.cli.errors import PlainParser, UsageError
from dynams.cli.parsing import OptionParser, checked_file, number_in
from dynams.training.config import TrainConfig
from dynams.training.rundir import config_path

_OWN = "--selection.options"

_DESCRIPTION = """\
Train a slimmable network on the samples that DynaMS selects. Without any option: a thin residual
network on the bundled digits, under a minute on two cores. Every option is also a key of a YAML
file for --config; options count before --config, which counts before --preset."""

_EPILOG = """\
A run's files are in run.dir/NAME-TIME: log.jsonl, config.yaml (the whole configuration),
checkpoints, tensorboard and report.html. SIGINT (Ctrl-C) and SIGTERM finish the step, save and
exit with status 130; a second SIGINT stops at once."""


@dataclass(frozen=True)
class TrainRequest:
    """What `dynams train` was asked to do.

    Attributes:
        config: the configuration.
        resume: the run to resume, if any.
        forecast: what is to be known of its cost first, if anything.
    """

    config: TrainConfig
    resume: str | None
    forecast: ForecastRequest | None = None


@dataclass(frozen=True)
class ForecastRequest:
    """What is to be known of a run's cost before it begins.

    Attributes:
        rates: directory of the run that was measured.
        seconds: target in seconds, if any.
        fraction: target as a fraction of the same epochs on all samples, if any.
        argv: the arguments without this request, to be parsed once the budget is known.
    """

    rates: str
    seconds: float | None
    fraction: float | None
    argv: tuple[str, ...]


def presets() -> dict[str, Path]:
    """List the presets that come with the package: name and file."""
    folder = Path(str(resources.files("dynams.cli"))) / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def make_parser() -> ArgumentParser:
    """Make the parser of `dynams train`."""
    parser = OptionParser(
        prog="dynams train",
        usage="dynams train [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        default=argparse.SUPPRESS,
        help=f"start from a preset: {', '.join(presets())}; of several, such as cifar10 and "
        "dynams-paper, a later one counts before an earlier one",
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file of options")
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        default=argparse.SUPPRESS,
        help="go on with the run in this directory, with its own configuration",
    )
    parser.add_argument(
        "--rates",
        metavar="RUN_DIR",
        default=argparse.SUPPRESS,
        help="predict this run's seconds by those of an earlier one with the same network, data, batch "
        "size, strategy and device (a few epochs with two selections are enough), and warn where "
        "selecting costs more than it saves",
    )
    parser.add_argument(
        "--within",
        metavar="SECONDS",
        default=argparse.SUPPRESS,
        help="with --rates: set selection.budget to the largest that is predicted to take so long at most",
    )
    parser.add_argument(
        "--within-fraction",
        metavar="FRACTION",
        default=argparse.SUPPRESS,
        help="the same, as a fraction of what the same epochs on all samples take, such as 0.5",
    )
    add_settings(parser)
    return parser


def add_settings(parser: ArgumentParser, *, in_help: bool = True) -> None:
    """Give a parser an option for every setting of `TrainConfig`."""
    sections = [section.name for section in dataclasses.fields(TrainConfig)]
    for section in dataclasses.fields(TrainConfig):
        parser.add_class_arguments(section.default_factory, section.name)
    for action in parser._actions:
        # A file for one section works too, but only adds noise here.
        if action.dest in sections or (not in_help and action.dest.partition(".")[0] in sections):
            action.help = argparse.SUPPRESS


def take_settings(values: Namespace) -> dict[str, Any]:
    """Take the settings that were given out of a parser's values, by dotted name."""
    sections = [section.name for section in dataclasses.fields(TrainConfig)]
    given = {name: values.pop(name).as_dict() for name in sections if name in values}
    return {
        f"{name}.{key}": value for name, section in given.items() for key, value in section.items()
    }


def own_options_joined(parser: ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Join a strategy's options, each of which has an argument, with those that files give the strategy.

    jsonargparse takes keys of a setting, but of `--selection.options.STRATEGY.OPTION` it would keep the
    last option of each strategy only.

    Args:
        parser: of all arguments.
        argv: the arguments.

    Returns:
        The arguments, with one `--selection.options` in place of such ones.

    Raises:
        UsageError: an argument is refused.
    """
    own: dict[str, dict[str, Any]] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, beside, text = word.partition("=")
        strategy, _, option = name.removeprefix(f"{_OWN}.").partition(".")
        if name.startswith(f"{_OWN}.") and option:
            value = text if beside else next(words, None)
            if value is None:
                raise UsageError(f"{word}: expected one argument")
            own.setdefault(strategy, {})[option] = _value(value)
        else:
            rest.append(word)
    if not own:
        return rest
    given = parser.parse_args(_unprinted(rest), defaults=False).get("selection.options") or {}
    joined = {**given}
    for strategy, options in own.items():
        before = given.get(strategy)
        joined[strategy] = {**before, **options} if isinstance(before, dict) else options
    return [*rest, f"{_OWN}={json.dumps(joined)}"]


def parse(argv: Sequence[str]) -> TrainRequest:
    """Read the arguments after `dynams train`.

    Raises:
        UsageError: an option, key or value is unknown or refused, or a file is missing.
        TypeError, ValueError: a value is out of range, or a file holds no keys.
        SystemExit: help or the configuration was asked for and is printed.
    """
    chosen, rest = _take_files(argv)
    if chosen.rates is None and (chosen.within, chosen.within_fraction) != (None, None):
        raise UsageError("--within: needs --rates, an earlier run to predict by")
    files: list[Path] = []
    if chosen.resume is not None:
        if chosen.preset:
            raise UsageError("--preset: a resumed run keeps its configuration; leave it out")
        if chosen.rates is not None:
            raise UsageError("--rates: a resumed run keeps its budget; leave it out")
        own = checked_file(str(config_path(chosen.resume)), _keys())
        files += [] if own is None else [own]
    files += [_preset(name) for name in chosen.preset]
    files += [path for name in chosen.config if (path := checked_file(name, _keys())) is not None]
    arguments = [*(f"--config={path}" for path in files), *rest]
    parser = make_parser()
    arguments = own_options_joined(parser, arguments)
    forecast = None
    if chosen.rates is not None:
        forecast = _forecast(chosen, arguments)
        arguments = _unprinted(arguments)
    values = parser.parse_args(arguments)
    return TrainRequest(_build(values), chosen.resume, forecast)


def _forecast(chosen: argparse.Namespace, arguments: Sequence[str]) -> ForecastRequest:
    targeted = chosen.within is not None or chosen.within_fraction is not None
    if chosen.within is not None and chosen.within_fraction is not None:
        raise UsageError("--within-fraction: does not go with --within")
    for name, target in (
        ("--within", chosen.within),
        ("--within-fraction", chosen.within_fraction),
    ):
        if target is not None:
            positive(name, target)
    if targeted and "--selection.budget" in map(_option, arguments):
        raise UsageError("--selection.budget: --within sets it; leave one of them out")
    return ForecastRequest(chosen.rates, chosen.within, chosen.within_fraction, tuple(arguments))


def _unprinted(argv: Sequence[str]) -> list[str]:
    return [word for word in argv if _option(word) != "--print_config"]


def _value(text: str) -> Any:
    """What a word means, as in YAML; which reads 5e-4 as text."""
    try:
        return float(text) if re.fullmatch(r"[-+.\d]+[eE][-+]?\d+", text) else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text


def _option(word: str) -> str:
    return word.partition("=")[0]


def _build(values: Namespace) -> TrainConfig:
    sections: dict[str, Any] = {
        section.name: values[section.name].as_dict() for section in dataclasses.fields(TrainConfig)
    }
    return TrainConfig.from_dict(sections)


def _take_files(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    taker = PlainParser(add_help=False, allow_abbrev=False)
    taker.add_argument("--preset", action="append", default=[])
    taker.add_argument("--resume")
    taker.add_argument("--config", action="append", default=[])
    taker.add_argument("--rates")
    taker.add_argument("--within", type=number_in)
    taker.add_argument("--within-fraction", type=number_in)
    return taker.parse_known_args(argv)


def _preset(name: str) -> Path:
    known = presets()
    one_of("--preset", name, known)
    return known[name]


def _keys() -> list[str]:
    return [
        f"{section}.{key}" for section, values in TrainConfig().to_dict().items() for key in values
    ]
