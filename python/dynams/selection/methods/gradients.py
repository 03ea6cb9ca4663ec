"""Inner products and distances of last-layer gradients, which are never built.

The gradient of sample i with respect to weight and bias of the last layer is the outer product
g_i = (p_i - y_i) (x) [h_i, 1], of C (D + 1) numbers. Inner products factorise:
<g_i, g_j> = ((p_i - y_i) . (p_j - y_j)) (h_i . h_j + 1), at C + D multiplications.
Double precision, where the device has it: distances of close gradients are differences of nearly
equal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dynams.selection.precision import wide_dtype

# Numbers in the temporaries of a block: 2 MB each in double precision, which a core's cache holds (with
# 32 MB the distances took 2.5 times as long).
_BLOCK_ELEMENTS = 1 << 18


def gram(features: Tensor, residuals: Tensor) -> Tensor:
    """Return the inner products of all gradients: (n, n) on the CPU, float64, symmetric.

    Args:
        features: (n, D).
        residuals: (n, C).
    """
    count = features.shape[0]
    result = torch.empty((count, count), dtype=torch.float64, device="cpu")
    for rows, products in _blocks(features, residuals):
        result[rows] = products.to("cpu", torch.float64)
    return (result + result.T) / 2


def distances(features: Tensor, residuals: Tensor) -> Tensor:
    """Return the distances ||g_i - g_j|| of all gradients: (n, n) on the CPU, float32, zero diagonal.

    Args:
        features: (n, D).
        residuals: (n, C).
    """
    count = features.shape[0]
    result = torch.empty((count, count), dtype=torch.float32, device="cpu")
    wide = wide_dtype(features.device)
    squares = finite(residuals).square().sum(1) * (finite(features).square().sum(1) + 1)
    for rows, products in _blocks(features, residuals):
        norms = squares[rows].unsqueeze(1) + squares
        squared = norms - 2 * products
        # What is left of the three terms below their rounding is no distance.
        noise = norms * (16 * torch.finfo(wide).eps)
        result[rows] = torch.where(squared > noise, squared, 0.0).sqrt().to("cpu", torch.float32)
    # Blocks may round (i, j) and (j, i) differently.
    return torch.minimum(result, result.T).fill_diagonal_(0.0)


def group_gram(features: Tensor, residuals: Tensor, group_size: int) -> Tensor:
    """Return the inner products of the summed gradients of groups: (m, m) on the CPU, float64.

    A group is `group_size` consecutive rows, the last one what is left. Its sum is the matrix
    M_g = sum over i in g of (p_i - y_i) [h_i, 1]^T, formed for a few classes at a time, so that memory
    stays bounded for any number of classes.

    Args:
        features: (n, D).
        residuals: (n, C).
        group_size: at least 1.
    """
    groups = -(-features.shape[0] // group_size)
    inputs = features.shape[1] + 1
    wide = wide_dtype(features.device)
    result = torch.zeros((groups, groups), dtype=wide, device=features.device)
    classes = max(1, _BLOCK_ELEMENTS // max(groups * inputs, 1))
    for columns in torch.split(residuals, classes, 1):
        sums = [
            finite(r).T @ torch.nn.functional.pad(finite(h), (0, 1), value=1.0)
            for h, r in zip(
                torch.split(features, group_size), torch.split(columns, group_size), strict=True
            )
        ]
        flat = torch.stack(sums).flatten(1) if sums else result[:, :0]
        result += flat @ flat.T
    return result.to("cpu", torch.float64)


def check_rows(count: int, **tensors: Tensor) -> None:
    """Refuse what has not two dimensions and `count` rows.

    Raises:
        ValueError: naming it.
    """
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or tensor.shape[0] != count:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, want ({count}, any)")


def finite(values: Tensor) -> Tensor:
    """Return the values in double precision; what is not finite, in a diverged network, counts as 0."""
    return values.to(wide_dtype(values.device)).nan_to_num(0.0, 0.0, 0.0)


def _blocks(features: Tensor, residuals: Tensor) -> Iterator[tuple[slice, Tensor]]:
    h, r = finite(features), finite(residuals)
    for rows in _row_blocks(h.shape[0], h.shape[0]):
        yield rows, (r[rows] @ r.T) * (h[rows] @ h.T + 1)


def _row_blocks(count: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK_ELEMENTS // max(width, 1))
    for begin in range(0, count, step):
        yield slice(begin, min(begin + step, count))
