"""Functions that compute each element by itself, or along axes that they leave as they are."""

from __future__ import annotations

from dynams.slimmable.axes import whole
from dynams.slimmable.record import Ref
from dynams.slimmable.rules.call import Call, Layout, Outcome, Scaled, met, wholes

BY_ELEMENT = frozenset(
    """
    abs acos add addcdiv addcmul alpha_dropout and asin atan atan2 bernoulli bfloat16 bool ceil celu clamp
    clamp_max clamp_min clip clone contiguous copy cos cosh cpu cuda deg2rad detach div divide double dropout
    dropout1d dropout2d dropout3d elu empty_like eq erf erfc exp exp2 expm1 feature_alpha_dropout
    feature_dropout fill float floor floordiv floor_divide fmod frac full_like ge gelu greater gt half hardshrink
    hardsigmoid hardswish hardtanh hypot int invert isfinite isinf isnan ldexp le leaky_relu lerp less log
    log10 log1p log2 log_sigmoid logaddexp logical_and logical_not logical_or logical_xor logit logsigmoid
    long lt masked_fill maximum minimum mish mod mul multiply nan_to_num ne neg negative normal not ones_like
    or polygamma positive pow rad2deg rand_like randn_like reciprocal relu relu6 remainder requires_grad
    round rrelu rsqrt selu sgn short sigmoid sign silu sin sinh softplus softshrink softsign sqrt square sub
    subtract tan tanh tanhshrink threshold to true_divide truediv trunc type type_as uniform where xor zero
    zeros_like
    """.split()
)
# The result has the axes of the first argument.
ALIKE = frozenset("normalize triu tril".split())
OVER = frozenset(
    """
    all amax amin any count_nonzero linalg_norm linalg_vector_norm logsumexp max mean median min nanmean nansum
    norm prod std std_mean sum var var_mean
    """.split()
)
POOLS = frozenset(
    f"{kind}{dims}d"
    for dims in (1, 2, 3)
    for kind in (
        "max_pool",
        "avg_pool",
        "lp_pool",
        "adaptive_avg_pool",
        "adaptive_max_pool",
    )
) | {f"max_pool{dims}d_with_indices" for dims in (1, 2, 3)}


def by_element(call: Call) -> Outcome:
    """Unite all operands; a size among them, such as what a sum is divided by, is that of the width."""
    if not call.shapes:
        return Outcome(())
    axes = met([call.axes(each) for each in call.tensors], call.shapes[0])
    kwargs = {name: call.scaled(each) for name, each in call.step.kwargs.items()}
    return Outcome((axes,), tuple(map(call.scaled, call.args)), kwargs)


def alike(call: Call) -> Outcome:
    """Hand on the axes of the first argument."""
    return Outcome((call.first,))


def softmax(call: Call) -> Outcome:
    """What competes, such as the paths that a selective kernel weighs, is kept whole."""
    last = call.step.name == "gumbel_softmax"
    dim = call.argument(4 if last else 1, "dim", default=-1 if last else None)
    if dim is None:
        raise NotImplementedError
    call.first[int(dim)].fix()
    return Outcome((call.first,))


def reduced(call: Call) -> Outcome:
    """Drop the axes that are reduced."""
    if isinstance(call.argument(1, "other"), Ref):
        return by_element(call)
    dims = call.argument(2 if call.step.name.endswith("norm") else 1, "dim", "axis")
    axes = call.first
    if dims is None or isinstance(dims, bool):
        over = set(range(len(axes)))
    else:
        given = dims if isinstance(dims, (tuple, list)) else (dims,)
        over = {int(dim) % max(len(axes), 1) for dim in given} or set(range(len(axes)))

    def left(shape: tuple[int, ...]) -> Layout:
        kept = [None if dim in over else axis for dim, axis in enumerate(axes)]
        if len(shape) < len(axes):
            kept = [each for dim, each in enumerate(kept) if dim not in over]
        return tuple(whole(1) if each is None else each for each in kept)

    return Outcome(tuple(map(left, call.shapes)))


def pooled(call: Call) -> Outcome:
    """Keep the axes before height and width."""
    return spatial(call, int(next(each for each in call.step.name if each.isdigit())))


def resized(call: Call) -> Outcome:
    """Keep the axes of batch and channels."""
    return spatial(call, len(call.first) - 2)


def spatial(call: Call, dims: int) -> Outcome:
    """What computes each channel by itself over the last ``dims`` axes."""
    axes = call.first
    for each in axes[len(axes) - dims :]:
        each.fix()

    def result(shape: tuple[int, ...]) -> Layout:
        return axes[: len(axes) - dims] + wholes(shape[len(axes) - dims :])

    return Outcome(tuple(map(result, call.shapes)))


def made(call: Call) -> Outcome:
    """What makes a tensor of numbers keeps all of it."""
    return Outcome(tuple(map(wholes, call.shapes)))


def sized(call: Call) -> Outcome:
    """What makes a tensor of a size keeps all of it, but along an axis whose size it was given."""
    (shape,) = call.shapes
    at = 1 if call.step.name.startswith("new_") else 0
    sizes = call.argument(at, "size")
    given = isinstance(sizes, (tuple, list))
    sizes = tuple(sizes) if given else call.args[at:]
    if not all(isinstance(each, int) for each in sizes) or tuple(map(int, sizes)) != shape:
        return Outcome((wholes(shape),))
    axes = tuple(call.axis_of(each) or whole(int(each)) for each in sizes)
    scaled = tuple(Scaled(size, axis) for size, axis in zip(sizes, axes, strict=True))
    kwargs = {name: each for name, each in call.step.kwargs.items() if name != "size"}
    rest = call.args[at + 1 :] if given else ()
    return Outcome((axes,), (*call.args[:at], scaled, *rest), kwargs)
