"""`convert`: a network of ordinary layers becomes one that runs at several widths."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from torch import nn

from dynams.models.layers import check_widths
from dynams.slimmable.analysis import Findings, Slimming, analyse
from dynams.slimmable.channels import Block, Ranges, kept_ranges
from dynams.slimmable.layers import SlicedConv2d, SlicedGroupNorm, SlicedLinear, switchable_norm
from dynams.slimmable.network import SlimmableNetwork, container, place
from dynams.slimmable.trace import Place, trace


def convert(model: nn.Module, widths: Sequence[float] = (0.5, 1.0)) -> SlimmableNetwork:
    """Make a network run at several widths, with the weights it has.

    At full width the result gives the outputs of `model`, bit for bit. At width w every layer keeps
    its first `slim_channels(channels, w)` channels; layers whose outputs are added keep the same
    ones; a grouped convolution and a GroupNorm keep whole groups; of a concatenation, each part
    keeps its own first channels. Input channels and classes all stay.

    Each width has batch-norms of its own. The slim ones begin as copies of the leading channels, so
    their statistics are not those of the slim network: train it (or let it see some batches in
    training mode) at a slim width before using it there.

    Args:
        model: Conv2d, Linear, BatchNorm1d/2d, GroupNorm, activations, dropout, pooling, flatten,
            additions, products (squeeze and excitation) and concatenations, whose forward is the
            same sequence of operations for every input and returns the logits of an `nn.Linear`.
            Other arguments of its forward take their defaults. It is copied and left as it is.
        widths: strictly ascending fractions of the channels, the last one 1.0.

    Raises:
        TypeError: `model` is not an `nn.Module`.
        ValueError: `widths` are not as described, or something in `model` cannot be slimmed; the
            message says which module, of which type, at which line, and what is wanted.
    """
    widths = check_widths(widths)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, want an nn.Module")
    traced = trace(model)
    found = analyse(traced)
    _check(found, traced.model, widths)
    modes = {path: module.training for path, module in traced.model.named_modules()}
    network = nn.Module()
    for path, module in traced.model.named_modules():
        if path in found.layers:
            place(network, path, _slimmable(module, found.layers[path], widths))
        elif path in found.modules:
            place(network, path, copy.deepcopy(module))
        _copy_attributes(network, path, module, found.attributes)
    converted = SlimmableNetwork(network, found.program, found.head, widths)
    converted.training = traced.model.training
    for path, module in network.named_modules():
        # What is made of a layer has children of its own: the norms of every width.
        known = next(each for each in _upwards(path) if each in modes)
        module.training = modes[known]
    return converted


def _check(found: Findings, model: nn.Module, widths: tuple[float, ...]) -> None:
    """Refuse a network of which nothing slims, and a head whose kept features are not its first."""
    rows = [block for slimming in found.layers.values() for block in slimming.rows or ()]
    if all(block.axis.fixed or block.axis.units == 1 for block in rows):
        raise Place("", type(model).__name__).refusal(
            "there is nothing to slim: no layer between its input and its classifier could have "
            "fewer channels"
        )
    head = found.layers[found.head]
    features = model.get_submodule(found.head).get_parameter("weight").shape[1]
    if any(len(kept_ranges(head.columns, features, width)) > 1 for width in widths):
        raise head.place.refusal(
            "the classifier takes a concatenation, so the features that a slim width has are not "
            "its first ones; put a 1x1 Conv2d or a Linear between"
        )


def _slimmable(module: nn.Module, slimming: Slimming, widths: tuple[float, ...]) -> nn.Module:
    def kept(blocks: tuple[Block, ...] | None, count: int) -> dict[float, Ranges]:
        return {width: kept_ranges(blocks, count, width) for width in widths}

    if isinstance(module, nn.Conv2d):
        rows = kept(slimming.rows, module.out_channels)
        columns = kept(slimming.columns, module.in_channels // module.groups)
        groups = _groups(rows, module.out_channels, module.groups)
        return SlicedConv2d(module, rows, columns, groups)
    if isinstance(module, nn.Linear):
        rows = kept(slimming.rows, module.out_features)
        return SlicedLinear(module, rows, kept(slimming.columns, module.in_features))
    if isinstance(module, nn.GroupNorm):
        rows = kept(slimming.rows, module.num_channels)
        return SlicedGroupNorm(module, rows, _groups(rows, module.num_channels, module.num_groups))
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    return switchable_norm(module, kept(slimming.rows, module.num_features))


def _groups(rows: dict[float, Ranges], channels: int, groups: int) -> dict[float, int]:
    if groups == 1:
        return dict.fromkeys(rows, 1)
    return {
        width: sum(stop - start for start, stop in ranges) * groups // channels
        for width, ranges in rows.items()
    }


def _copy_attributes(
    network: nn.Module, path: str, module: nn.Module, wanted: frozenset[str]
) -> None:
    prefix = f"{path}." if path else ""
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name in wanted:
            container(network, path).register_parameter(name, copy.deepcopy(parameter))
    for name, buffer in module.named_buffers(recurse=False):
        if prefix + name in wanted:
            persistent = name not in module._non_persistent_buffers_set
            container(network, path).register_buffer(name, buffer.clone(), persistent)


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
