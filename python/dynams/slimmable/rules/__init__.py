"""What each function of torch does to the axes of tensors."""

from __future__ import annotations

from dynams.slimmable.rules import elementwise, layers, shapes
from dynams.slimmable.rules.call import Call, Layout, Outcome, Rule, Scaled, refs
from dynams.slimmable.rules.layers import kept_whole

__all__ = ["Call", "Layout", "Outcome", "Scaled", "kept_whole", "refs", "rule"]

_GROUPS: dict[Rule, str] = {
    elementwise.by_element: "weight_norm",
    elementwise.resized: "interpolate upsample",
    elementwise.made: "arange as_tensor asarray eye linspace new_tensor randint randperm scalar_tensor tensor",
    elementwise.sized: "empty full new_empty new_full new_ones new_zeros ones rand randn zeros",
    elementwise.softmax: "softmax log_softmax softmin gumbel_softmax",
    shapes.attribute: "getattr",
    shapes.concatenate: "cat concat concatenate",
    shapes.expand: "expand expand_as broadcast_to",
    shapes.flatten: "flatten ravel",
    shapes.get: "getitem",
    shapes.moved: "roll flip",
    shapes.narrow: "narrow",
    shapes.pad: "pad",
    shapes.permute: "permute transpose t adjoint movedim moveaxis swapaxes swapdims",
    shapes.put: "setitem",
    shapes.repeat: "repeat tile",
    shapes.reshape: "reshape view reshape_as view_as",
    shapes.select: "select",
    shapes.split: "split split_with_sizes chunk tensor_split unsafe_chunk unsafe_split",
    shapes.squeeze: "squeeze",
    shapes.stack: "stack",
    shapes.unbind: "unbind",
    shapes.unflatten: "unflatten",
    shapes.unsqueeze: "unsqueeze",
    layers.added_product: "addmm baddbmm",
    layers.attention: "scaled_dot_product_attention",
    layers.batch_norm: "batch_norm instance_norm",
    layers.convolution: "conv1d conv2d conv3d",
    layers.einsum: "einsum",
    layers.embedding: "embedding",
    layers.group_norm: "group_norm",
    layers.layer_norm: "layer_norm rms_norm",
    layers.linear: "linear",
    layers.multi_head_attention: "multi_head_attention_forward",
    layers.prelu: "prelu",
    layers.product_of_matrices: "matmul bmm mm mv dot rmatmul",
    layers.transposed_convolution: "conv_transpose1d conv_transpose2d conv_transpose3d",
}
_RULES: dict[str, Rule] = {
    **dict.fromkeys(elementwise.BY_ELEMENT, elementwise.by_element),
    **dict.fromkeys(elementwise.ALIKE, elementwise.alike),
    **dict.fromkeys(elementwise.OVER, elementwise.reduced),
    **dict.fromkeys(elementwise.POOLS, elementwise.pooled),
    **{name: rule for rule, names in _GROUPS.items() for name in names.split()},
}
_SWAPPED = frozenset("radd rsub rmul rdiv rtruediv rpow rfloordiv rmod ror rxor".split())


def rule(name: str) -> Rule | None:
    """Return the rule of a function; None: it is not known."""
    name = name.strip("_")
    if name in _SWAPPED:
        name = name[1:]
    return _RULES.get(name)
