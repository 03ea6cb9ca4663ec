"""`dynams info`: versions, devices, which kernels are compiled in, usable and in use, and why not."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dynams.cli.errors import OK, PlainParser, UsageError, tell
from dynams.suggestions import unknown


def run(argv: Sequence[str]) -> int:
    """Run `dynams info`.

    Returns:
        The exit status.
    """
    try:
        options = _parse(argv)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    found = gather()
    _tell_fallbacks()
    text = json.dumps(found, indent=2) if options["json"] else as_text(found)
    sys.stdout.write(text + "\n")
    return OK


def gather() -> dict[str, Any]:
    """All that `dynams info` shows, as plain values."""
    import dynams_kernels as dk
    from dynams.training.environment import environment

    return {
        "versions and processor": {k: v for k, v in environment().items() if k != "kernels"},
        "devices": _devices(),
        "kernels": dk.backends(),
    }


def _tell_fallbacks() -> None:
    import torch

    import dynams_kernels as dk

    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        dk.tell_fallback(device, tell)


def as_text(found: Mapping[str, Any]) -> str:
    """Format it for people: a heading and an indented list for each part."""
    lines: list[str] = []
    for title, part in found.items():
        lines += ["", f"{title.capitalize()}:"]
        lines += _indented(part, 2)
    return "\n".join(lines).lstrip("\n")


def _indented(part: Mapping[str, Any], indent: int) -> list[str]:
    width = max((len(str(name)) for name in part), default=0)
    lines = []
    for name, value in part.items():
        label = " " * indent + str(name).replace("_", " ")
        if isinstance(value, Mapping) and value:
            lines += [label, *_indented(value, indent + 2)]
        else:
            lines.append(f"{label:<{indent + width}}  {_words(value)}")
    return lines


def _words(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple, Mapping)):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _devices() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"cpu": "yes"}
    if not torch.cuda.is_available():
        built = "is built without CUDA" if torch.version.cuda is None else "sees no usable GPU"
        found["cuda"] = f"no: torch {built}"
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"compute capability {properties.major}.{properties.minor}, "
            f"{properties.multi_processor_count} multiprocessors"
        )
    if torch.backends.mps.is_available():
        found["mps"] = "yes"
    return found


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    parser = PlainParser(
        prog="dynams info",
        description="Show versions, devices, and which kernels are compiled in, usable and in use.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options, others = parser.parse_known_args(argv)
    if others:
        raise UsageError(unknown("argument", others[0], ("--json", "--help")))
    return vars(options)
