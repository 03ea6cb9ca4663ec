"""Inputs meant to break kernels: memory layouts, special values, ties and digit patterns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Around the vector widths, warp and block sizes that kernels are written for.
RAGGED_C = (2, 3, 7, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 1000, 1023, 4096, 50257)
RAGGED_B = (1, 2, 3, 5, 8, 17, 33)
RAGGED_N = (0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 63, 64, 65, 255, 256, 257, 1023, 1025, 4097)

_PATTERN = {
    torch.float16: (np.uint16, torch.int16),
    torch.bfloat16: (np.uint16, torch.int16),
    torch.float32: (np.uint32, torch.int32),
    torch.float64: (np.uint64, torch.int64),
}


# ------------------------------------------------------------------------------------ layouts


def _columns_apart(x: Tensor, step: int) -> Tensor:
    wide = x.new_full((*x.shape[:-1], x.shape[-1] * step + 1), float("nan"))
    out = wide[..., 1::step][..., : x.shape[-1]]
    return out.copy_(x)


def _rows_apart(x: Tensor) -> Tensor:
    tall = x.new_full((x.shape[0] * 3 + 1, x.shape[1] + 5), float("nan"))
    return tall[1::3][: x.shape[0], 2:-3].copy_(x)


def _unaligned(x: Tensor) -> Tensor:
    flat = x.new_full((x.numel() + 1,), float("nan"))
    return flat[1:].view(x.shape).copy_(x)


def _transposed(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def _lazily_negated(x: Tensor) -> Tensor:
    # The imaginary part of a conjugate is a view whose sign torch flips only when it is read.
    if x.dtype not in (torch.float32, torch.float64):
        return x.clone()
    return torch.complex(torch.zeros_like(x), -x).conj().imag


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.clone(),
    "every second column": lambda x: _columns_apart(x, 2),
    "every third column": lambda x: _columns_apart(x, 3),
    "every third row": _rows_apart,
    "transposed": _transposed,
    "unaligned start": _unaligned,
    "flipped twice": lambda x: x.flip(0).flip(0),
    "middle of a 3-D tensor": lambda x: torch.stack([x * float("nan"), x], 1)[:, 1],
    "lazily negated": _lazily_negated,
}


def layouts_1d(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same 1-D values stored in several ways, NaN standing between them."""
    yield "contiguous", x.clone()
    yield "step 2", _columns_apart(x, 2)
    yield "step 3", _columns_apart(x, 3)
    yield "unaligned start", _unaligned(x)
    yield "a column", torch.stack([x * float("nan"), x, x * float("nan")], 1)[:, 1]


# ------------------------------------------------------------------------------------ values


def from_pattern(pattern: npt.NDArray[Any], dtype: torch.dtype) -> Tensor:
    """A tensor of `dtype` with these bits."""
    if not pattern.size:
        return torch.empty(0, dtype=dtype)
    unsigned, integer = _PATTERN[dtype]
    as_bytes = torch.frombuffer(bytearray(pattern.astype(unsigned).tobytes()), dtype=torch.uint8)
    return as_bytes.view(integer).view(dtype)


def random_logits(
    rows: int,
    classes: int,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
    scale: float = 3.0,
) -> Tensor:
    """Normal logits, the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * scale
    return x.to(dtype)


def random_head(
    rows: int,
    size: int,
    classes: int,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weight and bias whose logits are of the order of `scale`, the same for the same arguments."""
    features = random_logits(rows, size, dtype, seed=seed, scale=1.0)
    weight = random_logits(classes, size, dtype, seed=seed + 1, scale=scale / math.sqrt(size))
    bias = random_logits(1, classes, dtype, seed=seed + 2, scale=0.5)[0]
    return features, weight, bias


def special_values(dtype: torch.dtype) -> Tensor:
    """Zeros, infinities, NaNs of both signs and several payloads, and the ends of the range."""
    info = torch.finfo(dtype)
    bits_of = info.bits
    fraction = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23, torch.float64: 52}[dtype]
    top = ((1 << (bits_of - 1)) - 1) & ~((1 << fraction) - 1)
    sign = 1 << (bits_of - 1)
    quiet = 1 << (fraction - 1)
    nans = [top | quiet, top | 1, top | ((1 << fraction) - 1), sign | top | quiet, sign | top | 1]
    nans += [(1 << bits_of) - 1, sign | top | quiet | 1]
    small = [1, sign | 1, 2, sign | 3]
    patterns = np.array([*nans, *small], dtype=np.uint64)
    plain = [0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf")]
    ends = [info.max, -info.max, info.tiny, -info.tiny, 1 + info.eps]
    return torch.cat([torch.tensor([*plain, *ends], dtype=dtype), from_pattern(patterns, dtype)])


def with_specials(x: Tensor, *, seed: int = 0, share: float = 0.2) -> Tensor:
    """x with a share of its entries replaced by special values."""
    generator = torch.Generator().manual_seed(seed)
    specials = special_values(x.dtype)
    pick = torch.randint(len(specials), x.shape, generator=generator)
    replace = torch.rand(x.shape, generator=generator) < share
    return torch.where(replace, specials[pick], x)


@st.composite
def logits(
    draw: st.DrawFn,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16, torch.float64),
    max_rows: int = 9,
    max_classes: int = 70,
    specials: bool = True,
) -> Tensor:
    """(B, C) logits: normal, tied, constant, huge, tiny, or peppered with special values."""
    dtype = draw(st.sampled_from(dtypes))
    rows = draw(st.integers(0, max_rows))
    classes = draw(st.integers(2, max_classes))
    seed = draw(st.integers(0, 2**20))
    flavour = draw(
        st.sampled_from(
            ["normal", "ties", "constant", "huge", "tiny", "one infinity"]
            + (["specials", "only specials", "infinities"] if specials else [])
        )
    )
    generator = torch.Generator().manual_seed(seed)
    x = random_logits(rows, classes, dtype, seed=seed)
    if flavour == "ties":
        x = torch.randint(-2, 3, (rows, classes), generator=generator).to(dtype)
    elif flavour == "constant":
        x = x[:, :1].expand(rows, classes).clone()
    elif flavour == "huge":
        x = (
            (x.double() * torch.finfo(dtype).max / 8)
            .clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
            .to(dtype)
        )
    elif flavour == "tiny":
        x = (x.double() * torch.finfo(dtype).tiny / 4).to(dtype)
    elif flavour == "one infinity" and rows:
        column = torch.randint(classes, (rows,), generator=generator)
        signed = torch.where(
            torch.rand(rows, generator=generator) < 0.5, float("inf"), -float("inf")
        )
        x[torch.arange(rows), column] = signed.to(dtype)
    elif flavour == "specials":
        x = with_specials(x, seed=seed, share=draw(st.sampled_from([0.02, 0.2])))
    elif flavour == "only specials":
        x = with_specials(x, seed=seed, share=1.0)
    elif flavour == "infinities":
        pool = torch.tensor([float("inf"), -float("inf"), -float("inf"), 0.0, -0.0, 1.0]).to(dtype)
        used = draw(st.integers(2, len(pool)))
        x = pool[torch.randint(used, (rows, classes), generator=generator)]
    return x


def labels_for(x: Tensor, seed: int = 0) -> Tensor:
    """Random valid labels for (B, C) logits."""
    generator = torch.Generator().manual_seed(seed + 77)
    return torch.randint(x.shape[1], (x.shape[0],), generator=generator)


@st.composite
def keys(draw: st.DrawFn, max_size: int = 3000) -> Tensor:
    """1-D values for a selection, of patterns that a radix or pivot selection could get wrong."""
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
    size = draw(st.one_of(st.sampled_from(RAGGED_N), st.integers(0, max_size)))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    width = torch.finfo(dtype).bits
    flavour = draw(
        st.sampled_from(
            [
                "bits",
                "shared high",
                "one digit",
                "few",
                "equal",
                "sorted",
                "reversed",
                "special",
                "zeros",
            ]
        )
    )
    if flavour == "bits":
        return from_pattern(rng.integers(0, 2**width, size, dtype=np.uint64), dtype)
    if flavour == "shared high":
        # All digits but the last few bits agree.
        low = draw(st.integers(1, width - 1))
        base = int(rng.integers(0, 2**width, dtype=np.uint64)) >> low << low
        return from_pattern(rng.integers(0, 2**low, size, dtype=np.uint64) + np.uint64(base), dtype)
    if flavour == "one digit":
        # A window of bits differs; what is above and below it agrees.
        start = draw(st.integers(0, width - 2))
        length = draw(st.integers(1, min(11, width - start)))
        base = int(rng.integers(0, 2**width, dtype=np.uint64))
        base &= ~(((1 << length) - 1) << start)
        digits = rng.integers(0, 2**length, size, dtype=np.uint64) << np.uint64(start)
        return from_pattern(digits | np.uint64(base), dtype)
    if flavour == "few":
        pool = torch.from_numpy(rng.standard_normal(draw(st.integers(1, 5)))).to(dtype)
        return pool[torch.from_numpy(rng.integers(0, len(pool), size))]
    if flavour == "equal":
        return torch.full((size,), float(rng.standard_normal()), dtype=dtype)
    if flavour == "special":
        pool = special_values(dtype)
        return pool[torch.from_numpy(rng.integers(0, len(pool), size))]
    if flavour == "zeros":
        pool = torch.tensor([0.0, -0.0, float("nan"), -float("inf")], dtype=dtype)
        return pool[torch.from_numpy(rng.integers(0, draw(st.integers(2, 4)), size))]
    ordered = torch.from_numpy(np.sort(rng.standard_normal(size))).to(dtype)
    return ordered if flavour == "sorted" else ordered.flip(0)


@st.composite
def counts(draw: st.DrawFn, size: int) -> int:
    """k in [0, size], the ends and their neighbours first."""
    ends = sorted({0, min(1, size), max(size - 1, 0), size, size // 2})
    return draw(st.one_of(st.sampled_from(ends), st.integers(0, size)))


def sampled_places(size: int) -> npt.NDArray[np.int64]:
    """Where csrc/cpu/smallest_k.cpp looks to guess its bounds (any other guess is tested as well)."""
    samples = min(65_536, int(4 * math.sqrt(size)))
    stride = size // samples
    state, places = 0x9E3779B97F4A7C15, []
    for i in range(samples):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        places.append(i * stride + (state >> 33) % stride)
    return np.array(places)
