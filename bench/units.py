"""Times and rates as tables show them."""

from __future__ import annotations

from typing import Any


def time(seconds: float) -> str:
    """Three figures, in the unit that needs no leading zeros."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError


def rate(extra: dict[str, Any], seconds: float) -> str:
    """Operations a second for what is bound by a matrix product or says nothing of bytes, else bytes a second."""
    by_flops = "bytes" not in extra or "matmul" in extra.get("limit", "")
    if by_flops and extra.get("flops"):
        flops = extra["flops"] / seconds
        return f"{flops / 1e9:.0f} GFLOP/s" if flops < 1e13 else f"{flops / 1e12:.0f} TFLOP/s"
    if "bytes" in extra:
        moved = extra["bytes"] / seconds
        return f"{moved / 1e9:.1f} GB/s" if moved < 1e12 else f"{moved / 1e12:.2f} TB/s"
    return ""
