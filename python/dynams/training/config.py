"""The configuration of a run: nested frozen dataclasses, validated when they are made.

Every field is at once an option of the command line (`--optim.lr 0.1`), a key of a YAML file and
an argument in Python. The defaults train a thin residual network on the bundled digits in well
under a minute on two CPU cores. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Settings that may differ when a run is resumed: where things are and what is shown, nothing that
# the result depends on beyond rounding.
MAY_CHANGE_ON_RESUME = frozenset(
    {
        "data.path",
        "data.storage",
        "data.cache",
        "run.name",
        "run.dir",
        "run.accelerator",
        "run.compile",
        "run.threads",
        "run.evaluate_every",
        "run.save_every",
        "run.tensorboard",
        "run.report",
        "run.progress",
    }
)


@dataclass(frozen=True)
class DataConfig:
    """What to train on.

    Args:
        name: data set: digits (8 x 8 grey digits, bundled with scikit-learn), cifar10 (needs
            data.path), or folder (one sub-folder a class, needs data.path).
        path: directory that holds the data.
        limit: use only this many training images; the test images stay.
        image_size: side in pixels that images of a folder are brought to.
        storage: where the decoded images are kept: device (fastest), host, disk (a file mapped
            into memory), or auto (the first of these that has room).
        cache: directory in which the decoded images are kept for the next run; unset: only disk
            storage keeps them, beside the data.
        augment: train on randomly shifted and mirrored images, as suits the data set.
        crop_padding: largest random shift in pixels; unset: what suits the data set.
        flip: mirror half the images; unset: what suits the data set.
    """

    name: Literal["digits", "cifar10", "folder"] = "digits"
    path: str | None = None
    limit: int | None = None
    image_size: int | None = None
    storage: Literal["auto", "device", "host", "disk"] = "auto"
    cache: str | None = None
    augment: bool = True
    crop_padding: int | None = None
    flip: bool | None = None

    def __post_init__(self) -> None:
        _one_of("data.name", self.name, ("digits", "cifar10", "folder"))
        _one_of("data.storage", self.storage, ("auto", "device", "host", "disk"))
        _at_least("data.limit", self.limit, 1)
        _at_least("data.image_size", self.image_size, 1)
        _at_least("data.crop_padding", self.crop_padding, 0)


@dataclass(frozen=True)
class ModelConfig:
    """Which network to train.

    Args:
        name: resnet8, resnet14 or resnet20 (thin, 16 channels first), resnet18, resnet34 or
            resnet50 (64 channels first).
        stem: first layers: cifar (small images, no early down-sampling) or imagenet.
        base_channels: channels of the first stage; unset: the network's own.
    """

    name: str = "resnet8"
    stem: Literal["cifar", "imagenet"] = "cifar"
    base_channels: int | None = None

    def __post_init__(self) -> None:
        _one_of("model.stem", self.stem, ("cifar", "imagenet"))
        _at_least("model.base_channels", self.base_channels, 1)


@dataclass(frozen=True)
class SelectionConfig:
    """Which samples each epoch trains on.

    Args:
        strategy: margin (DynaMS: the smallest margins, chosen again every refresh_every epochs),
            static (the smallest margins, chosen once, after the warm-up), random (another random
            subset at every refresh), or full (everything, always).
        kind: the margin: gap (best logit minus second), probability (the same after softmax),
            distance (to the nearest boundary in feature space), or label (logit of the true
            class minus best other; picks wrongly classified samples first).
        budget: fraction of the training samples to keep, in (0, 1]; where the schedule ends.
        schedule: how the budget goes from start to budget over the run: constant (at budget
            throughout), linear, cosine or power.
        start: fraction at which a linear, cosine or power schedule begins.
        exponent: exponent of the power schedule; 1 is linear.
        refresh_every: epochs from one selection to the next (Q).
        warmup_epochs: first epochs that train on everything, before the first selection.
        batch_size: images scored, or evaluated, at a time.
    """

    strategy: Literal["margin", "static", "random", "full"] = "margin"
    kind: Literal["gap", "probability", "distance", "label"] = "gap"
    budget: float = 0.6
    schedule: Literal["constant", "linear", "cosine", "power"] = "constant"
    start: float = 1.0
    exponent: float = 1.0
    refresh_every: int = 2
    warmup_epochs: int = 2
    batch_size: int = 256

    def __post_init__(self) -> None:
        _one_of("selection.strategy", self.strategy, ("margin", "static", "random", "full"))
        _one_of("selection.kind", self.kind, ("gap", "probability", "distance", "label"))
        _one_of("selection.schedule", self.schedule, ("constant", "linear", "cosine", "power"))
        _fraction("selection.budget", self.budget)
        _fraction("selection.start", self.start)
        _positive("selection.exponent", self.exponent)
        _at_least("selection.refresh_every", self.refresh_every, 1)
        _at_least("selection.warmup_epochs", self.warmup_epochs, 0)
        _at_least("selection.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class ProxyConfig:
    """The proxy: the leading channels of the same network, which score the candidates.

    The proxy is trained along with the network as long as selections are to come: its loss L_p
    is added to the loss L of the full width.

    Args:
        width: fraction of every layer's channels that the proxy has, in (0, 1]; 1 scores with
            the whole network and trains no proxy.
        weight: weight of the proxy's loss: L + weight * L_p.
        every: train the proxy at every n-th step only; 1 trains both at every step.
    """

    width: float = 0.5
    weight: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        _fraction("proxy.width", self.width)
        _positive("proxy.weight", self.weight)
        _at_least("proxy.every", self.every, 1)


@dataclass(frozen=True)
class OptimConfig:
    """Optimisation: SGD with momentum, linear warm-up, then cosine decay.

    Args:
        epochs: epochs to train.
        batch_size: samples a step, over all processes together; the last batches of an epoch
            are evened out, so that no sample is left over.
        lr: largest learning rate, reached at the end of the warm-up.
        momentum: momentum of SGD, in [0, 1).
        nesterov: Nesterov's form of momentum.
        weight_decay: weight decay, added to the gradient.
        decay_norm_bias: decay the normalisation layers and biases too.
        warmup: fraction of the run over which the learning rate rises linearly, in [0, 1).
        final_lr: learning rate at the end of the run, as a fraction of lr.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norm_bias: bool = False
    warmup: float = 0.1
    final_lr: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _at_least("optim.epochs", self.epochs, 1)
        _at_least("optim.batch_size", self.batch_size, 2)
        _positive("optim.lr", self.lr)
        _interval("optim.momentum", self.momentum, "[0, 1)")
        if self.nesterov and self.momentum == 0:
            raise ValueError("optim.nesterov: needs momentum above 0, got optim.momentum=0")
        _interval("optim.weight_decay", self.weight_decay, "[0, inf)")
        _interval("optim.warmup", self.warmup, "[0, 1)")
        _interval("optim.final_lr", self.final_lr, "[0, 1]")
        _interval("optim.label_smoothing", self.label_smoothing, "[0, 1)")


@dataclass(frozen=True)
class RunConfig:
    """How and where the run is carried out.

    Args:
        name: name of the run, the first part of its directory's name; unset: the data set's.
        dir: directory in which each run makes its own.
        seed: seed of the initial weights, the order of samples and the augmentation.
        accelerator: device: auto (a GPU if there is one), cpu, cuda or mps.
        devices: devices to train on, one process for each.
        precision: 32-true (float32) or bf16-mixed (bfloat16 where it is safe).
        channels_last: keep images and weights in channels-last memory order, which is usually
            faster; on the CPU for scoring and evaluation only.
        threads: CPU threads that torch computes with; unset: torch's own choice, but one where a
            batch has so few pixels that threads would mostly wait for each other.
        compile: compile the network with torch.compile.
        evaluate_every: epochs from one evaluation on the test images to the next; the last
            epoch is always evaluated.
        save_every: epochs from one checkpoint to the next; the last epoch is always saved.
        tensorboard: write TensorBoard events too.
        report: write report.html at the end.
        progress: show on standard error how far the run is.
    """

    name: str | None = None
    dir: str = "runs"
    seed: int = 0
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = True
    threads: int | None = None
    compile: bool = False
    evaluate_every: int = 1
    save_every: int = 1
    tensorboard: bool = True
    report: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        if self.name is not None and (not self.name.strip() or set(self.name) & set("/\\\0")):
            raise ValueError(f"run.name: wanted a name without slashes, got {self.name!r}")
        _at_least("run.seed", self.seed, 0)
        _one_of("run.accelerator", self.accelerator, ("auto", "cpu", "cuda", "mps"))
        _at_least("run.devices", self.devices, 1)
        _one_of("run.precision", self.precision, ("32-true", "bf16-mixed"))
        _at_least("run.threads", self.threads, 1)
        _at_least("run.evaluate_every", self.evaluate_every, 1)
        _at_least("run.save_every", self.save_every, 1)


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. Sections left out take their defaults.

    Args:
        data: what to train on.
        model: which network to train.
        selection: which samples each epoch trains on.
        proxy: the slim network that scores the candidates.
        optim: optimisation.
        run: how and where the run is carried out.

    Raises:
        ValueError: a value is out of range, or two settings contradict each other; the message
            names the setting, what came and what is wanted.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        smallest = 2 * self.run.devices
        if self.optim.batch_size < smallest:
            raise ValueError(
                f"optim.batch_size: {self.run.devices} devices need at least {smallest} samples "
                f"a step, got {self.optim.batch_size}"
            )

    @property
    def proxy_width(self) -> float | None:
        """Width that scores the candidates, if it is a proxy: None at full width or unscored."""
        scored = self.selection.strategy in ("margin", "static")
        return self.proxy.width if scored and self.proxy.width < 1.0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as nested plain values, as in its YAML file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Make the configuration that `to_dict` gave.

        Raises:
            ValueError: a section or setting is unknown, or a value is refused.
        """
        sections = {item.name: item.default_factory for item in dataclasses.fields(cls)}
        made: dict[str, Any] = {}
        for name, section in values.items():
            if name not in sections:
                raise ValueError(f"{name}: unknown section; known: {', '.join(sections)}")
            kind: Any = sections[name]
            known = [item.name for item in dataclasses.fields(kind)]
            for key in section:
                if key not in known:
                    raise ValueError(f"{name}.{key}: unknown setting; known: {', '.join(known)}")
            made[name] = kind(**section)
        return cls(**made)


def changed_settings(old: TrainConfig, new: TrainConfig) -> list[tuple[str, Any, Any]]:
    """List the settings that differ and matter to the result: (name, old value, new value)."""
    before, after = _flat(old), _flat(new)
    return [
        (name, before[name], after[name])
        for name in before
        if before[name] != after[name] and name not in MAY_CHANGE_ON_RESUME
    ]


def _flat(config: TrainConfig) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, values in config.to_dict().items()
        for key, value in values.items()
    }


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: wanted one of {', '.join(known)}, got {value!r}")


def _at_least(name: str, value: int | None, smallest: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: wanted a whole number, got {value!r}")
    if value < smallest:
        raise ValueError(f"{name}: wanted at least {smallest}, got {value}")


def _positive(name: str, value: float) -> None:
    _interval(name, value, "(0, inf)")


def _fraction(name: str, value: float) -> None:
    _interval(name, value, "(0, 1]")


def _interval(name: str, value: float, interval: str) -> None:
    """``interval`` as in "(0, 1]"; NaN lies in none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: wanted a number in {interval}, got {value!r}")
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below and math.isfinite(value)):
        raise ValueError(f"{name}: wanted a number in {interval}, got {value}")
