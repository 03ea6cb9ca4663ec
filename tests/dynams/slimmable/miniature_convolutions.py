"""Miniatures of convolutional networks: ConvNeXt, EfficientNet, DenseNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from miniature import CLASSES, DropPath, Slim, blocks, keep
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(0.5 + torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        out = self.fc2(F.gelu(self.fc1(out))).permute(0, 3, 1, 2)
        return x + out.mul(self.gamma.reshape(1, -1, 1, 1))


class ConvNeXt(nn.Module):
    def __init__(self, one: int, two: int, hidden: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, one, 2, 2), LayerNorm2d(one))
        self.stage1 = ConvNeXtBlock(one, hidden)
        self.down = nn.Sequential(LayerNorm2d(one), nn.Conv2d(one, two, 2, 2))
        self.stage2 = ConvNeXtBlock(two, hidden)
        self.norm = LayerNorm2d(two)
        self.head = nn.Linear(two, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(self.norm(F.adaptive_avg_pool2d(x, 1)).flatten(1))


def convnext_at(width: float) -> Slim:
    one, two, hidden = keep(6, width), keep(10, width), keep(15, width)
    return Slim(
        {"one": one, "two": two, "hidden": hidden},
        {"1": range(one), "2": range(two), "m": range(hidden)},
    )


CONVNEXT = {
    "stem.0": "1",
    "stem.1": "1",
    "stage1.fc1": "m 1",
    "stage1.fc2": "1 m",
    "stage1": "1",
    "down.0": "1",
    "down.1": "2 1",
    "stage2.fc1": "m 2",
    "stage2.fc2": "2 m",
    "head": "- 2",
    "": "2",
}


class BatchNormAct(nn.BatchNorm2d):
    """A batch-norm that calls the function itself, and an activation."""

    def __init__(self, channels: int, act: nn.Module | None = None) -> None:
        super().__init__(channels)
        self.act = act or nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        rate = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        of_batch = self.training or (self.running_mean is None and self.running_var is None)
        tracked = not self.training or self.track_running_stats
        x = F.batch_norm(
            x,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            of_batch,
            rate,
            self.eps,
        )
        return self.act(x)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv_expand(F.silu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class MBConv(nn.Module):
    def __init__(self, channels: int, hidden: int, reduced: int) -> None:
        super().__init__()
        self.conv_pw = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn1 = BatchNormAct(hidden)
        self.conv_dw = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.bn2 = BatchNormAct(hidden)
        self.se = SqueezeExcite(hidden, reduced)
        self.conv_pwl = nn.Conv2d(hidden, channels, 1, bias=False)
        self.bn3 = BatchNormAct(channels, nn.Identity())
        self.drop_path = DropPath(0.3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))
        return self.drop_path(self.bn3(self.conv_pwl(self.se(out)))) + x


class EfficientNet(nn.Module):
    def __init__(self, stem: int, hidden: int, reduced: int, features: int) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.bn1 = BatchNormAct(stem)
        self.block = MBConv(stem, hidden, reduced)
        self.conv_head = nn.Conv2d(stem, features, 1, bias=False)
        self.bn2 = BatchNormAct(features)
        self.classifier = nn.Linear(features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv_head(self.block(self.bn1(self.conv_stem(x)))))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.classifier(F.dropout(x, p=0.3, training=self.training))


def efficientnet_at(width: float) -> Slim:
    stem, hidden, reduced, features = (keep(count, width) for count in (6, 14, 3, 11))
    return Slim(
        {"stem": stem, "hidden": hidden, "reduced": reduced, "features": features},
        {"s": range(stem), "m": range(hidden), "r": range(reduced), "f": range(features)},
    )


EFFICIENTNET = {
    "conv_stem": "s",
    "conv_pwl": "s m",
    "conv_pw": "m s",
    "conv_dw": "m",
    "conv_reduce": "r m",
    "conv_expand": "m r",
    "conv_head": "f s",
    "classifier": "- f",
}


class DenseLayer(nn.Module):
    def __init__(self, channels: int, bottleneck: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, bottleneck, 1)
        self.norm2 = nn.BatchNorm2d(bottleneck)
        self.conv2 = nn.Conv2d(bottleneck, growth, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        out = self.conv1(F.relu(self.norm1(torch.cat(maps, 1))))
        return self.conv2(F.relu(self.norm2(out)))


class DenseNet(nn.Module):
    """Every layer reads all earlier ones, and so does the classifier."""

    def __init__(self, stem: int, bottleneck: int, growth: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, stem, 3, 2, 1)
        self.layers = nn.ModuleList(
            DenseLayer(stem + at * growth, bottleneck, growth) for at in range(3)
        )
        self.norm = nn.BatchNorm2d(stem + 3 * growth)
        self.classifier = nn.Linear(stem + 3 * growth, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.conv0(x)]
        for layer in self.layers:
            maps.append(layer(maps))
        x = F.relu(self.norm(torch.cat(maps, 1)), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


def densenet_at(width: float) -> Slim:
    stem, bottleneck, growth = keep(6, width), keep(7, width), keep(4, width)
    axes: dict[str, Sequence[int]] = {"s": range(stem), "b": range(bottleneck), "g": range(growth)}
    for layers in range(1, 4):
        axes[f"s+{layers}g"] = [*range(stem), *(6 + at for at in blocks(4, growth, layers))]
    return Slim({"stem": stem, "bottleneck": bottleneck, "growth": growth}, axes)


DENSENET = {
    "conv0": "s",
    "layers.0.conv1": "b s",
    "layers.1.conv1": "b s+1g",
    "layers.2.conv1": "b s+2g",
    "conv2": "g b",
    "classifier": "- s+3g",
}
