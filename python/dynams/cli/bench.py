"""`dynams bench`: how fast the kernels are on this machine, beside torch and beside a copy."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from dynams.bench.config import BenchConfig
from dynams.cli.errors import OK, tell
from dynams.cli.parsing import OptionParser, config_files, path_in
from dynams.training.settings import declared, setting

if TYPE_CHECKING:
    from dynams.bench.timing import Measurement, Result

_DESCRIPTION = """\
Time the kernels on this machine: each beside torch's way to the same answer, in turn, and beside
what limits it, a copy or the matrix product alone. Prints a Markdown table on standard output; less
than a minute on two cores. Every option is also a key of a YAML file for --config; options count
before --config."""

_HEAD = ("kernel", "inputs", "ours", "rate", "of a copy", "beside", "its time", "ours is")


def run(argv: Sequence[str]) -> int:
    """Run `dynams bench`.

    Returns:
        The exit status.
    """
    try:
        config, as_json = parse(argv)
    except SystemExit as done:  # --help and --print_config
        return int(done.code or 0)
    import dynams_kernels as dk
    from dynams.bench.timing import measure
    from dynams.training.devices import resolve_device

    dk.tell_fallback(resolve_device(config.device, "device", mps=False), tell)

    say = tell if sys.stderr.isatty() else lambda text: None
    measured = measure(config, say)
    text = json.dumps(dataclasses.asdict(measured), indent=2) if as_json else as_text(measured)
    sys.stdout.write(text + "\n")
    return OK


@dataclass(frozen=True)
class _Shown:
    json: bool = setting(False, "print JSON instead of the table")


def make_parser() -> OptionParser:
    """Make the parser of `dynams bench`."""
    parser = OptionParser(
        prog="dynams bench",
        usage="dynams bench [options]",
        description=_DESCRIPTION,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        default=[],
        type=path_in,
        help="YAML file of options",
    )
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="print the whole configuration, as a file for --config, and time nothing",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_settings("What is measured, on inputs of which shape", declared(BenchConfig))
    return parser


def parse(argv: Sequence[str]) -> tuple[BenchConfig, bool]:
    """Read the arguments after `dynams bench`: the configuration, and whether JSON is wanted.

    Raises:
        UsageError: an option, key or value is unknown or refused, or a file is missing.
        TypeError, ValueError: a value is out of range, or a file holds no keys.
        SystemExit: help or the configuration was asked for and is printed.
    """
    parser = make_parser()
    own, given = parser.read(argv)
    known = {**parser.settings, **{each.name: each for each in declared(_Shown)}}
    values = config_files(own.config, known)
    as_json = values.pop("json", False) or own.json
    config = BenchConfig(**{**values, **given})
    if own.print_config:
        sys.stdout.write(yaml.safe_dump(config.to_dict(), sort_keys=False))
        raise SystemExit(OK)
    return config, as_json


def as_text(measured: Measurement) -> str:
    """Format it for people: where it was measured, a table, and how to read it."""
    where = measured.environment
    serves = where["kernels"]
    if str(where["device"]).startswith("cuda"):
        device = where["device"]
        kernels = ", ".join(f"{name} {backend}" for name, backend in serves["cuda"].items())
    else:
        device, kernels = where["cpu"], serves["cpu"]
    asked = measured.config.device
    number = f" ({asked})" if ":" in asked else ""
    lines = [
        f"{device}{number}, threads: {where['threads']}, torch {where['torch']}, "
        f"kernels: {kernels}, copy {measured.copy_bytes_per_second / 1e9:.1f} GB/s",
        "",
        *_table(measured.results),
        "",
        f"Medians of {measured.config.rounds} rounds, host and device together; speed-ups are medians of the rounds' ratios.",
        "Rate: bytes that must be moved at least, or operations of the product, by the time. What fits a cache may pass a copy.",
    ]
    return "\n".join(lines)


def _table(results: Sequence[Result]) -> list[str]:
    rows: list[tuple[str, ...]] = [_HEAD]
    for result in results:
        own = (
            result.kernel,
            result.inputs,
            _time(result.seconds),
            _rate(result),
            "" if result.of_copy is None else f"{result.of_copy:.2f}",
        )
        for number, peer in enumerate(result.peers):
            shown = own if number == 0 else ("",) * len(own)
            rows.append((*shown, peer.name, _time(peer.seconds), f"{peer.speedup:.2f} x"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    words = {0, 1, 5}
    marks = [
        "-" * width if i in words else "-" * (width - 1) + ":" for i, width in enumerate(widths)
    ]
    lines = []
    for row in [_HEAD, tuple(marks), *rows[1:]]:
        cells = [
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _rate(result: Result) -> str:
    if result.bytes_per_second is not None:
        return f"{result.bytes_per_second / 1e9:.1f} GB/s"
    return "" if result.flops is None else f"{result.flops / 1e9:.0f} GFLOP/s"
