"""`convert`: an ordinary network becomes one that runs at several widths."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynams.slimmable.analysis import Analysis, Slimming
from dynams.slimmable.base import Blueprint, Forward
from dynams.slimmable.example import example_for, others_like
from dynams.slimmable.network import SlimmableNetwork
from dynams.slimmable.norms import SwitchableBatchNorm
from dynams.slimmable.plain import replace_module
from dynams.slimmable.program import Varying, features_of, logits_of
from dynams.slimmable.record import Place, Record, Ref
from dynams.slimmable.recorder import Recorder
from dynams.slimmable.weights import Slices
from dynams.slimmable.widths import check_widths

_SEED = 0


def convert(
    model: nn.Module, widths: Sequence[float] = (0.5, 1.0), *, example: Tensor | None = None
) -> SlimmableNetwork:
    """Make a network run at several widths, with the weights it has.

    At full width the result gives the outputs of `model`, bit for bit. At width w every layer keeps
    its first `slim_channels(channels, w)` channels; layers whose outputs are added keep the same
    ones; a grouped convolution and a GroupNorm keep whole groups, attention whole heads; of a
    concatenation, each part keeps its own first channels. Input channels and classes all stay.

    Each width has batch-norms of its own. The slim ones begin as copies of the leading channels, so
    their statistics are not those of the slim network: train it (or let it see some batches in
    training mode) at a slim width before using it there.

    Args:
        model: its forward must be the same sequence of operations for every input, and return the
            logits of an `nn.Linear` (or of a 1x1 convolution of pooled features), or an object with
            `logits`. Other arguments of its forward take their defaults. It is copied and left as
            it is.
        widths: strictly ascending fractions of the channels, the last one 1.0.
        example: a batch that `model` takes, of two or more; None: one is found by trying. Sizes may
            differ later, along the batch and wherever the network allows it.

    Raises:
        TypeError: `model` is not an `nn.Module`, or `example` no tensor.
        ValueError: `widths` are not as described, or something in `model` cannot be slimmed; the
            message says which module, of which type, at which line, and what is wanted.
    """
    widths = check_widths(widths)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, want an nn.Module")
    if example is not None and not isinstance(example, Tensor):
        raise TypeError(f"example: got {type(example).__name__}, want a tensor")
    _check_modules(model)
    network = _copied(model)
    resting = _resting(network)
    with torch.random.fork_rng(devices=_devices(network)):
        if example is None:
            example = example_for(_in_mode(network, False, resting))
        analysis = Analysis(network)
        found: dict[bool, Slimming] = {}
        varying: dict[bool, Varying] = {}
        expected: dict[bool, Tensor] = {}
        changes_input = False
        for mode in (False, True):
            given = example.clone()
            version = given._version
            record = _recorded(network, mode, resting, given)
            expected[mode] = record.logits
            changes_input |= given._version != version
            if found and _same(record, found[False].record):
                found[mode], varying[mode] = found[False], varying[False]
            else:
                varying[mode] = _varying(record, network, mode, resting, example)
                found[mode] = analysis.slimming(record)
    analysis.settle(list(found.values()))
    forwards: dict[tuple[float, bool], Forward] = {}
    for width in widths:
        for mode, each in found.items():
            if mode and each is found[False]:
                forwards[width, mode] = forwards[width, False]
            else:
                forwards[width, mode] = Forward(
                    features_of(each, width, varying[mode]), logits_of(each, width, varying[mode])
                )
    slices = {
        f"network.{path}": Slices.of(layout, widths) for path, layout in analysis.states.items()
    }
    constants = nn.Module()
    for each in found.values():
        for at, (ref, value) in enumerate(each.record.constants.items()):
            constants.register_buffer(str(at), value.clone(), persistent=False)
            slices[f"constants.{at}"] = Slices.of(each.layouts[ref], widths)
    for path, axis in analysis.norms.items():
        norm = network.get_submodule(path)
        assert isinstance(norm, _BatchNorm)
        replace_module(network, norm, SwitchableBatchNorm.of(norm, axis, widths))
    head = found[False].head
    paths = [
        None if ref is None else f"network.{found[False].record.states[ref]}"
        for ref in (head.weight, head.bias)
    ]
    assert paths[0] is not None
    blueprint = Blueprint(forwards, slices, (paths[0], paths[1]), resting, changes_input)
    converted = SlimmableNetwork(network, constants, blueprint, widths)
    _check_effect(converted, expected, example)
    return converted


@torch.no_grad()
def _check_effect(
    network: SlimmableNetwork, expected: Mapping[bool, Tensor], example: Tensor
) -> None:
    """See that the full width computes on the example what the network did.

    Raises:
        ValueError: it does not.
    """
    for mode, before in expected.items():
        tried = copy.deepcopy(network).train(mode)
        torch.manual_seed(_SEED)
        logits = tried(example.clone())
        assert isinstance(logits, Tensor)
        if logits.shape != before.shape or not torch.allclose(
            logits, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()), equal_nan=True
        ):
            raise Place("", type(network.network).__name__).refusal(
                f"in {'training' if mode else 'eval'} mode it does not compute again what it did when it was "
                "recorded: does it draw random numbers outside torch, or keep a state of its own?"
            )


def _check_modules(model: nn.Module) -> None:
    """Refuse what a copy would lose, by name."""
    for path, module in model.named_modules():
        place = Place(path, type(module).__name__)
        hooks = (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        if any(hooks):
            raise place.refusal("it has hooks, which would be lost; remove them first")
        if "forward" in vars(module):
            raise place.refusal(
                "its forward was replaced on the instance; undo that, or write a class with that forward"
            )


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a module of the user's raises
        for path, module in model.named_modules():
            for name, value in vars(module).items():
                if name in ("_modules", "_parameters", "_buffers"):
                    continue
                try:
                    copy.deepcopy(value)
                except Exception as reason:
                    raise Place(path, type(module).__name__).refusal(
                        f"its {name!r} cannot be copied: {reason}; take it off for the conversion"
                    ) from error
        raise Place("", type(model).__name__).refusal(f"it cannot be copied: {error}") from error


def _resting(network: nn.Module) -> tuple[str, ...]:
    """Modules put in eval mode inside a network in training mode: meant to stay so."""
    return tuple(
        path for path, each in network.named_modules() if network.training and not each.training
    )


def _in_mode(network: nn.Module, mode: bool, resting: Sequence[str]) -> nn.Module:
    network = copy.deepcopy(network).train(mode)
    for path in resting:
        network.get_submodule(path).eval()
    return network


def _recorded(network: nn.Module, mode: bool, resting: Sequence[str], example: Tensor) -> Record:
    torch.manual_seed(_SEED)
    recorder = Recorder(_in_mode(network, mode, resting))
    try:
        return recorder.run(example)
    except ValueError as error:
        if str(error).startswith("cannot make"):
            raise
        raise _failed(recorder, error) from error
    except Exception as error:  # whatever a module of the user's raises
        raise _failed(recorder, error) from error


def _failed(recorder: Recorder, error: Exception) -> ValueError:
    return recorder.place().refusal(f"its forward fails on the example: {error}")


def _same(one: Record, other: Record) -> bool:
    return len(one.steps) == len(other.steps) and all(
        type(ours) is type(theirs) and ours.same(theirs)  # type: ignore[arg-type]
        for ours, theirs in zip(one.steps, other.steps, strict=True)
    )


def _varying(
    record: Record, network: nn.Module, mode: bool, resting: Sequence[str], example: Tensor
) -> Varying:
    """Find the axes whose sizes another input may change, by giving it others.

    Raises:
        ValueError: with another batch it computes something else.
    """
    for other, dims in others_like(example):
        try:
            again = _recorded(network, mode, resting, other)
        except ValueError:
            if dims == (0,):
                raise
            continue
        if _same(record, again):
            return frozenset(
                (Ref(at), dim)
                for at, (one, two) in enumerate(zip(record.shapes, again.shapes, strict=True))
                for dim, (ours, theirs) in enumerate(zip(one, two, strict=True))
                if ours != theirs
            )
        if dims == (0,):
            raise _difference(record, again).refusal(
                "its forward is not the same for every number of samples in a batch"
            )
    raise AssertionError


def _difference(record: Record, again: Record) -> Place:
    for one, other in zip(record.steps, again.steps, strict=False):
        if type(one) is not type(other) or not one.same(other):  # type: ignore[arg-type]
            return one.place
    return Place("", "")


def _devices(network: nn.Module) -> list[Any]:
    return sorted({each.device.index for each in network.parameters() if each.is_cuda})
