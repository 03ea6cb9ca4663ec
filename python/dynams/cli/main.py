"""The command `dynams`: finds the subcommand and turns every error into one line and a status.

Subcommands are imported when they are called, so that help is quick.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import dynams
from dynams.checks import one_of
from dynams.cli.errors import INTERRUPTED, OK, UsageError, tell, tell_error
from dynams.suggestions import unknown
from dynams.training.launched import rank_here

_COMMANDS = {
    "train": "train a network on the samples that DynaMS selects, or resume a run",
    "compare": "compare recipes over budgets and seeds, as a queue that can be resumed",
    "bench": "time the kernels on this machine, beside torch",
    "info": "show versions, devices and kernels",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments after the program's name; None takes those of the process.

    Returns:
        The exit status: 0 when all went well, 1 when a run failed, 2 for bad input, 130 after an
        interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A path need not be text, nor a terminal show it.
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        if rank_here() == 0:
            tell("stopped at once")
        return INTERRUPTED
    except BrokenPipeError:
        return OK
    except Exception as error:  # the one place where any error becomes a line
        return tell_error(error)


def _run(argv: list[str]) -> int:
    if not argv:
        raise UsageError(f"command: got none, want one of {', '.join(_COMMANDS)}")
    command, *rest = argv
    if command in ("-h", "--help"):
        sys.stdout.write(_help())
        return OK
    if command == "--version":
        sys.stdout.write(f"dynams {dynams.__version__}\n")
        return OK
    if command.startswith("-"):
        raise UsageError(unknown("option", command, ("--help", "--version")))
    one_of("command", command, _COMMANDS)
    if command == "train":
        from dynams.cli import train

        return train.run(rest)
    if command == "compare":
        from dynams.cli import compare

        return compare.run(rest)
    if command == "bench":
        from dynams.cli import bench

        return bench.run(rest)
    from dynams.cli import info

    return info.run(rest)


def _help() -> str:
    width = max(map(len, _COMMANDS))
    commands = "".join(f"  {name:<{width}}  {text}\n" for name, text in _COMMANDS.items())
    return (
        "usage: dynams [-h] [--version] COMMAND ...\n\n"
        "Training on the samples nearest the decision boundary.\n\n"
        f"commands:\n{commands}\n"
        "options:\n"
        "  -h, --help  show this help; dynams COMMAND --help shows a command's options\n"
        "  --version   show the version\n\n"
        "environment:\n"
        "  DYNAMS_DEBUG=1  show the traceback of an error\n"
    )
