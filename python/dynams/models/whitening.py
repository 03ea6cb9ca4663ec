"""Filters that whiten small patches of images: a first layer that is computed, not trained."""

from __future__ import annotations

import torch
from torch import Tensor

from dynams.checks import whole

_DAMPING = 5e-4
_PIXELS_AT_ONCE = 1 << 18


def whitening_filters(images: Tensor, kernel_size: int = 2, *, damping: float = _DAMPING) -> Tensor:
    """Make the filters that whiten the patches of some images, each followed by its negative.

    With v_i and l_i the unit eigenvectors and eigenvalues of the covariance of all patches of
    ``kernel_size`` x ``kernel_size`` (n = C kernel_size^2 values each), filter 2 i is
    v_i / sqrt(l_i + damping) and filter 2 i + 1 its negative; l_i descend, so a leading part of the
    filters is that of the patches' strongest components. Of the two signs an eigenvector has, the one
    is taken in which its component of largest magnitude (the first of those) is positive.

    Args:
        images: (N, C, H, W) floating point, normalised as the network sees them; N, H and W so large
            that there are two patches.
        kernel_size: k, sides of the filters in pixels.
        damping: added to the eigenvalues, so that directions without variance do not blow up noise.

    Returns:
        (2 C k^2, C, k, k) of the images' dtype, on their device. Computed in float64 where the device
        has it, else in float32.

    Raises:
        TypeError: `images` are not floating point.
        ValueError: they have not four dimensions, or not two patches.
    """
    kernel_size = whole("kernel_size", kernel_size, 1)
    if not images.is_floating_point():
        raise TypeError(f"images: got {images.dtype}, want floating point, normalised")
    if images.dim() != 4:
        raise ValueError(f"images: got shape {tuple(images.shape)}, want (N, C, H, W)")
    # Apple's GPUs have no float64.
    exact = torch.float32 if images.device.type == "mps" else torch.float64
    channels = images.shape[1]
    size = channels * kernel_size**2
    mean = torch.zeros(size, dtype=exact, device=images.device)
    product = torch.zeros(size, size, dtype=exact, device=images.device)
    sides = [max(0, side - kernel_size + 1) for side in images.shape[2:]]
    count = len(images) * sides[0] * sides[1]
    if count < 2:
        raise ValueError(
            f"images: got shape {tuple(images.shape)}, want at least two patches of {kernel_size} x {kernel_size}"
        )
    # All patches of all images together may be more than there is memory for.
    some = max(1, _PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))
    for at in range(0, len(images), some):
        part = images[at : at + some]
        patches = part.unfold(2, kernel_size, 1).unfold(3, kernel_size, 1)
        rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, size).to(exact)
        mean += rows.sum(0)
        product += rows.T @ rows
    mean /= count
    covariance = (product - count * torch.outer(mean, mean)) / (count - 1)
    # On the CPU: fast enough, and the same whatever the device.
    values, vectors = torch.linalg.eigh(covariance.double().cpu())
    vectors = vectors.T.flip(0)  # rows, the strongest first
    largest = vectors.abs().argmax(1, keepdim=True)
    vectors = vectors * vectors.gather(1, largest).sign()
    filters = vectors / (values.flip(0).clamp(min=0.0) + damping).sqrt()[:, None]
    both = torch.stack([filters, -filters], 1)
    return both.reshape(2 * size, channels, kernel_size, kernel_size).to(images)
