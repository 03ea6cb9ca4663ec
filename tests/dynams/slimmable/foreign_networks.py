"""Small networks in the styles that users bring along, none of them made of our own layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, inplanes: int, planes: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != 4 * planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """In torchvision's style, with a max-pooled stem."""

    def __init__(self, make: Callable[..., nn.Module], channels: tuple[int, ...]) -> None:
        super().__init__()
        stem, one, two, features = channels
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(make(stem, one), make(features * one // two, one))
        self.layer2 = nn.Sequential(make(features * one // two, two, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet() -> nn.Module:
    return ResNet(BasicBlock, (6, 6, 10, 10))


def bottleneck_resnet() -> nn.Module:
    return ResNet(Bottleneck, (6, 3, 5, 20))


def resnext() -> nn.Module:
    return ResNet(lambda *sizes: Bottleneck(*sizes, groups=2), (6, 4, 6, 24))


class VGG(nn.Module):
    """Biased convolutions, features flattened over several pixels, hidden linear layers, dropout."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out in (6, "pool", 7, 7, "pool"):
            if isinstance(out, str):
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(True)]
            channels = out
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 3))
        self.classifier = nn.Sequential(
            nn.Linear(7 * 6, 9), nn.ReLU(True), nn.Dropout(), nn.Linear(9, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class PreActivation(nn.Module):
    """A block of a wide ResNet: batch-norm first, functional dropout, shortcut of the activation."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.equal = channels == out
        self.shortcut = None if self.equal else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(active)))
        out = F.dropout(out, p=0.3, training=self.training)
        out = self.conv2(out)
        return torch.add(x if self.shortcut is None else self.shortcut(active), out)


class WideResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.block1 = PreActivation(4, 8, 1)
        self.block2 = PreActivation(8, 8, 1)
        self.block3 = PreActivation(8, 12, 2)
        self.bn = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 4)
        self.channels = 12

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        out = F.avg_pool2d(F.relu(self.bn(out)), 6)
        return self.fc(out.view(-1, self.channels))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, 3), nn.ReLU(), nn.Linear(3, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        scale = self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1)
        return x * scale.expand_as(x)


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        hidden = 3 * channels
        self.use_res_connect = stride == 1 and channels == out
        self.conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            SqueezeExcite(hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNet(nn.Module):
    """Depthwise convolutions (one with two outputs a channel) and squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.SiLU(),
            InvertedResidual(6, 6, 1),
            InvertedResidual(6, 8, 2),
            nn.Conv2d(8, 16, 3, padding=1, groups=8),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 5, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(3 * 12 * 12, 10), nn.BatchNorm1d(10), nn.GELU(), nn.Linear(10, 10), nn.Tanh()
        )
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor, temperature: float = 2.0) -> Tensor:
        x = x - self.mean
        x = self.hidden(x.view(x.size(0), -1)) * self.scale
        return self.out(x / temperature)


class Inception(nn.Module):
    """Branches concatenated, twice, before a convolution; GroupNorm on one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect")
        self.one = nn.Conv2d(5, 3, 1)
        self.three = nn.Sequential(nn.Conv2d(5, 8, 3, padding="same"), nn.GroupNorm(4, 8))
        self.norm = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 6, 1)
        self.fc = nn.Linear(6 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([self.one(x), torch.cat((self.three(x), x), dim=-3)], 1)
        x = F.max_pool2d(self.mix(F.relu(self.norm(x), inplace=True)), 2)
        return self.fc(x.reshape(x.shape[0], -1))


class Net(nn.Module):
    """A stem, something in the middle, and a classifier."""

    def __init__(self, middle: nn.Module | None = None, out: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Identity() if middle is None else middle
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(out, 3)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.pool(self.middle(self.stem(x))).flatten(1))


def doing(function: Callable[[Any, Tensor], Any], **attributes: Any) -> nn.Module:
    """A module `Doing` that runs `function` on itself and its input."""

    class Doing(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(self, x)

    module = Doing()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": resnet,
    "bottleneck": bottleneck_resnet,
    "resnext": resnext,
    "vgg": VGG,
    "wide": WideResNet,
    "mobilenet": MobileNet,
    "mlp": MLP,
    "inception": Inception,
}


def made(name: str, seed: int = 0) -> nn.Module:
    """A double precision network with norms that are not at their initial values, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[name]().double().eval()
        stir(model)
    return model


def stir(model: nn.Module) -> None:
    """Give every norm parameters and statistics between 1/2 and 3/2."""
    kinds: tuple[Any, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
    for module in model.modules():
        if isinstance(module, kinds):
            for value in module.state_dict().values():
                if value.is_floating_point():
                    value.uniform_(0.5, 1.5)


def images(seed: int = 0, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 12, 12, generator=generator, dtype=torch.float64)
