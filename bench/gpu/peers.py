"""Other projects' kernels beside ours, where they are installed. What is missing or fails is a line of the report, never a lost run."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Distribution by what the tables call it.
PACKAGES = {
    "liger-kernel": "liger-kernel",
    "cut-cross-entropy": "cut-cross-entropy",
    "quack": "quack-kernels",
    "flashinfer": "flashinfer-python",
}


def installed() -> dict[str, str]:
    """The version of every peer, or that it is not installed."""
    return {"torch": torch.__version__} | {
        name: _version(distribution) for name, distribution in PACKAGES.items()
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def at_hand(name: str, module: str, attribute: str) -> Callable[..., Any] | None:
    """A peer's function; None where the peer is not installed. One that is installed and cannot be imported raises at its call."""
    if installed()[name] == "not installed":
        return None

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), attribute)(*arguments, **options)

    return call


def those_at_hand(
    candidates: dict[str, Callable[..., Any] | None],
) -> dict[str, Callable[..., Any]]:
    """The candidates without those that are not installed."""
    return {name: call for name, call in candidates.items() if call is not None}


def topk_of_rows() -> dict[str, Callable[[Tensor], Any]]:
    """The two largest of every row."""
    topk = at_hand("quack", "quack.topk", "topk")
    softmax = at_hand("quack", "quack.softmax", "softmax")
    return those_at_hand(
        {
            "quack topk(2)": topk and (lambda x: topk(x, 2)),
            "quack softmax": softmax and (lambda x: softmax(x)),
        }
    )


def topk_of_values(k: int) -> dict[str, Callable[[Tensor], Any]]:
    """A selection of k of N values. flashinfer's takes the largest, which is the same work."""
    topk = at_hand("flashinfer", "flashinfer", "top_k")
    return those_at_hand({"flashinfer top_k": topk and (lambda v: topk(v[None], k, sorted=False))})


def in_32_bits(call: Callable[..., Any], weight: Tensor) -> Callable[..., Any]:
    """`call`, where a weight's elements can be counted in 32 bits: past that it left the device unusable.

    Raises:
        OverflowError: they cannot.
    """
    if weight.numel() >= 1 << 31:
        raise OverflowError(f"weight: got {weight.numel():,} elements, want below 2^31")
    return call


def linear_cross_entropies(labels: Tensor) -> dict[str, Callable[[Tensor, Tensor, Tensor], Any]]:
    """Reductions of a linear head that never store its logits: the nearest relatives of linear_margin."""
    cut = at_hand("cut-cross-entropy", "cut_cross_entropy", "linear_cross_entropy")
    liger = at_hand(
        "liger-kernel", "liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy"
    )
    return those_at_hand(
        {
            # Its release on the package index takes no bias.
            "cut-cross-entropy": cut
            and (lambda f, w, _: in_32_bits(cut, w)(f, w, labels, reduction="none")),
            "liger fused linear cross-entropy": liger
            and (lambda f, w, b: liger(f, w, labels, bias=b)),
        }
    )


def products() -> dict[str, Callable[..., Any]]:
    """quack's own product, which stores the logits, and the same with a logsumexp in its epilogue and no logits, which has no bias:
    the nearest relatives of a margin in the epilogue that are written for Hopper."""
    gemm = at_hand("quack", "quack.gemm_interface", "gemm")
    logsumexp = at_hand("quack", "quack.epilogue.library", "lse_epi")
    return those_at_hand(
        {
            "quack gemm": gemm and (lambda f, w, b: gemm(f, w.mT, bias=b, tuned=False)),
            "quack gemm, logsumexp in the epilogue": logsumexp
            and (lambda f, w, b: logsumexp(f, w.mT, store_d=False, tuned=False)),
        }
    )


def loss_of_a_head(labels: Tensor) -> dict[str, Callable[..., Any]]:
    """The mean loss, of quack: in the product's epilogue where it can, else from logits stored in chunks of rows."""
    chunked = at_hand("quack", "quack.linear_cross_entropy", "chunked_linear_cross_entropy")
    return those_at_hand(
        {
            "quack linear cross-entropy": chunked
            and (lambda f, w, b: chunked(f, w, labels, tuned=False))
        }
    )
