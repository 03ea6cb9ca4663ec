"""Miniatures of vision transformers."""

from __future__ import annotations

import torch
from miniature import CLASSES, DropPath, LayerScale, Slim, blocks, keep
from torch import Tensor, nn
from torch.nn import functional as F


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
