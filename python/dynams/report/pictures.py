"""Image tensors as PNG data URIs, small enough to live inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dynams.packages import needs

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 160  # pixels: twice the width at which the page shows a picture
_PIXELATED = 96


def png_data_uris(images: Tensor) -> Iterator[tuple[str, bool]]:
    """Each image as ``(data URI, crisp)``; ``crisp`` says that enlarging should keep hard pixels.

    Args:
        images: uint8 (n, C, H, W) on any device. One channel gives a grey picture, three give
            RGB; of any other number the first is shown. Images over 160 pixels are reduced.

    Raises:
        ValueError: the tensor is not uint8 (n, C, H, W) with C, H, W >= 1.
    """
    import torch

    with needs("PIL"):
        from PIL import Image

    if images.dtype != torch.uint8 or images.dim() != 4 or 0 in images.shape[1:]:
        raise ValueError(
            f"images: got {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}, "
            "want uint8 (n, C, H, W)"
        )
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    for array in pixels:
        picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
        crisp = max(picture.size) <= _PIXELATED
        picture.thumbnail((_LARGEST, _LARGEST))
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
        yield f"data:image/png;base64,{encoded}", crisp
