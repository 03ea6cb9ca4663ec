"""Miniatures of the networks people use, each with what is left of it at a width, written by hand.

A miniature takes its sizes as arguments. So a slim width is the same class with smaller sizes, whose parameters are
picked from the full ones by a table: for every module the axes of its parameters, for every axis the positions kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5
WORDS = 13


def keep(count: int, width: float) -> int:
    return max(1, math.floor(count * width + 0.5))


@dataclass(frozen=True)
class Slim:
    """What a width is: the class's arguments, and the kept positions of the named axes."""

    sizes: dict[str, Any]
    axes: dict[str, Sequence[int]]


@dataclass(frozen=True)
class Miniature:
    """A network in somebody's style.

    Attributes:
        make: makes it of given sizes.
        at: what a width is.
        tables: by a part of a parameter's name (the first that matches counts), the axes of the parameter; "-" and
            those after the last named keep all.
        tokens: it takes tokens, not images.
    """

    make: Callable[..., nn.Module]
    at: Callable[[float], Slim]
    tables: dict[str, str]
    tokens: bool = False

    def picked(self, name: str, tensor: Tensor, width: float) -> tuple[Tensor, ...]:
        """The index of what `width` keeps of a parameter."""
        table = next(table for part, table in self.tables.items() if part in name)
        names = table.split()[: tensor.dim()]
        kept = self.at(width).axes
        indices = [
            torch.arange(size) if name == "-" else torch.tensor(list(kept[name]))
            for name, size in zip([*names, *"-" * tensor.dim()], tensor.shape, strict=False)
        ]
        return torch.meshgrid(*indices, indexing="ij")


def blocks(size: int, kept: int, count: int) -> list[int]:
    """The first `kept` of each of `count` blocks of `size`."""
    return [block * size + at for block in range(count) for at in range(kept)]


class DropPath(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        if keep > 0.0:
            mask.div_(keep)
        return x * mask


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(0.5 + torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, head: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, head
        self.qkv = nn.Linear(dim, 3 * heads * head)
        self.q_norm = nn.LayerNorm(head)
        self.k_norm = nn.LayerNorm(head)
        self.proj = nn.Linear(heads * head, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        q = q * self.head_dim**-0.5
        attn = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(B, N, self.num_heads * self.head_dim)
        return self.proj(x)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, head: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, head)
        self.ls1, self.ls2 = LayerScale(dim), LayerScale(dim)
        self.drop_path = DropPath(0.4)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        inner = self.drop(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))
        return x + self.drop_path(self.ls2(self.fc2(inner)))


class ViT(nn.Module):
    """Fused queries, keys and values, class token, position table, LayerScale, DropPath."""

    def __init__(self, dim: int, heads: int, head: int, hidden: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 10, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, head, hidden) for _ in range(2)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit_at(width: float) -> Slim:
    dim, heads, hidden = keep(10, width), keep(3, width), keep(14, width)
    return Slim(
        {"dim": dim, "heads": heads, "head": 4, "hidden": hidden},
        {
            "d": range(dim),
            "qkv": blocks(12, heads * 4, 3),
            "v": range(heads * 4),
            "m": range(hidden),
        },
    )


VIT = {
    "qkv": "qkv d",
    "proj": "d v",
    "attn": "-",  # the norms of queries and keys
    "fc1": "m d",
    "fc2": "d m",
    "patch": "d",
    "head": "- d",
    "token": "- - d",
    "pos": "- - d",
    "": "d",
}


class TorchViT(nn.Module):
    """torch's own encoder layers, read out by the mean; the heads together are as wide as their input."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.encoder = nn.Sequential(
            nn.TransformerEncoderLayer(dim, heads, hidden, 0.2, "gelu", batch_first=True),
            nn.TransformerEncoderLayer(dim, heads, hidden, 0.2, batch_first=True, norm_first=True),
        )
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patch(x).flatten(2).mT).mean(1))


def torch_vit_at(width: float) -> Slim:
    heads, hidden = keep(3, width), keep(14, width)
    dim = 4 * heads
    return Slim(
        {"dim": dim, "heads": heads, "hidden": hidden},
        {"d": range(dim), "qkv": blocks(12, dim, 3), "m": range(hidden)},
    )


TORCH_VIT = {
    "in_proj": "qkv d",
    "out_proj": "d d",
    "linear1": "m d",
    "linear2": "d m",
    "head": "- d",
    "": "d",
}


class WindowAttention(nn.Module):
    """Attention within 3x3 windows, shifted by one pixel, with a bias by relative position."""

    index: Tensor
    mask: Tensor

    def __init__(self, dim: int, heads: int, head: int, side: int, shift: int) -> None:
        super().__init__()
        self.heads, self.head, self.shift = heads, head, shift
        self.norm = nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * heads * head), nn.Linear(heads * head, dim)
        self.table = nn.Parameter(torch.randn(25, heads))
        at = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))
        apart = at.flatten(1)[:, :, None] - at.flatten(1)[:, None, :] + 2
        self.register_buffer("index", apart[0] * 5 + apart[1])
        region = torch.zeros(1, side, side, 1)
        for number, rows in enumerate((slice(0, -3), slice(-3, -shift or None), slice(-1, None))):
            region[:, rows] += 3 * number
            region[:, :, rows] += number
        region = self.windows(region).squeeze(-1)
        apart = region[:, None] - region[:, :, None]
        self.register_buffer("mask", apart.ne(0).double() * -50 if shift else None)

    @staticmethod
    def windows(x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x = x.view(B, H // 3, 3, W // 3, 3, C).permute(0, 1, 3, 2, 4, 5).contiguous()
        return x.view(-1, 9, C)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        moved = torch.roll(self.norm(x), shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = self.windows(moved)
        count, N, _ = windows.shape
        qkv = self.qkv(windows).reshape(count, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q * self.head**-0.5) @ k.transpose(-2, -1)
        attn = attn + self.table[self.index.view(-1)].view(9, 9, -1).permute(2, 0, 1).unsqueeze(0)
        if self.mask is not None:
            known = self.mask.shape[0]
            attn = attn.view(-1, known, self.heads, N, N) + self.mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.heads, N, N)
        out = self.proj((attn.softmax(-1) @ v).transpose(1, 2).reshape(count, N, -1))
        out = out.view(B, H // 3, W // 3, 3, 3, C).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)
        return x + torch.roll(out, shifts=(self.shift, self.shift), dims=(1, 2))


class Swin(nn.Module):
    def __init__(self, dim: int, heads: int, head: int, merged: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 1)
        self.layers = nn.Sequential(
            WindowAttention(dim, heads, head, 12, 0), WindowAttention(dim, heads, head, 12, 1)
        )
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, merged, bias=False)
        self.head = nn.Linear(merged, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.patch(x).permute(0, 2, 3, 1))
        corners = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.head(self.reduction(self.norm(torch.cat(corners, -1))).mean((1, 2)))


def swin_at(width: float) -> Slim:
    dim, heads, merged = keep(10, width), keep(3, width), keep(14, width)
    return Slim(
        {"dim": dim, "heads": heads, "head": 4, "merged": merged},
        {
            "d": range(dim),
            "4d": blocks(10, dim, 4),
            "qkv": blocks(12, heads * 4, 3),
            "v": range(heads * 4),
            "h": range(heads),
            "m": range(merged),
        },
    )


SWIN = {
    "qkv": "qkv d",
    "proj": "d v",
    "table": "- h",
    "index": "-",
    "mask": "-",
    "reduction": "m 4d",
    "layers": "d",
    "patch": "d",
    "norm": "4d",
    "head": "- m",
}


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


class Conv1D(nn.Module):
    """A linear layer with its weight the other way round."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        size_out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size_out)


class GPTBlock(nn.Module):
    def __init__(self, dim: int, heads: int, head: int, hidden: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.split_size, self.head_dim = heads * head, head
        self.c_attn = Conv1D(3 * heads * head, dim)
        self.c_back = Conv1D(dim, heads * head)
        self.c_fc, self.c_proj = Conv1D(hidden, dim), Conv1D(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        shape = (*normed.shape[:-1], -1, self.head_dim)
        q, k, v = (
            each.view(shape).transpose(1, 2)
            for each in self.c_attn(normed).split(self.split_size, dim=2)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = x + self.c_back(out.reshape(*normed.shape[:-1], -1).contiguous())
        inner = self.c_fc(self.ln_2(x))
        inner = 0.5 * inner * (1.0 + torch.tanh(0.8 * (inner + 0.04 * torch.pow(inner, 3.0))))
        return x + self.c_proj(inner)


class GPT(nn.Module):
    """Learnt positions, a causal mask, and the head that is the embedding."""

    def __init__(self, dim: int, heads: int, head: int, hidden: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, dim), nn.Embedding(16, dim)
        self.h = nn.ModuleList(GPTBlock(dim, heads, head, hidden) for _ in range(2))
        self.ln_f = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, WORDS, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        if ids.shape[0] != at.shape[0]:
            at = at.expand(ids.shape[0], -1)
        x = self.wte(ids) + self.wpe(at)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


GPT_TABLE = {
    "c_attn.weight": "d qkv",
    "c_attn.bias": "qkv",
    "c_back.weight": "v d",
    "c_fc.weight": "d m",
    "c_fc.bias": "m",
    "c_proj.weight": "m d",
    "wte": "- d",
    "wpe": "- d",
    "lm_head": "- d",
    "": "d",
}


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 + torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.to(torch.float64)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * x.to(dtype)


def rotate_half(x: Tensor) -> Tensor:
    one, two = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-two, one), dim=-1)


class LlamaBlock(nn.Module):
    def __init__(self, dim: int, heads: int, shared: int, head: int, hidden: int) -> None:
        super().__init__()
        self.head_dim, self.shared = head, shared
        self.norm1, self.norm2 = RMSNorm(dim), RMSNorm(dim)
        self.q_proj = nn.Linear(dim, heads * shared * head, bias=False)
        self.k_proj = nn.Linear(dim, heads * head, bias=False)
        self.v_proj = nn.Linear(dim, heads * head, bias=False)
        self.o_proj = nn.Linear(heads * shared * head, dim, bias=False)
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm1(x)
        shape = (*normed.shape[:-1], -1, self.head_dim)
        q, k, v = (
            each(normed).view(shape).transpose(1, 2)
            for each in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (each * cos + rotate_half(each) * sin for each in (q, k))
        k, v = (self.repeated(each) for each in (k, v))
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5 + mask
        out = (scores.softmax(-1, dtype=torch.float64) @ v).transpose(1, 2).contiguous()
        x = x + self.o_proj(out.reshape(*normed.shape[:-1], -1))
        normed = self.norm2(x)
        return x + self.down_proj(F.silu(self.gate_proj(normed)) * self.up_proj(normed))

    def repeated(self, x: Tensor) -> Tensor:
        batch, heads, length, head = x.shape
        x = x[:, :, None, :, :].expand(batch, heads, self.shared, length, head)
        return x.reshape(batch, heads * self.shared, length, head)


class Llama(nn.Module):
    """RMSNorm, rotary positions, key-value heads that several query heads share, SwiGLU."""

    inv_freq: Tensor

    def __init__(self, dim: int, heads: int, shared: int, head: int, hidden: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(WORDS, dim)
        self.layers = nn.ModuleList(LlamaBlock(dim, heads, shared, head, hidden) for _ in range(2))
        self.norm = RMSNorm(dim)
        self.lm_head = nn.Linear(dim, WORDS, bias=False)
        frequencies = 0.3 ** torch.arange(head // 2, dtype=torch.float64)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        length = ids.shape[1]
        angles = torch.arange(length, device=ids.device)[:, None] * self.inv_freq
        angles = torch.cat((angles, angles), -1)
        mask = torch.full((length, length), -1e30, dtype=x.dtype, device=x.device).triu(1)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin(), mask)
        return self.lm_head(self.norm(x))


def llama_at(width: float) -> Slim:
    dim, heads, hidden = keep(10, width), keep(3, width), keep(14, width)
    return Slim(
        {"dim": dim, "heads": heads, "shared": 2, "head": 4, "hidden": hidden},
        {
            "d": range(dim),
            "q": range(heads * 2 * 4),
            "kv": range(heads * 4),
            "m": range(hidden),
        },
    )


LLAMA = {
    "q_proj": "q d",
    "k_proj": "kv d",
    "v_proj": "kv d",
    "o_proj": "d q",
    "down_proj": "d m",
    "gate_proj": "m d",
    "up_proj": "m d",
    "embed": "- d",
    "lm_head": "- d",
    "": "d",
}


class AlibiBlock(nn.Module):
    """Bloom's: of every head its query, key and value side by side, and heads beside samples."""

    def __init__(self, dim: int, heads: int, head: int) -> None:
        super().__init__()
        self.heads, self.head = heads, head
        self.norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, heads * 3 * head)
        self.dense = nn.Linear(heads * head, dim)

    def forward(self, x: Tensor, alibi: Tensor) -> Tensor:
        B, T, _ = x.shape
        fused = self.query_key_value(self.norm(x)).view(B, T, self.heads, 3, self.head)
        q, k, v = (
            fused[..., part, :].transpose(1, 2).reshape(B * self.heads, -1, self.head)
            for part in range(3)
        )
        scores = alibi.baddbmm(batch1=q, batch2=k.transpose(-1, -2), beta=0.9, alpha=0.5)
        attn = scores.view(B, self.heads, T, -1).softmax(-1).view(B * self.heads, T, -1)
        out = torch.bmm(attn, v).view(B, self.heads, T, self.head).permute(0, 2, 1, 3)
        return x + self.dense(out.reshape(B, T, self.heads * self.head))


class Bloom(nn.Module):
    """Biases by distance, other ones in each head, and logits in single precision."""

    slopes: Tensor

    def __init__(self, dim: int, heads: int, head: int) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(WORDS, dim)
        self.block = AlibiBlock(dim, heads, head)
        self.register_buffer("slopes", -(0.5 ** torch.arange(1.0, heads + 1)).double())
        self.lm_head = nn.Linear(dim, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        B, T = ids.shape
        alibi = self.slopes[None, :, None, None] * torch.arange(T).expand(B, 1, 1, T)
        alibi = alibi.reshape(B * self.heads, 1, T)
        return self.lm_head(self.block(self.embedding(ids), alibi)).float()


def bloom_at(width: float) -> Slim:
    dim, heads = keep(10, width), keep(3, width)
    return Slim(
        {"dim": dim, "heads": heads, "head": 4},
        {"d": range(dim), "qkv": range(heads * 12), "v": range(heads * 4), "h": range(heads)},
    )


BLOOM = {
    "query_key_value": "qkv d",
    "dense": "d v",
    "slopes": "h",
    "embedding": "- d",
    "lm_head": "- d",
    "": "d",
}


class ConvNorm(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, **options: Any) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class CSP(nn.Module):
    """One half of the channels goes through blocks, the other passes by; of a stem with GroupNorm."""

    def __init__(self, stem: int, groups: int, half: int, out: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, 2, 1)
        self.norm = nn.GroupNorm(groups, stem)
        self.expand = ConvNorm(stem, 2 * half)
        self.half = half
        self.block = ConvNorm(half, half, 3)
        self.transition = ConvNorm(2 * half, out)
        self.head = nn.Linear(out, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(self.norm(self.stem(x)))
        one, two = x.split(self.half, dim=1)
        two = two + self.block(two)
        return self.head(self.transition(torch.cat([one, two], dim=1)).mean((-2, -1)))


def csp_at(width: float) -> Slim:
    groups, half, out = keep(3, width), keep(5, width), keep(9, width)
    return Slim(
        {"stem": 2 * groups, "groups": groups, "half": half, "out": out},
        {
            "s": range(2 * groups),
            "h": range(half),
            "2h": blocks(5, half, 2),
            "o": range(out),
        },
    )


CSP_TABLE = {
    "stem": "s",
    "norm": "s",
    "expand.0": "2h s",
    "block.0": "h h",
    "transition.0": "o 2h",
    "head": "- o",
}


class EfficientChannelAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * gate.view(x.shape[0], -1, 1, 1).sigmoid().expand_as(x)


class Ghost(nn.Module):
    """Half of the maps is made of the other half, by a depthwise convolution; neighbours gate each other."""

    def __init__(self, stem: int, half: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, stem, 3, stride=2)
        self.primary = ConvNorm(stem, half)
        self.cheap = ConvNorm(half, half, 3, groups=half)
        self.out = 2 * half
        self.head = nn.Linear(2 * half, CLASSES)
        self.eca = EfficientChannelAttention()
        self.last = nn.Conv2d(2 * half, 2 * half, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.primary(self.stem(x))
        x = torch.cat([one, self.cheap(one)], dim=1)[:, : self.out, :, :]
        return self.head((x + self.last(self.eca(x)).sigmoid()).mean((2, 3)))


def ghost_at(width: float) -> Slim:
    stem, half = keep(5, width), keep(6, width)
    return Slim(
        {"stem": stem, "half": half},
        {"s": range(stem), "h": range(half), "2h": blocks(6, half, 2)},
    )


GHOST = {
    "stem.0": "s",
    "primary.0": "h s",
    "cheap.0": "h",
    "eca": "-",
    "last": "2h 2h",
    "head": "- 2h",
}


class SelectiveKernel(nn.Module):
    """Two paths, weighed channel by channel by what both together hold."""

    def __init__(self, stem: int, channels: int, attention: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, stem, 3, stride=2)
        self.paths = nn.ModuleList([ConvNorm(stem, channels, 3), ConvNorm(stem, channels, 1)])
        self.fc_reduce = nn.Conv2d(channels, attention, 1, bias=False)
        self.fc_select = nn.Conv2d(attention, 2 * channels, 1, bias=False)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.stack([path(x) for path in self.paths], dim=1)
        gate = F.relu(self.fc_reduce(x.sum(1).mean((2, 3), keepdim=True)))
        gate = self.fc_select(gate)
        B, C, H, W = gate.shape
        gate = torch.softmax(gate.view(B, 2, C // 2, H, W), dim=1)
        return self.head(torch.sum(x * gate, dim=1).mean((2, 3)))


class SplitAttention(nn.Module):
    """As above, where one grouped convolution makes both paths: of its groups, channels slim."""

    def __init__(self, stem: int, channels: int, attention: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 2 * stem, 3, stride=2)
        self.paths = ConvNorm(2 * stem, 2 * channels, 3, groups=2)
        self.fc_reduce = nn.Conv2d(channels, attention, 1)
        self.fc_select = nn.Conv2d(attention, 2 * channels, 1)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.paths(self.stem(x))
        B, RC, H, W = x.shape
        x = x.reshape((B, 2, RC // 2, H, W))
        gate = F.relu(self.fc_reduce(x.sum(dim=1).mean((2, 3), keepdim=True)))
        gate = self.fc_select(gate).view(B, 1, 2, -1).transpose(1, 2)
        gate = F.softmax(gate, dim=1).reshape(B, -1).view(B, -1, 1, 1)
        out = (x * gate.reshape((B, 2, RC // 2, 1, 1))).sum(dim=1)
        return self.head(out.contiguous().mean((2, 3)))


def split_at(width: float) -> Slim:
    stem, channels, attention = keep(5, width), keep(6, width), keep(4, width)
    return Slim(
        {"stem": stem, "channels": channels, "attention": attention},
        {
            "2s": blocks(5, stem, 2),
            "s": range(stem),
            "2c": blocks(6, channels, 2),
            "c": range(channels),
            "a": range(attention),
        },
    )


SPLIT = {
    "stem.0": "2s",
    "paths": "2c s",
    "fc_reduce": "a c",
    "fc_select": "2c a",
    "head": "- c",
}


def selective_at(width: float) -> Slim:
    stem, channels, attention = keep(5, width), keep(6, width), keep(4, width)
    return Slim(
        {"stem": stem, "channels": channels, "attention": attention},
        {
            "s": range(stem),
            "c": range(channels),
            "2c": blocks(6, channels, 2),
            "a": range(attention),
        },
    )


SELECTIVE = {
    "stem.0": "s",
    "paths": "c s",
    "fc_reduce": "a c",
    "fc_select": "2c a",
    "head": "- c",
}

MINIATURES = {
    "vit": Miniature(ViT, vit_at, VIT),
    "swin": Miniature(Swin, swin_at, SWIN),
    "torch_vit": Miniature(TorchViT, torch_vit_at, TORCH_VIT),
    "convnext": Miniature(ConvNeXt, convnext_at, CONVNEXT),
    "efficientnet": Miniature(EfficientNet, efficientnet_at, EFFICIENTNET),
    "densenet": Miniature(DenseNet, densenet_at, DENSENET),
    "gpt": Miniature(GPT, vit_at, GPT_TABLE, tokens=True),
    "llama": Miniature(Llama, llama_at, LLAMA, tokens=True),
    "bloom": Miniature(Bloom, bloom_at, BLOOM, tokens=True),
    "csp": Miniature(CSP, csp_at, CSP_TABLE),
    "ghost": Miniature(Ghost, ghost_at, GHOST),
    "split_attention": Miniature(SplitAttention, split_at, SPLIT),
    "selective_kernel": Miniature(SelectiveKernel, selective_at, SELECTIVE),
}
