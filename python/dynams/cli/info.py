"""`dynams info`: versions, devices, which kernels are compiled in, usable and in use, and why not."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from dynams.cli.errors import OK, UsageError
from dynams.cli.suggest import suggestion

if TYPE_CHECKING:
    import torch

_REPEATS = 7


def run(argv: Sequence[str]) -> int:
    """Run `dynams info`.

    Returns:
        The exit status.
    """
    try:
        options = _parse(argv)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    found = gather(timings=options["timings"])
    text = json.dumps(found, indent=2) if options["json"] else as_text(found)
    sys.stdout.write(text + "\n")
    return OK


def gather(*, timings: bool = False) -> dict[str, Any]:
    """All that `dynams info` shows, as plain values.

    Args:
        timings: also time the kernels against torch for about a second.
    """
    import dynams_kernels as dk
    from dynams.training.environment import environment

    found: dict[str, Any] = {
        "versions and processor": {k: v for k, v in environment().items() if k != "kernels"},
        "devices": _devices(),
        "kernels": dk.backends(),
    }
    if timings:
        found["timings"] = _timings()
    return found


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


def _timings() -> dict[str, str]:
    """Milliseconds of two kernels beside torch's way to the same answer, on every device."""
    import torch

    import dynams_kernels as dk

    shown = {}
    for name in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        device = torch.device(name)
        random = torch.Generator(device).manual_seed(0)
        logits = torch.randn(8192, 1000, generator=random, device=device)
        values = torch.randn(1_000_000, generator=random, device=device)
        k = 600_000

        def top_two(logits: torch.Tensor = logits) -> object:
            two = logits.topk(2).values
            return two[:, 0] - two[:, 1]

        def torch_smallest(values: torch.Tensor = values, k: int = k) -> object:
            return values.topk(k, largest=False, sorted=False)

        pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "margin 8192 x 1000": (partial(dk.margin, logits), top_two),
            "smallest 600,000 of 1,000,000": (
                partial(dk.smallest_k, values, k),
                torch_smallest,
            ),
        }
        for what, (ours, theirs) in pairs.items():
            mine, other = _milliseconds(ours, device), _milliseconds(theirs, device)
            shown[f"{what}, {name}"] = f"{mine:.2f} ms (torch {other:.2f} ms)"
    return shown


def _milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Median of a few runs after one that warms up; on CUDA until the device is done."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    passed = []
    for _ in range(_REPEATS + 1):
        wait()
        started = time.perf_counter()
        work()
        wait()
        passed.append(1e3 * (time.perf_counter() - started))
    return statistics.median(passed[1:])


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(message)

    parser = Parser(
        prog="dynams info",
        description="Show versions, devices, and which kernels are compiled in, usable and in use.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument(
        "--timings",
        action="store_true",
        help="also time the kernels against torch (about a second)",
    )
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        known = ["--json", "--timings", "--help"]
        raise UsageError(f"unknown argument {unknown[0]!r}{suggestion(unknown[0], known)}")
    return vars(options)
