"""What bench/gpu.sh trains (see trained.py): runs on the digits, on CIFAR-10 and on noise, and what each of them tells.

CIFAR-10 is read from $DYNAMS_CIFAR10; noise of its size stands for it where that is unset, which costs the accuracy alone. What a part
needs is imported when it runs: one that cannot be imported costs that part alone.
"""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu import ledger, targets, timing

if TYPE_CHECKING:
    from dynams.data import ImageData
    from dynams.report import EpochRecord, Summary
    from dynams.report.records import Run
    from dynams.training import TrainConfig

# What only shows a run, and is left out where its package is missing.
SHOWN = {"report": "matplotlib", "tensorboard": "tensorboard", "progress": "rich"}
COMPILE_SECONDS = 40.0
# Epochs between two selections, for which the share of selecting is told.
Q = 10

Sections = dict[str, dict[str, Any]]
# What was found, its value, and the unit: "s", "share", "images/s" or nothing.
Found = list[tuple[str, float | str, str]]


class NotHereError(Exception):
    """A part that cannot run here, and why."""


@dataclass(frozen=True)
class Sizes:
    """How much is trained. Every step, batch scored and batch evaluated has the same size: cuDNN tries its algorithms once."""

    images: int = 50_000
    batch: int = 500
    small_images: int = 10_000
    small_batch: int = 125
    digits_epochs: int = 30
    channels: int | None = None


TINY = Sizes(images=60, batch=10, small_images=40, small_batch=10, digits_epochs=3, channels=4)


@dataclass
class Bench:
    """Where and on what the parts run."""

    device: str
    sizes: Sizes
    folder: Path
    _images: ImageData | None = None

    def config(self, *layers: Sections) -> TrainConfig:
        """A configuration that shows nothing; later layers change earlier ones."""
        from dynams.training import TrainConfig

        quiet = dict.fromkeys(SHOWN, False)
        merged: Sections = {"run": {"dir": str(self.folder), "accelerator": self.device, **quiet}}
        for layer in layers:
            for section, values in layer.items():
                merged.setdefault(section, {}).update(values)
        return TrainConfig.from_dict(merged)

    @property
    def real(self) -> bool:
        """Whether there is CIFAR-10."""
        return bool(os.environ.get("DYNAMS_CIFAR10"))

    def images(self, count: int) -> ImageData:
        """The first of CIFAR-10's images, or some of their size, on the device."""
        import torch

        from dynams.data import load_data

        if self._images is None:
            self._images = (
                load_data(
                    "cifar10",
                    os.environ["DYNAMS_CIFAR10"],
                    limit=self.sizes.images,
                    storage="device" if self.device == "cuda" else "host",
                    device=self.device,
                )
                if self.real
                else made_up(self.sizes.images, 32, 10, self.device)
            )
        if count == self.sizes.images:
            return self._images
        return replace(self._images, train=self._images.train.subset(torch.arange(count)))


def made_up(count: int, side: int, classes: int, device: str) -> ImageData:
    """Noise, a fifth as many images to test on."""
    import torch

    from dynams.data import Augmentation, ImageData, ImageSet

    draw = torch.Generator(device).manual_seed(0)
    channels = 3 if side == 32 else 1

    def split(size: int, name: str) -> ImageSet:
        pixels = torch.randint(
            0, 256, (size, channels, side, side), dtype=torch.uint8, device=device, generator=draw
        )
        labels = torch.arange(size, device=device) % classes
        return ImageSet(pixels, labels, tuple(map(str, range(classes))), name)

    return ImageData(
        split(count, "noise"),
        split(max(classes, count // 5), "other noise"),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        augmentation=Augmentation(crop_padding=1, flip=False),
    )


# ------------------------------------------------------------------------------------ runs


def log_of(summary: Summary) -> Run:
    """What a run wrote down. Raises AssertionError where it did not end well."""
    from dynams.report.runlog import read_run

    run = read_run(summary.run_dir)
    assert summary.completed, "the run did not complete"
    losses = [record.loss for record in run.epochs]
    assert all(map(math.isfinite, losses)), f"losses {losses}"
    return run


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
            "selection": {"refresh_every": 1, "warmup_epochs": 1, "batch_size": sizes.batch},
            "optim": {"epochs": 4, "batch_size": sizes.batch, "lr": 0.05},
        },
    )
    with closing(watch):
        summary = train(config, data, interrupt=watch, on_refresh=watch.refreshed)
    run = log_of(summary)
    first, _, both, alone = run.epochs
    if bench.real:
        assert alone.loss < first.loss, f"losses {[record.loss for record in run.epochs]}"
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
    recipe = {"kind": "label", "free": True, "max_age": 1000, "refresh_every": 1}
    config = bench.config(
        resnet18(bench),
        {
            "selection": {**recipe, "warmup_epochs": 1, "batch_size": sizes.batch},
            "proxy": {"recipe": "full"},
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


# ------------------------------------------------------------------------------------ small runs

SMALL: Sections = {
    "model": {"name": "resnet8", "base_channels": 4},
    "selection": {"refresh_every": 1, "warmup_epochs": 1, "batch_size": 20},
    "optim": {"epochs": 3, "batch_size": 12, "lr": 0.05},
}
HELD_OUT: Sections = {"data": {"holdout": 0.2}, "selection": {"holdout_epochs": 1}}
# What some strategies need beside their name.
NEEDS: dict[str, Sections] = {
    "craig": {"selection": {"options": {"part_size": 16}}},
    "gradmatch": {"selection": {"options": {"part_size": 16}}},
    "gradmatch-batches": {"selection": {"options": {"batch_size": 4}}},
    "glister": {"data": {"holdout": 0.2}, "selection": {"options": {"rounds": 3}}},
    "rho-loss": HELD_OUT,
    "batch-rho-loss": HELD_OUT,
}
SWITCHES: dict[str, Sections] = {
    "kind distance": {"selection": {"kind": "distance"}},
    "kind probability, bfloat16": {"selection": {"kind": "probability"}, "run": {"precision": "bf16-mixed"}},
    "kind label, balanced, explored, guarded": {"selection": {"kind": "label", "class_balance": "equal", "exploration": 0.3, "noise_guard": 0.1}},
    "free, explored, unbiased": {"selection": {"free": True, "exploration": 0.5, "unbiased": True}},
    "weighted, with replacement": {"selection": {"strategy": "importance", "options": {"replacement": True}}},
    "part of a batch distilled": {"proxy": {"recipe": "distill", "share": 0.5, "every": 2}},
    "norms estimated anew": {"proxy": {"recipe": "batch_norm", "batches": 2}},
    "schedule and tail": {"selection": {"schedule": "cosine", "budget": 0.4, "tail": 0.34}},
}  # fmt: skip


def small(bench: Bench, where: str, *layers: Sections) -> Found:
    """A run of seconds on noise that lies on the device or on the host."""
    from dynams.training import train

    summary = train(bench.config(SMALL, *layers), made_up(60, 8, 3, where))
    run = log_of(summary)
    return [("samples of each epoch", ", ".join(str(each.samples) for each in run.epochs), "")]


def strategy(bench: Bench, name: str) -> Found:
    """A run by one strategy."""
    import numpy as np

    given: Sections = {"selection": {"strategy": name}}
    if name == "memorisation":
        np.save(bench.folder / "scores.npy", np.arange(60)[::-1] / 60.0)
        given["selection"]["scores"] = str(bench.folder / "scores.npy")
    return small(bench, bench.device, NEEDS.get(name, {}), given)


def resumed(bench: Bench) -> Found:
    """Runs stopped within an epoch, within a scoring pass and at an epoch's end, against one that was not."""
    from dynams.training import load_checkpoint, train
    from dynams.training.checkpoint import checkpoint_path
    from gpu.watched import Watch

    data, config = made_up(60, 8, 3, bench.device), bench.config(SMALL)

    def end(summary: Summary) -> Any:
        log_of(summary)
        return load_checkpoint(checkpoint_path(summary.run_dir))

    def apart(one: Any, other: Any) -> float:
        differences = [
            (one.model[name].double() - other.model[name].double()).abs().max().item()
            for name in one.model
        ]
        return float(max(differences))

    whole = end(train(config, data))
    repeated = apart(end(train(config, data)), whole)
    found: Found = [("weights of a run repeated, off by", repeated, "")]
    # Epoch 0 asks 5 + 1 times, epoch 1 scores in 3 batches, then takes 3 steps.
    for place, question in (("an epoch's end", 6), ("a scoring pass", 8), ("an epoch", 11)):
        stopped = train(config, data, interrupt=Watch(stop_at=question))
        assert not stopped.completed, f"question {question} did not stop the run"
        done = end(train(config, data, resume=stopped.run_dir))
        for name in ("epoch", "global_step", "samples"):
            got, want = getattr(done, name), getattr(whole, name)
            assert got == want, f"{name}: got {got} after resuming, want {want}"
        off = apart(done, whole)
        assert off == 0 or repeated > 0, f"off by {off} after {place}, where a repeated run is not"
        found.append((f"weights of one resumed in {place}, off by", off, ""))
    return found


def parts(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every part by its name: what is the likeliest to fail, or matters most, first."""
    from dynams.selection import STRATEGIES

    yield "digits", lambda: digits(bench)
    yield "joint proxy, ResNet-18", lambda: joint(bench)
    yield "resumed", lambda: resumed(bench)
    for name in STRATEGIES:
        yield f"strategy {name}", lambda name=name: strategy(bench, name)
    for name, layer in SWITCHES.items():
        yield f"switch {name}", lambda layer=layer: small(bench, bench.device, layer)
    yield "images on the host", lambda: small(bench, "cpu")
    yield "free scores, ResNet-18", lambda: free(bench)
    yield "compiled, ResNet-18", lambda: compiled(bench)
