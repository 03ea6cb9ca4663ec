"""The configuration of a run: nested frozen dataclasses, validated when they are made.

Every field is at once an option of the command line (`--optim.lr 0.1`), a key of a YAML file and
an argument in Python. The defaults train a thin residual network on the bundled digits in well
under a minute on two CPU cores. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dynams.checks import at_least, fraction, interval, one_of, positive
from dynams.selection.methods.registry import STRATEGIES

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
        holdout: fraction of each class's training images, drawn by run.seed, that is not trained on
            but held out for strategies that want it (glister, rho-loss), in [0, 1). Images kept in
            a mapped file are then copied to memory.
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
    holdout: float = 0.0
    image_size: int | None = None
    storage: Literal["auto", "device", "host", "disk"] = "auto"
    cache: str | None = None
    augment: bool = True
    crop_padding: int | None = None
    flip: bool | None = None

    def __post_init__(self) -> None:
        one_of("data.name", self.name, ("digits", "cifar10", "folder"))
        one_of("data.storage", self.storage, ("auto", "device", "host", "disk"))
        at_least("data.limit", self.limit, 1)
        interval("data.holdout", self.holdout, "[0, 1)")
        at_least("data.image_size", self.image_size, 1)
        at_least("data.crop_padding", self.crop_padding, 0)


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
        one_of("model.stem", self.stem, ("cifar", "imagenet"))
        at_least("model.base_channels", self.base_channels, 1)


@dataclass(frozen=True)
class SelectionConfig:
    """Which samples each epoch trains on.

    Args:
        strategy: margin (DynaMS: the smallest margins, chosen again every refresh_every epochs),
            static-margin (the smallest margins, chosen once, after the warm-up), random (another random
            subset at every refresh), static-random, full (everything, always), loss, importance,
            el2n, grand, forgetting, confidence, entropy, memorisation, craig, gradmatch,
            gradmatch-batches, glister, rho-loss, infobatch; or one that chooses inside every step:
            batch-importance, batch-rho-loss, selective-backprop.
        kind: the margin: gap (best logit minus second), probability (the same after softmax),
            distance (to the nearest boundary in feature space), or label (logit of the true
            class minus best other; picks wrongly classified samples first).
        options: the strategy's own options by name, such as {ratio: 0.3} for infobatch.
        dynamic: choose again at every refresh (true) or once (false); unset: as the strategy was
            published.
        budget: fraction of the training samples to keep, in (0, 1]; where the schedule ends.
        schedule: how the budget goes from start to budget over the run: constant (at budget
            throughout), linear, cosine or power.
        start: fraction at which a linear, cosine or power schedule begins.
        exponent: exponent of the power schedule; 1 is linear.
        refresh_every: epochs from one selection to the next (Q).
        warmup_epochs: first epochs that train on everything, before the first selection.
        tail: fraction of the epochs, at the end of the run, that train on everything again, in
            [0, 1).
        class_balance: give every class its share of the selection: proportional to its samples, or
            equal; none leaves classes alone.
        exploration: share of the selection that is drawn at random from the rest, in [0, 1].
        unbiased: let what is drawn at random count for all that was not chosen, so that the loss is,
            on average, that of all samples.
        noise_guard: share of all samples, those most likely mislabelled, that is never selected, in
            [0, 1).
        noise_score: what tells them: loss (the largest) or label (the most negative margin of the
            true class).
        scores: .npy or .pt file with one number for every training image, before any are held out:
            the score that the strategy ranks by (memorisation, rho-loss: the irreducible loss), in
            place of scoring.
        holdout_epochs: epochs that rho-loss trains a network on the held-out images first, for the
            irreducible losses, where no scores are given.
        free: take the scores of samples that were just trained on from their training step, and
            score only the others.
        max_age: epochs for which such a score counts; unset: refresh_every.
        batch_size: images scored, or evaluated, at a time.
    """

    strategy: str = "margin"
    kind: Literal["gap", "probability", "distance", "label"] = "gap"
    options: dict[str, Any] = field(default_factory=dict)
    dynamic: bool | None = None
    budget: float = 0.6
    schedule: Literal["constant", "linear", "cosine", "power"] = "constant"
    start: float = 1.0
    exponent: float = 1.0
    refresh_every: int = 2
    warmup_epochs: int = 2
    tail: float = 0.0
    class_balance: Literal["none", "proportional", "equal"] = "none"
    exploration: float = 0.0
    unbiased: bool = False
    noise_guard: float = 0.0
    noise_score: Literal["loss", "label"] = "loss"
    scores: str | None = None
    holdout_epochs: int = 10
    free: bool = False
    max_age: int | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        one_of("selection.strategy", self.strategy, STRATEGIES)
        one_of("selection.kind", self.kind, ("gap", "probability", "distance", "label"))
        one_of("selection.schedule", self.schedule, ("constant", "linear", "cosine", "power"))
        fraction("selection.budget", self.budget)
        fraction("selection.start", self.start)
        positive("selection.exponent", self.exponent)
        at_least("selection.refresh_every", self.refresh_every, 1)
        at_least("selection.warmup_epochs", self.warmup_epochs, 0)
        interval("selection.tail", self.tail, "[0, 1)")
        one_of("selection.class_balance", self.class_balance, ("none", "proportional", "equal"))
        interval("selection.exploration", self.exploration, "[0, 1]")
        interval("selection.noise_guard", self.noise_guard, "[0, 1)")
        one_of("selection.noise_score", self.noise_score, ("loss", "label"))
        at_least("selection.holdout_epochs", self.holdout_epochs, 1)
        at_least("selection.max_age", self.max_age, 1)
        at_least("selection.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class ProxyConfig:
    """The proxy: the leading channels of the same network, which score the candidates.

    Args:
        width: fraction of every layer's channels that the proxy has, in (0, 1]; 1 scores with
            the whole network and trains no proxy.
        recipe: how the proxy is made fit to score: joint (the paper's: its loss L_p is added to the
            loss L of the full width, as long as selections are to come), distill (the same, its
            targets being the full width's outputs), batch_norm (no loss; before each scoring its
            batch-norms are estimated anew), or full (no proxy: score at full width).
        weight: weight of the proxy's loss: L + weight * L_p.
        every: train the proxy at every n-th step only; 1 trains both at every step.
        share: part of each batch that the proxy trains on, in (0, 1].
        batches: batches of selection.batch_size images that batch_norm estimates from.
    """

    width: float = 0.5
    recipe: Literal["joint", "distill", "batch_norm", "full"] = "joint"
    weight: float = 1.0
    every: int = 1
    share: float = 1.0
    batches: int = 8

    def __post_init__(self) -> None:
        fraction("proxy.width", self.width)
        one_of("proxy.recipe", self.recipe, ("joint", "distill", "batch_norm", "full"))
        positive("proxy.weight", self.weight)
        at_least("proxy.every", self.every, 1)
        fraction("proxy.share", self.share)
        at_least("proxy.batches", self.batches, 1)

    @property
    def trains(self) -> bool:
        """Whether the recipe has a loss of the proxy."""
        return self.recipe in ("joint", "distill")


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
        at_least("optim.epochs", self.epochs, 1)
        at_least("optim.batch_size", self.batch_size, 2)
        positive("optim.lr", self.lr)
        interval("optim.momentum", self.momentum, "[0, 1)")
        if self.nesterov and self.momentum == 0:
            raise ValueError("optim.nesterov: needs momentum above 0, got optim.momentum=0")
        interval("optim.weight_decay", self.weight_decay, "[0, inf)")
        interval("optim.warmup", self.warmup, "[0, 1)")
        interval("optim.final_lr", self.final_lr, "[0, 1]")
        interval("optim.label_smoothing", self.label_smoothing, "[0, 1)")


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
        at_least("run.seed", self.seed, 0)
        one_of("run.accelerator", self.accelerator, ("auto", "cpu", "cuda", "mps"))
        at_least("run.devices", self.devices, 1)
        one_of("run.precision", self.precision, ("32-true", "bf16-mixed"))
        at_least("run.threads", self.threads, 1)
        at_least("run.evaluate_every", self.evaluate_every, 1)
        at_least("run.save_every", self.save_every, 1)


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
        if self.proxy.share < 1.0 and self.run.devices > 1:
            raise ValueError(
                f"proxy.share: a part of the batch needs run.devices=1, got {self.run.devices}"
            )

    @property
    def score_width(self) -> float:
        """Width at which candidates are scored."""
        return 1.0 if self.proxy.recipe == "full" else self.proxy.width

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
