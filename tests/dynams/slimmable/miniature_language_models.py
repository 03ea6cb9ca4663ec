"""Miniatures of causal language models."""

from __future__ import annotations

import torch
from miniature import WORDS, Slim, keep
from torch import Tensor, nn
from torch.nn import functional as F


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
