"""The configuration of a run: nested frozen dataclasses, validated when they are made.

Every field is at once an option of the command line (`--optim.lr 0.1`), a key of a YAML file and
an argument in Python. The defaults train a thin residual network on the bundled digits in well
under a minute on two CPU cores. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dynams.checks import one_of
from dynams.suggestions import unknown
from dynams.training.selection_config import ProxyConfig, SelectionConfig
from dynams.training.settings import check, section, section_of, setting

# In bytes: the time and a number are added, and most file systems take 255.
_LONGEST_NAME = 220


@section
@dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    name: Literal["digits", "cifar10", "folder", "shards"] = setting(
        "digits",
        "data set: digits (8 x 8 grey digits, bundled with scikit-learn), cifar10 (needs "
        "data.path), folder (one sub-folder a class, needs data.path), or shards (tar or parquet "
        "files, needs data.path)",
    )
    path: str | None = setting(None, "directory that holds the data", path=True)
    classes: list[str] | None = setting(  # noqa: RUF009 (it makes a field)
        None,
        "use only the images of these classes, as if there were no others; unset: of all. Not for images "
        "that are read by their index",
    )
    limit: int | None = setting(
        None, "use only this many training images; the test images stay", least=1
    )
    holdout: float = setting(
        0.0,
        "fraction of each class's training images, drawn by run.seed, that is not trained on "
        "but held out for strategies that want it (glister, rho-loss). Images kept in a mapped "
        "file are then copied to memory",
        within="[0, 1)",
    )
    image_size: int | None = setting(
        None, "side in pixels that images of a folder are brought to", least=1
    )
    image_column: str | None = setting(
        None, "column of parquet files that holds the images; unset: img or image"
    )
    label_column: str | None = setting(
        None, "column of parquet files that holds the labels; unset: label"
    )
    storage: Literal["auto", "device", "host", "disk", "index"] = setting(
        "auto",
        "where the decoded images are kept: device (fastest), host, disk (a file mapped into "
        "memory), or auto (the first of these that has room); index: nowhere, each is read and "
        "decoded when it is needed, as shards always are",
    )
    cache: str | None = setting(
        None,
        "directory in which the decoded images, or the index, are kept for the next run; unset: only "
        "disk storage and the index are kept, beside the data",
        path=True,
    )
    workers: int | None = setting(
        None,
        "processes that read Datasets of your own or images by their index; 0: none; unset: as many as there are cores for, "
        "at most 8, and none for tensors in memory",
        least=0,
    )
    augment: bool = setting(
        True, "train on randomly cropped and mirrored images, as suits the data set"
    )
    crop: Literal["auto", "shift", "random-resized"] = setting(
        "auto",
        "how training images are cropped: shift (moved by up to crop_padding pixels), "
        "random-resized (a box of random size and shape, brought to crop_size), or auto: boxes for "
        "folders of images from 160 pixels on",
    )
    crop_padding: int | None = setting(
        None, "largest random shift in pixels; unset: what suits the data set", least=0
    )
    crop_size: int | None = setting(
        None,
        "side in pixels that the network sees: of a random box when it is resized, else, and in "
        "scoring and evaluation, of the image's centre; unset: 7/8 of the image (224 of 256) with "
        "random-resized, else all of it",
        least=1,
    )
    flip: bool | None = setting(None, "mirror half the images; unset: what suits the data set")
    flips: Literal["random", "alternating"] = setting(
        "random",
        "which half is mirrored: random (drawn anew each time an image is seen), or alternating (each image in every "
        "second epoch, drawn once whether in the even or the odd ones)",
    )
    pad: Literal["zeros", "reflect"] = setting(
        "zeros",
        "what a shift shows beyond an image's edge: zeros (black pixels), or the image, reflected",
    )
    cutout: int = setting(
        0,
        "side in pixels of a square of the mean colour that is laid over each training image at a random place inside "
        "it; 0: none",
        least=0,
    )

    def __post_init__(self) -> None:
        check("data", self)
        if self.crop == "random-resized" and self.crop_padding is not None:
            raise ValueError(
                f"data.crop_padding: got {self.crop_padding} with data.crop=random-resized, want it unset"
            )


@section
@dataclass(frozen=True)
class ModelConfig:
    """Which network to train."""

    name: str = setting(
        "resnet8",
        "resnet8, resnet14 or resnet20 (thin, 16 channels first), resnet18, resnet34 or "
        "resnet50 (64 channels first); or sprint (fast to train: a first layer that whitens, early "
        "pooling, GELU)",
    )
    stem: Literal["cifar", "imagenet"] = setting(
        "cifar", "first layers: cifar (small images, no early down-sampling) or imagenet"
    )
    base_channels: int | None = setting(
        None, "channels of a residual network's first stage; unset: the network's own", least=1
    )
    channels: list[int] | None = setting(  # noqa: RUF009 (it makes a field)
        None,
        "channels of each of sprint's groups, each of half the last one's resolution; unset: [128, 384, 512]",
        least=1,
    )
    depth: int | None = setting(
        None,
        "convolutions in each of sprint's groups: 2, or 3 with a residual sum; unset: 3",
        least=2,
    )

    def __post_init__(self) -> None:
        check("model", self)


@section
@dataclass(frozen=True)
class OptimConfig:
    """Optimisation: SGD with momentum, linear warm-up, then decay along half a cosine or a line."""

    epochs: int = setting(30, "epochs to train", least=1)
    batch_size: int = setting(
        64,
        "samples a step, over all processes together; the last batches of an epoch are evened "
        "out, so that no sample is left over, but with drop_last",
        least=2,
    )
    drop_last: bool = setting(
        False,
        "take steps of exactly batch_size samples, for compiled networks, which then see one shape; "
        "what is left over of an epoch is not trained on in it",
    )
    lr: float = setting(
        0.1, "largest learning rate, reached at the end of the warm-up", within="(0, inf)"
    )
    momentum: float = setting(0.9, "momentum of SGD", within="[0, 1)")
    nesterov: bool = setting(True, "Nesterov's form of momentum")
    weight_decay: float = setting(5e-4, "weight decay, added to the gradient", within="[0, inf)")
    decay_norm_bias: bool = setting(False, "decay the normalisation layers and biases too")
    bias_lr: float = setting(
        1.0,
        "learning rate of normalisation layers, whose scales and shifts are the biases of most networks, as a "
        "multiple of the others'; where they decay, weight_decay is divided by it",
        within="(0, inf)",
    )
    schedule: Literal["cosine", "linear"] = setting(
        "cosine", "how the learning rate falls after the warm-up: half a cosine, or a line"
    )
    warmup: float = setting(
        0.1, "fraction of the run over which the learning rate rises linearly", within="[0, 1)"
    )
    initial_lr: float = setting(
        0.0, "learning rate at which the warm-up begins, as a fraction of lr", within="[0, 1]"
    )
    final_lr: float = setting(
        0.0, "learning rate at the end of the run, as a fraction of lr", within="[0, 1]"
    )
    label_smoothing: float = setting(
        0.0, "share of the target spread evenly over the classes", within="[0, 1)"
    )
    lookahead: int = setting(
        0,
        "every so many steps the network takes the slow weights of Lookahead, which follow it, and at the "
        "end of the run too; 0: never",
        least=0,
    )
    first_layer_epochs: int | None = setting(
        None, "epochs in which the network's first layer is trained; unset: all", least=0
    )

    def __post_init__(self) -> None:
        check("optim", self)
        if self.nesterov and self.momentum == 0:
            raise ValueError("optim.nesterov: got True, want optim.momentum above 0 with it")


@section
@dataclass(frozen=True)
class RunConfig:
    """How and where the run is carried out."""

    name: str | None = setting(
        None, "name of the run, the first part of its directory's name; unset: the data set's"
    )
    dir: str = setting("runs", "directory in which each run makes its own", path=True)
    seed: int = setting(
        0, "seed of the initial weights, the order of samples and the augmentation", least=0
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto", "device: auto (a GPU if there is one), cpu, cuda or mps"
    )
    devices: int = setting(1, "devices to train on, one process for each", least=1)
    precision: Literal["32-true", "bf16-mixed"] = setting(
        "32-true", "32-true (float32) or bf16-mixed (bfloat16 where it is safe)"
    )
    channels_last: bool = setting(
        True,
        "keep images and weights in channels-last memory order, which is usually faster; on the "
        "CPU residual networks do for scoring and evaluation only",
    )
    threads: int | None = setting(
        None,
        "CPU threads that torch computes with; unset: torch's own choice, but one where a batch "
        "has so few pixels that threads would mostly wait for each other",
        least=1,
    )
    compile: bool = setting(False, "compile the network with torch.compile")
    evaluate_every: int = setting(
        1,
        "epochs from one evaluation on the test images to the next; the last epoch is always "
        "evaluated",
        least=1,
    )
    test_views: int = setting(
        1,
        "views of each test image whose logits are averaged in evaluation: 1 (the image), 2 (and its mirror image) or 6 "
        "(half the weight; the other half for both of the image shifted by one pixel down and right, and up and left)",
    )
    save_every: int = setting(
        1, "epochs from one checkpoint to the next; the last epoch is always saved", least=1
    )
    save_every_steps: int | None = setting(
        None,
        "optimiser steps from one checkpoint to the next, beside those at the ends of epochs; unset: none",
        least=1,
    )
    timeout: float = setting(
        600.0,
        "seconds after which one of several processes counts as hung that does not come on, though "
        "others wait for it: the run then ends, naming it",
        within="(0, inf)",
    )
    tensorboard: bool = setting(True, "write TensorBoard events too")
    report: bool = setting(True, "write report.html at the end")
    progress: bool = setting(True, "show on standard error how far the run is")

    def __post_init__(self) -> None:
        check("run", self)
        one_of("run.test_views", self.test_views, (1, 2, 6))
        if self.name is None:
            return
        if not self.name.strip() or set(self.name) & set("/\\\0"):
            raise ValueError(f"run.name: got {self.name!r}, want a name without slashes")
        if len(os.fsencode(self.name)) > _LONGEST_NAME:
            raise ValueError(f"run.name: got {self.name!r}, want at most {_LONGEST_NAME} bytes")


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
                f"optim.batch_size: got {self.optim.batch_size}, want at least {smallest} samples a "
                f"step for run.devices={self.run.devices}"
            )
        if self.proxy.share < 1.0 and self.run.devices > 1:
            raise ValueError(
                f"proxy.share: got {self.proxy.share}, want 1 with run.devices={self.run.devices}"
            )

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
        for name, chosen in values.items():
            if name not in sections:
                raise ValueError(unknown("section", name, sections))
            made[name] = section_of(sections[name], name, chosen)
        return cls(**made)
