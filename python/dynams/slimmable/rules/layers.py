"""Functions that mix channels: convolutions, products of matrices, norms, attention, embeddings."""

from __future__ import annotations

from typing import Any

from dynams.slimmable.axes import Axis, factored, parted, unite, whole
from dynams.slimmable.record import Ref
from dynams.slimmable.rules.call import Call, Layout, Outcome, Scaled, met, wholes


def convolution(call: Call) -> Outcome:
    """A grouped convolution keeps whole groups."""
    (shape,) = call.shapes
    images, weight = call.first, call.axes(call.argument(1, "weight"))
    groups = int(call.argument(6, "groups", default=1))
    outputs, inputs, *kernel = weight
    around = list(images[len(images) - len(kernel) :])
    single = call.argument(3, "stride", default=1) in (1, (1,) * len(kernel), [1] * len(kernel))
    for dim, size in enumerate(shape[len(shape) - len(kernel) :]):
        # What keeps the size may also run along channels, as those of efficient channel attention do.
        if not single or around[dim].size != size:
            around[dim].fix()
            around[dim] = whole(size)
    for each in kernel:
        each.fix()
    channels = images[-len(kernel) - 1]
    if groups > 1:
        group, inside = factored(channels, (groups, channels.size // groups))
        other, _ = factored(outputs, (groups, outputs.size // groups))
        unite(group, other)
        channels = inside
        # As it was given: of a convolution of its own for each sample it is the batch's size.
        given = call.argument(6, "groups")
        args, kwargs = call.replaced(6, "groups", Scaled(given, group))
    else:
        args, kwargs = call.args, call.step.kwargs
    unite(channels, inputs)
    _along(call, call.argument(2, "bias"), outputs)
    return Outcome(((*images[: len(images) - len(kernel) - 1], outputs, *around),), args, kwargs)


def transposed_convolution(call: Call) -> Outcome:
    """As `convolution`; its weight has inputs first."""
    images, weight = call.first, call.axes(call.argument(1, "weight"))
    if int(call.argument(6, "groups", default=1)) > 1:
        raise NotImplementedError
    inputs, outputs, *kernel = weight
    for each in (*kernel, *images[len(images) - len(kernel) :]):
        each.fix()
    unite(images[-len(kernel) - 1], inputs)
    _along(call, call.argument(2, "bias"), outputs)
    (shape,) = call.shapes
    before = images[: len(images) - len(kernel) - 1]
    return Outcome(((*before, outputs, *wholes(shape[len(shape) - len(kernel) :])),))


def linear(call: Call) -> Outcome:
    """Features to outputs."""
    outputs, inputs = call.axes(call.argument(1, "weight"))
    unite(call.first[-1], inputs)
    _along(call, call.argument(2, "bias"), outputs)
    return Outcome(((*call.first[:-1], outputs),))


def product_of_matrices(call: Call) -> Outcome:
    """As torch.matmul: the last axis of the one with the last but one of the other."""
    one, other = call.first, call.axes(call.argument(1, "other", "mat2", "tensor2"))
    (shape,) = call.shapes
    return Outcome((_multiplied(one, other, shape),))


def added_product(call: Call) -> Outcome:
    """As torch.addmm and torch.baddbmm."""
    one = call.axes(call.argument(1, "mat1", "batch1"))
    other = call.axes(call.argument(2, "mat2", "batch2"))
    (shape,) = call.shapes
    return Outcome((met([_multiplied(one, other, shape), call.first], shape),))


def einsum(call: Call) -> Outcome:
    """Each letter is an axis."""
    equation, operands = call.args[0], call.args[1:]
    if len(operands) == 1 and not isinstance(operands[0], Ref):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or "..." in equation:
        raise NotImplementedError
    given, arrow, result = equation.replace(" ", "").partition("->")
    letters: dict[str, Axis] = {}
    for term, operand in zip(given.split(","), operands, strict=True):
        for letter, axis in zip(term, call.axes(operand), strict=True):
            if letters.setdefault(letter, axis).size == 1:
                letters[letter] = axis
            elif axis.size > 1:
                unite(letters[letter], axis)
    if not arrow:
        result = "".join(
            sorted(each for each in letters if given.replace(",", "").count(each) == 1)
        )
    return Outcome((tuple(letters[each] for each in result),))


def attention(call: Call) -> Outcome:
    """Scaled dot product; where queries have several heads to one of keys, whole groups of them slim."""
    query, key, value = (
        call.first,
        *(call.axes(call.argument(at, name)) for at, name in ((1, "key"), (2, "value"))),
    )
    unite(query[-1], key[-1])
    unite(key[-2], value[-2])
    for axes in (key, value):
        for one, other in zip(query[:-2], axes[:-2], strict=True):
            if other.size == 1:
                continue
            if one.size != other.size:
                one, _ = factored(one, (other.size, one.size // other.size))
            unite(one, other)
    mask = call.argument(3, "attn_mask")
    if isinstance(mask, Ref):
        shape = tuple(each.size for each in (*query[:-1], key[-2]))
        met([(*query[:-1], key[-2]), call.axes(mask)], shape)
    return Outcome(((*query[:-1], value[-1]),))


def multi_head_attention(call: Call) -> Outcome:
    """As of nn.MultiheadAttention, whose heads together are as wide as its input: that slims by heads too."""
    query, key, value = (
        call.axes(call.argument(at, name)) for at, name in enumerate(("query", "key", "value"))
    )
    width, count = query[-1], int(call.argument(4, "num_heads"))
    if len(call.axes(call.argument(16, "attn_mask"))) > 2 or call.argument(21, "static_k"):
        raise NotImplementedError  # a mask for each head, keys of old
    heads, inside = factored(width, (count, width.size // count))
    inside.fix()
    packed = call.axes(call.argument(5, "in_proj_weight"))
    if packed:
        unite(packed[1], width)
        for each in (key, value):
            unite(each[-1], width)
    for at, name, axis in (
        (18, "q_proj_weight", width),
        (19, "k_proj_weight", key[-1]),
        (20, "v_proj_weight", value[-1]),
        (11, "out_proj_weight", width),
    ):
        if isinstance(call.argument(at, name), Ref):
            outputs, inputs = call.axes(call.argument(at, name))
            unite(outputs, width)
            unite(inputs, axis)
    for each in (packed, call.axes(call.argument(6, "in_proj_bias"))):
        for part in parted(each[0], (width.size,) * 3) if each else ():
            unite(part, width)
    for at, name in ((7, "bias_k"), (8, "bias_v"), (12, "out_proj_bias")):
        if isinstance(call.argument(at, name), Ref):
            unite(call.axes(call.argument(at, name))[-1], width)
    args, kwargs = call.replaced(3, "embed_dim_to_check", Scaled(width.size, width))
    args = (*args[:4], Scaled(count, heads), *args[5:])
    layouts = [query]
    for shape in call.shapes[1:]:
        # Weights of the heads by themselves, or their mean.
        axes = list(wholes(shape))
        if len(shape) > len(query):
            axes[-3] = heads
        layouts.append(tuple(axes))
    return Outcome(tuple(layouts), args, kwargs)


def embedding(call: Call) -> Outcome:
    """Rows of a table, which are all kept."""
    rows, columns = call.axes(call.argument(1, "weight"))
    rows.fix()
    return Outcome(((*call.first, columns),))


def layer_norm(call: Call) -> Outcome:
    """A norm over the last axes, with or without a mean."""
    given = call.argument(1, "normalized_shape")
    last = call.first[len(call.first) - len(given) :]
    shape = tuple(each.size for each in last)
    for at, name in ((2, "weight"), (3, "bias")):
        if name == "weight" or call.step.name == "layer_norm":
            met([last, call.axes(call.argument(at, name))], shape)
    sizes = tuple(Scaled(size, axis) for size, axis in zip(given, last, strict=True))
    args, kwargs = call.replaced(1, "normalized_shape", sizes)
    return Outcome((call.first,), args, kwargs)


def group_norm(call: Call) -> Outcome:
    """Whole groups are kept; of a single group, channels."""
    channels, groups = call.first[1], int(call.argument(1, "num_groups"))
    for at, name in ((2, "weight"), (3, "bias")):
        _along(call, call.argument(at, name), channels)
    if groups == 1:
        return Outcome((call.first,))
    group, inside = factored(channels, (groups, channels.size // groups))
    if not group.fixed:
        inside.fix()
    args, kwargs = call.replaced(1, "num_groups", Scaled(groups, group))
    return Outcome((call.first,), args, kwargs)


def batch_norm(call: Call) -> Outcome:
    """A norm of each channel outside a batch-norm module, such as of a weight."""
    training = call.argument(5, "training", "use_input_stats", default=False)
    if isinstance(call.argument(1, "running_mean"), Ref) and training:
        raise call.step.place.refusal(
            f"{call.step.name}: got running statistics outside a batch-norm, which every width must have "
            "of its own; want an nn.BatchNorm2d or a class derived of it"
        )
    for at, name in ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias")):
        _along(call, call.argument(at, name), call.first[1])
    return Outcome((call.first,))


def prelu(call: Call) -> Outcome:
    """A slope for all, or for each channel."""
    slopes = call.axes(call.argument(1, "weight"))
    if slopes and slopes[0].size > 1:
        unite(call.first[1], slopes[0])
    return Outcome((call.first,))


def _along(call: Call, vector: Any, axis: Axis) -> None:
    """Unite what there is one of for each position of an axis."""
    if isinstance(vector, Ref):
        unite(call.axes(vector)[0], axis)


def _multiplied(one: Layout, other: Layout, shape: tuple[int, ...]) -> Layout:
    unite(one[-1], other[-2] if len(other) > 1 else other[0])
    rows = one[-2:-1]
    columns = other[-1:] if len(other) > 1 else ()
    outer = shape[: len(shape) - len(rows) - len(columns)]
    return (*met([one[:-2], other[:-2]], outer), *rows, *columns)


def kept_whole(call: Call) -> Outcome:
    """What is not known: all that it takes and gives is kept."""
    for ref in call.tensors:
        for each in call.axes(ref):
            each.fix()
    return Outcome(tuple(tuple(map(whole, shape)) for shape in call.shapes))
