"""Checks of arguments, made before anything reaches an operator: each error names the argument, what came and what is wanted."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dynams_kernels._numbers import as_fraction, as_index

FLOAT_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})
_STRIDED = torch.strided
_FLOAT_NAMES = "float32, float16, bfloat16 or float64"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def check_float(name: str, tensor: object, dims: int | None, layout: str) -> Tensor:
    """A dense floating-point tensor of `dims` dimensions (None: of one at least), described to the user as `layout`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}, want a tensor of shape {layout}")
    if tensor.layout is not _STRIDED:
        raise TypeError(f"{name}: got layout {tensor.layout}, want a dense (strided) tensor")
    if tensor.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name}: got dtype {tensor.dtype}, want {_FLOAT_NAMES}")
    if tensor.dim() != dims and (dims is not None or tensor.dim() == 0):
        raise ValueError(f"{name}: got shape {_shape(tensor)}, want {layout}")
    return tensor


def check_classes(name: str, count: int) -> None:
    """A margin is a distance between two classes: fewer than two have none."""
    if count < 2:
        raise ValueError(f"{name}: got {count} classes, want at least 2")


def check_logits(logits: object, dims: int | None = None) -> Tensor:
    """Logits (..., C) with C >= 2, or of just so many dimensions."""
    checked = check_float("logits", logits, dims, "(..., C)" if dims is None else "(B, C)")
    classes = checked.shape[-1]
    if classes < 2:
        check_classes("logits", classes)
    return checked


def as_rows(tensor: Tensor) -> Tensor:
    """A tensor (..., n) as rows (B, n), a view where its strides allow."""
    return tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.shape[-1])


def check_labels(labels: object, kind: str, leading: torch.Size, device: torch.device) -> Tensor:
    """Labels of the shape of the samples, int64, on `device`, as (B,); their range is checked where the values are read."""
    wanted = tuple(leading)
    if labels is None:
        raise ValueError(
            f"labels: got None, want int64 of shape {wanted}: kind {kind!r} needs labels"
        )
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"labels: got {type(labels).__name__}, want an int64 tensor of shape {wanted}"
        )
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: got dtype {labels.dtype}, want int64")
    if labels.shape != leading:
        raise ValueError(f"labels: got shape {_shape(labels)}, want {wanted}")
    check_device("labels", labels, device)
    return labels if labels.dim() == 1 else labels.reshape(-1)


# The ignored label of margins, as of torch's losses.
IGNORED = -100
_LEAST_INT64 = -(1 << 63)
# Stands for an ignored label that is a class too: nobody's label by accident.
_IGNORED_CLASS = _LEAST_INT64


def resolve_ignored(labels: Tensor, ignore_index: object, classes: int) -> tuple[Tensor, int]:
    """Labels whose ignored ones are outside [0, C), so that kernels need not know them, and the label that means so."""
    ignored = as_index(ignore_index)
    if ignored is None:
        raise TypeError(f"ignore_index: got {type(ignore_index).__name__}, want an int")
    if not _LEAST_INT64 <= ignored <= -(_LEAST_INT64 + 1):
        raise ValueError(f"ignore_index: got {ignored}, want an int of 64 bits, as labels are")
    if not 0 <= ignored < classes:
        return labels, ignored
    return labels.masked_fill(labels == ignored, _IGNORED_CLASS), _IGNORED_CLASS


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """All tensors of a call live on one device."""
    if tensor.device != device:
        raise ValueError(f"{name}: got device {tensor.device}, want {device}")


def check_class_distances(class_distances: object, classes: int, device: torch.device) -> Tensor:
    """Pairwise class distances (C, C) float32 on `device`."""
    if class_distances is None:
        raise ValueError(
            f"class_distances: got None, want float32 of shape ({classes}, {classes}): "
            "kind 'distance' on logits needs them, see class_distances(weight)"
        )
    if not isinstance(class_distances, Tensor):
        raise TypeError(
            f"class_distances: got {type(class_distances).__name__}, "
            f"want a float32 tensor of shape ({classes}, {classes})"
        )
    if class_distances.dtype != torch.float32:
        raise TypeError(f"class_distances: got dtype {class_distances.dtype}, want float32")
    if class_distances.dim() != 2 or tuple(class_distances.shape) != (classes, classes):
        raise ValueError(
            f"class_distances: got shape {_shape(class_distances)}, want ({classes}, {classes})"
        )
    check_device("class_distances", class_distances, device)
    return class_distances


def resolve_width(width: object, columns: int) -> int:
    """How many leading input features take part: an int in [1, D], or a fraction of D in (0, 1].

    A fraction w keeps max(1, floor(w * D + 0.5)) features.
    """
    if width is None:
        return columns
    number: Any = width
    if isinstance(width, bool) or not isinstance(width, (int, torch.SymInt)):
        fraction = as_fraction(width)
        if fraction is not None:
            if not 0.0 < fraction <= 1.0:
                raise ValueError(
                    f"width: got {fraction}, want a float in (0, 1] or an int in [1, {columns}]"
                )
            return max(1, math.floor(fraction * columns + 0.5))
        number = as_index(width)
    if number is None:
        raise TypeError(
            f"width: got {type(width).__name__}, want an int in [1, {columns}] or a float in (0, 1]"
        )
    if not 1 <= number <= columns:
        raise ValueError(f"width: got {number}, want an int in [1, {columns}] or a float in (0, 1]")
    return number  # type: ignore[no-any-return]


def resolve_widths(width: object, columns: int) -> list[int]:
    """The widths of a list or tuple, in its order; of anything else the one width it stands for."""
    if not isinstance(width, (list, tuple)):
        return [resolve_width(width, columns)]
    if not width:
        raise ValueError("width: got no widths, want at least one")
    for one in width:
        if one is None:
            raise TypeError("width: got None among several widths, want ints or floats")
    return [resolve_width(one, columns) for one in width]


def check_linear(
    features: object, weight: object, bias: object, width: object, *, sharded: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The slim head: features (..., w), the first w columns of the weight as a view, the bias (C,).

    Of several widths (a list or tuple) w is the largest. `sharded`: other ranks have classes too, so that there may be any
    number here.
    """
    weight = check_float("weight", weight, 2, "(C, D)")
    classes, columns = weight.shape
    if not sharded:
        check_classes("weight", classes)
    if columns < 1:
        raise ValueError(f"weight: got shape {_shape(weight)}, want (C, D) with D >= 1")
    features = check_float("features", features, None, f"(..., {columns})")
    check_device("weight", weight, features.device)
    slim = columns if width is None else max(resolve_widths(width, columns))
    given = features.shape[-1]
    if given != columns and given != slim:
        wanted = f"(..., {columns})" if slim == columns else f"(..., {columns}) or (..., {slim})"
        raise ValueError(f"features: got shape {_shape(features)}, want {wanted}")
    if bias is not None:
        bias = check_float("bias", bias, 1, f"({classes},)")
        if bias.shape[0] != classes:
            raise ValueError(f"bias: got shape {_shape(bias)}, want ({classes},)")
        check_device("bias", bias, features.device)
    # A view of everything costs as much as a check of everything.
    slim_features = features if given == slim else features[..., :slim]
    return slim_features, weight if slim == columns else weight[:, :slim], bias


def check_same_dtype(features: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """One dtype for all operands of the head's matrix product."""
    dtype = features.dtype
    if weight.dtype != dtype:
        raise TypeError(f"weight: got dtype {weight.dtype}, want the features' {dtype}")
    if bias is not None and bias.dtype != dtype:
        raise TypeError(f"bias: got dtype {bias.dtype}, want the features' {dtype}")


def check_label_range(labels: Tensor, classes: int, ignored: int) -> None:
    """Labels in [0, C) or ignored, where reading them costs no device synchronisation."""
    if labels.numel() == 0:
        return
    others = labels.masked_fill(labels == ignored, 0)
    lowest, highest = (int(bound) for bound in torch.aminmax(others))
    if lowest < 0 or highest >= classes:
        raise label_error(lowest if lowest < 0 else highest, classes)


def label_error(wrong: int, classes: int) -> ValueError:
    """What is said of a label outside [0, C) that is not the ignored one."""
    return ValueError(f"labels: got {wrong}, want every label in [0, {classes})")
