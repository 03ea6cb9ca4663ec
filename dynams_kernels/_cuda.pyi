from collections.abc import Callable

from torch import Tensor

INTERFACE: str
ARCHITECTURES: list[str]
CUDA_VERSION: str
# Why the module lacks the linear head's kernel; empty where it has it.
HOPPER: str

def why_unusable(device: int, /) -> str: ...
def why_no_linear_scores(device: int, /) -> str: ...
def row_scores(
    logits: int,
    dtype: int,
    rows: int,
    classes: int,
    row_stride: int,
    labels: int,
    class_distances: int,
    distances_stride: int,
    kinds: int,
    scores: int,
    scores_stride: int,
    new_empty: Callable[[int], Tensor],
    device: int,
    stream: int,
    /,
) -> None: ...
def linear_scores(
    features: int,
    features_stride: int,
    weight: int,
    weight_stride: int,
    bias: int,
    labels: int,
    dtype: int,
    rows: int,
    classes: int,
    width: int,
    kinds: int,
    scores: int,
    scores_stride: int,
    tile: int,
    new_empty: Callable[[int], Tensor],
    device: int,
    stream: int,
    /,
) -> None: ...
def smallest_k(
    values: int,
    dtype: int,
    count: int,
    k: int,
    out_values: int,
    out_indices: int,
    out_mask: int,
    new_empty: Callable[[int], Tensor],
    device: int,
    stream: int,
    /,
) -> None: ...
def smallest_k_forced(
    values: int,
    dtype: int,
    count: int,
    k: int,
    out_values: int,
    out_indices: int,
    out_mask: int,
    new_empty: Callable[[int], Tensor],
    device: int,
    stream: int,
    sample_low: int,
    sample_high: int,
    place_capacity: int,
    list_capacity: int,
    /,
) -> None: ...
