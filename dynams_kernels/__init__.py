"""Margins, scores and exact partial selection for training on the samples nearest the decision boundary."""

from importlib.metadata import PackageNotFoundError, version

from dynams_kernels import distributed
from dynams_kernels._backends.registry import describe as backends
from dynams_kernels._backends.registry import tell_fallback
from dynams_kernels._kinds import MarginKind, Order, ScoreKind
from dynams_kernels.distances import class_distances
from dynams_kernels.linear import linear_margin, linear_scores
from dynams_kernels.logits import margin, scores
from dynams_kernels.selection import SmallestK, smallest_k, smallest_k_grouped
from dynams_kernels.selector import MarginSelector
from dynams_kernels.topk import linear_margin_topk, margin_topk

try:
    __version__ = version("dynams-kernels")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0+unknown"

__all__ = [
    "MarginKind",
    "MarginSelector",
    "Order",
    "ScoreKind",
    "SmallestK",
    "backends",
    "class_distances",
    "distributed",
    "linear_margin",
    "linear_margin_topk",
    "linear_scores",
    "margin",
    "margin_topk",
    "scores",
    "smallest_k",
    "smallest_k_grouped",
    "tell_fallback",
]
