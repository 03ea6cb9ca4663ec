"""The networks whose slim forward is timed, and the ways to run one: as it is trained, and frozen as it scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from dynams.models import build_model
from dynams.slimmable import SlimmableNetwork, convert
from dynams.training.network import frozen

SIDE = 32
WIDTH = 0.5
WAYS = ("slimmable", "frozen")
PRECISIONS = ("float32", "bfloat16")
# A ResNet's name; or channels, blocks and heads of a vision transformer.
Size = str | tuple[int, int, int]
NETWORKS: dict[str, Size] = {"ResNet-18": "resnet18", "ViT-small": (384, 12, 6)}


class Attention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, channels = tokens.shape
        split = self.qkv(tokens).view(batch, count, 3, self.heads, channels // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return self.out(mixed.reshape(batch, count, channels))


class Block(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(channels), Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """Patches of 4x4; the class is told from the mean token."""

    def __init__(self, channels: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, channels, 4, 4)
        self.position = nn.Parameter(torch.randn(1, (SIDE // 4) ** 2, channels) * 0.02)
        self.blocks = nn.Sequential(*(Block(channels, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


@cache
def _made(size: Size) -> SlimmableNetwork:
    if isinstance(size, str):
        return build_model(size, 10, widths=(WIDTH, 1.0)).eval()
    model = VisionTransformer(*size)
    return convert(model, (WIDTH, 1.0), example=torch.randn(2, 3, SIDE, SIDE)).eval()


def network(size: Size) -> SlimmableNetwork:
    """A slimmable network in eval mode, channels-last, on the CPU, which nobody changes."""
    return _made(size).to(memory_format=torch.channels_last)


def images(count: int, device: str = "cpu") -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, device=device).to(memory_format=torch.channels_last)


def forwards(
    slimmable: SlimmableNetwork, way: str, precision: str
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The forward of half width and that of full width, without gradients."""
    dtype = None if precision == "float32" else getattr(torch, precision)

    def at(width: float) -> Callable[[Tensor], Tensor]:
        fixed = (
            frozen(slimmable, width, torch.channels_last, dtype)
            if way == "frozen"
            else lambda batch: slimmable(batch, width)
        )

        def forward(batch: Tensor) -> Tensor:
            device = batch.device.type
            with (
                torch.no_grad(),
                torch.autocast(device, dtype or torch.bfloat16, dtype is not None),
            ):
                return fixed(batch)

        return forward

    return at(WIDTH), at(1.0)


def flops(slimmable: SlimmableNetwork, batch: Tensor, width: float) -> int:
    """Floating-point operations of the convolutions and products of one forward."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        slimmable(batch, width)
    return counted.get_total_flops()


def weight_bytes(slimmable: SlimmableNetwork, width: float, size: int) -> int:
    """What the weights of a width take, of elements of `size` bytes."""
    return size * sum(each.numel() for each in slimmable.plain(width).parameters())
