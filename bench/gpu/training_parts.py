"""The runs of bench/gpu.sh that are timed (see trained.py): the digits, ResNet-18 in its ways, and what selecting costs there."""

from __future__ import annotations

import importlib.util
import math
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from gpu import ledger, targets, timing
from gpu.training_setting import SHOWN, Bench, Found, NotHereError, Sections, Sizes, log_of

if TYPE_CHECKING:
    from dynams.report import EpochRecord

COMPILE_SECONDS = 65.0
# Epochs between two selections, for which the share of selecting is told.
Q = 10


def step_seconds(record: EpochRecord) -> float:
    """Seconds of an epoch's steps as the run accounts for them: training, the proxy's loss, data."""
    return sum(record.seconds[name] for name in ("training", "proxy loss", "data"))


def shares(record: EpochRecord) -> dict[str, float]:
    """What share of Q epochs and one refresh selecting has, by an epoch that began with a refresh.

    Evaluation is no part of it. "selecting" is the target's: scoring all candidates and choosing among them.
    """
    seconds = record.seconds
    whole = Q * step_seconds(record) + seconds["scoring"] + seconds["selection"]
    refresh = seconds["scoring"] + seconds["selection"]
    return {
        "choosing alone": seconds["selection"] / whole,
        "selecting": refresh / whole,
        "selecting and the proxy's loss": (refresh + Q * seconds["proxy loss"]) / whole,
    }


def digits(bench: Bench) -> Found:
    """The default run, with the report, its pictures and the progress where the packages are there."""
    from dynams.training import train
    from gpu.watched import Watch

    if importlib.util.find_spec("sklearn") is None:
        raise NotHereError("scikit-learn, which brings the digits, is not installed")
    shown = {name: importlib.util.find_spec(package) is not None for name, package in SHOWN.items()}
    watch = Watch(score="gap")
    epochs = bench.sizes.digits_epochs
    summary = train(
        bench.config({"run": shown, "optim": {"epochs": epochs}}),
        interrupt=watch,
        on_refresh=watch.refreshed,
    )
    run = log_of(summary)
    least = 0.9 if epochs == Sizes.digits_epochs else 0.0
    assert summary.accuracy >= least, f"accuracy {summary.accuracy}"
    left_out = [name for name, there in shown.items() if not there]
    return [
        (f"{epochs} epochs, {summary.steps} steps", summary.total_seconds, "s"),
        ("accuracy", summary.accuracy, "share"),
        ("an epoch's step, the last", step_seconds(run.epochs[-1]) / run.epochs[-1].steps, "s"),
        ("selections compared with NumPy's", watch.checked, ""),
        ("left out, their packages are missing", ", ".join(left_out) or "nothing", ""),
    ]


def joint(bench: Bench) -> tuple[Found, dict[str, Any]]:
    """ResNet-18 with a joint proxy of half the width, every epoch a selection; and the entry that the target rests on."""
    from dynams.training import train
    from gpu.watched import Watch, Window

    sizes = bench.sizes
    begin = time.perf_counter()
    data = bench.images(sizes.images)
    loaded = time.perf_counter() - begin
    steps = math.ceil(0.6 * sizes.images / sizes.batch)
    watch = Watch(
        windows=(
            Window("choosing, 1 refresh", 0, 0, 1),
            Window("training, 5 steps", 0, 1, 6),
            # Behind the epoch's steps and its end.
            Window("scoring, 5 batches", 1, steps + 2, steps + 7),
        ),
        score="gap",
        timed=1,
    )
    config = bench.config(
        resnet18(bench),
        {
            "selection": {"refresh_every": 1, "warmup_epochs": 1},
            "optim": {"epochs": 4, "batch_size": sizes.batch, "lr": 0.05},
        },
    )
    with closing(watch):
        summary = train(config, data, interrupt=watch, on_refresh=watch.refreshed)
    run = log_of(summary)
    first, _, both, alone = run.epochs
    found: Found = [
        (f"{sizes.images:,} images {'decoded and ' if bench.real else 'drawn '}on the device", loaded, "s"),
        ("first epoch, on all of them, cuDNN's trials of algorithms included", sum(first.seconds.values()), "s"),
        (f"a step of {sizes.batch} images, both widths", step_seconds(both) / both.steps, "s"),
        ("of which the proxy's loss", both.seconds["proxy loss"] / step_seconds(both), "share"),
        ("of which data", both.seconds["data"] / step_seconds(both), "share"),
        ("both widths", both.samples / step_seconds(both), "images/s"),
        ("a step at full width alone", step_seconds(alone) / alone.steps, "s"),
        ("full width alone", alone.samples / step_seconds(alone), "images/s"),
        ("from step to step by the clock, both widths", watch.wall_seconds(1, both.steps), "s"),
        ("the host's time of such a step", watch.host_seconds(1), "s"),
        ("scoring at width 0.5", sizes.images / both.seconds["scoring"], "images/s"),
        (f"scoring {sizes.images:,} images", both.seconds["scoring"], "s"),
        (f"choosing {both.samples:,} of them", both.seconds["selection"], "s"),
        ("evaluating, both widths", both.seconds["evaluation"], "s"),
    ]  # fmt: skip
    told = shares(both)
    found += [(f"share of {name} at Q = {Q}", value, "share") for name, value in told.items()]
    found += [
        (f"waits for the device, {name}", waits.words(), "") for name, waits in watch.waits.items()
    ]
    found += [("selections compared with NumPy's", watch.checked, "")]
    if bench.real:
        found += [("accuracy after 4 epochs", summary.accuracy, "share")]
    refresh = both.seconds["scoring"] + both.seconds["selection"]
    entry = {
        "name": targets.SELECTING,
        "stats": {"median": refresh},
        "extra_info": {"limit": "training", "share": told["selecting"], "peers": {}},
    }
    return found, entry


def free(bench: Bench) -> Found:
    """The preset's recipe: small batches, margins of the training steps themselves, no proxy."""
    from dynams.training import train
    from gpu.watched import Watch, Window

    sizes = bench.sizes
    watch = Watch(windows=(Window("training, 5 steps", 0, 1, 6),))
    recipe = {
        "options": {"margin": {"kind": "label"}},
        "free": True,
        "max_age": 1000,
        "refresh_every": 1,
    }
    config = bench.config(
        resnet18(bench),
        {
            "selection": {**recipe, "warmup_epochs": 1},
            "proxy": {"recipe": "none"},
            "optim": {"epochs": 3, "batch_size": sizes.small_batch, "lr": 0.05},
        },
    )
    data = bench.images(sizes.small_images)
    with closing(watch):
        summary = train(config, data, interrupt=watch, on_refresh=watch.refreshed)
    last = log_of(summary).epochs[-1]
    seconds = last.seconds
    refresh = seconds["scoring"] + seconds["selection"]
    return [
        (f"a step of {sizes.small_batch} images", step_seconds(last) / last.steps, "s"),
        ("full width", last.samples / step_seconds(last), "images/s"),
        ("from step to step by the clock", watch.wall_seconds(1, last.steps), "s"),
        ("the host's time of a step", watch.host_seconds(1), "s"),
        (
            "share of selecting, every epoch",
            refresh / (step_seconds(last) + refresh),
            "share",
        ),
        *(
            (f"waits for the device, {name}", waits.words(), "")
            for name, waits in watch.waits.items()
        ),
    ]


def compiled(bench: Bench) -> Found:
    """The joint run through torch.compile."""
    from dynams.training import train

    sizes = bench.sizes
    left = ledger.deadline() - time.time()
    if left < COMPILE_SECONDS / 2:
        raise NotHereError(f"{left:.0f} s were left")
    with timing.time_limit(min(COMPILE_SECONDS, left), "torch.compile"):
        summary = train(
            bench.config(
                resnet18(bench),
                {
                    "selection": {
                        "warmup_epochs": 1,
                        "refresh_every": 1,
                        "batch_size": sizes.batch,
                    },
                    "optim": {"epochs": 3, "batch_size": sizes.batch, "lr": 0.05},
                    "run": {"compile": True},
                },
            ),
            bench.images(sizes.small_images),
        )
    run = log_of(summary)
    both, alone = run.epochs[1:]
    return [
        ("first epoch, compilation included", sum(run.epochs[0].seconds.values()), "s"),
        (f"a step of {sizes.batch} images, both widths", step_seconds(both) / both.steps, "s"),
        # The graph of one width alone is compiled in it.
        ("the epoch at full width alone, its compilation included", step_seconds(alone), "s"),
    ]


def resnet18(bench: Bench) -> Sections:
    """What the runs on CIFAR-10 have in common."""
    model = {"name": "resnet18", "stem": "cifar", "base_channels": bench.sizes.channels}
    # A checkpoint is 180 MB: one, at the end.
    return {"model": model, "run": {"precision": "bf16-mixed", "save_every": 1000}}
