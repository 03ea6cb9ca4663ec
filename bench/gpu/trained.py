"""Trains on the GPU: that every kind of run works there, how long its steps take, and what selecting costs.

python bench/gpu/trained.py [--only PART]... [--device cpu] [--tiny]

One part (training_parts.py, training_small.py) after the other, each told to the ledger (suite "train") as it ends, with what was found; what no
committed report holds comes first, and what an earlier process of the suite began is passed over. A part that fails stops none, and its traceback is printed.

Exit code: 0 where all was right, 3 where a part failed, 5 where a package is missing (told on the last line), 70 where the
device is beyond use, 124 where no time was left.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpu import known, ledger, timing
from gpu.device_guard import DEAD_DEVICE, device_is_dead
from gpu.training_parts import compiled, digits, free, joint
from gpu.training_setting import TINY, Bench, NotHereError, Sizes
from gpu.training_small import SWITCHES, frozen_margins, resumed, small, strategy

FAILED, MISSING, NO_TIME = 3, 5, 124
# All that training needs beside torch and NumPy.
NEEDED = {"lightning_fabric": "lightning-fabric", "yaml": "pyyaml"}
# Beyond it a part hangs: its process ends, and another goes on behind it.
PART_SECONDS = 80.0


def parts(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every part by its name: what is the likeliest to fail, or matters most, first, where time may end before all is reached."""
    from dynams.selection import STRATEGIES

    yield "digits", lambda: digits(bench)
    yield "joint proxy, ResNet-18", lambda: joint(bench)
    yield "frozen margins", lambda: frozen_margins(bench)
    yield "resumed", lambda: resumed(bench)
    for name in STRATEGIES:
        yield f"strategy {name}", lambda name=name: strategy(bench, name)
    for name, layer in SWITCHES.items():
        yield f"switch {name}", lambda layer=layer: small(bench, bench.device, layer)
    yield "images on the host", lambda: small(bench, "cpu")
    yield "free scores, ResNet-18", lambda: free(bench)
    yield "compiled, ResNet-18", lambda: compiled(bench)


def run(name: str, work: Callable[[], Any]) -> bool:
    """Runs a part and tells the ledger; whether it went well."""
    ledger.write_of_suite(begin=name)
    faulthandler.dump_traceback_later(PART_SECONDS, exit=True, file=sys.__stderr__)
    begin = time.perf_counter()
    line: dict[str, Any] = {"end": name, "outcome": "passed"}
    try:
        made = work()
        found, entry = made if isinstance(made, tuple) else (made, None)
        line["found"] = found
        if entry is not None:
            line["entry"] = entry
    except NotHereError as why:
        line.update(outcome="skipped", why=str(why))
    except Exception as error:
        traceback.print_exc()
        line.update(outcome="failed", why=timing.first_line(error))
    faulthandler.cancel_dump_traceback_later()
    line["seconds"] = time.perf_counter() - begin
    ledger.write_of_suite(**line)
    print(f"{name}: {line['outcome']} {line['seconds']:.2f} s {line.get('why', '')}", flush=True)
    return line["outcome"] != "failed"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(f"trained.py: not installed: {', '.join(missing)}", flush=True)
        return MISSING
    folder = Path(tempfile.mkdtemp(prefix="trained-"))
    bench = Bench(options.device, TINY if options.tiny else Sizes(), folder)
    chosen = [
        (name, work) for name, work in parts(bench) if not options.only or name in options.only
    ]
    held = known.trained()
    chosen.sort(key=lambda part: part[0] in held)
    kept = ledger.path()
    begun = set(ledger.read(kept).suite(ledger.suite()).begun) if kept else set()
    ledger.write_of_suite(collected=len(chosen))
    good = True
    try:
        for name, work in chosen:
            if name in begun:
                continue
            if time.time() > ledger.deadline():
                print("trained.py: no time was left", flush=True)
                return NO_TIME
            if not run(name, work):
                good = False
                if device_is_dead():
                    print(f"trained.py: the device is dead after {name}", flush=True)
                    return DEAD_DEVICE
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
