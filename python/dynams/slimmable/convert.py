"""`convert`: an ordinary network becomes one that runs at several widths."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from dynams.checks import one_of
from dynams.slimmable.agreement import check_nested
from dynams.slimmable.analysis import Analysis, Slimming
from dynams.slimmable.base import Blueprint, Forward
from dynams.slimmable.nested import nesting_of
from dynams.slimmable.network import SlimHead, SlimmableNetwork
from dynams.slimmable.norms import NestedBatchNorm, SwitchableBatchNorm
from dynams.slimmable.plain import replace_module
from dynams.slimmable.program import features_of, logits_of
from dynams.slimmable.record import Place
from dynams.slimmable.recordings import Recording, recorded, resting, seeded
from dynams.slimmable.weights import Slices
from dynams.slimmable.widths import check_widths

# A running mean of what cancels is rounding alone.
_NOISE = 1e-5
# One slim, one full.
_NESTED_WIDTHS = 2


# Weights copied in inference mode could never be trained.
@torch.inference_mode(False)
def convert(
    model: nn.Module,
    widths: Sequence[float] = (0.5, 1.0),
    *,
    example: Tensor | None = None,
    nested: bool = False,
    head: SlimHead = "shared",
) -> SlimmableNetwork:
    """Make a network run at several widths, with the weights it has.

    At full width the result gives the outputs of `model`, bit for bit. At width w every layer keeps
    its first `slim_channels(channels, w)` channels; layers whose outputs are added keep the same
    ones; a grouped convolution and a GroupNorm keep whole groups, attention whole heads; of a
    concatenation, each part keeps its own first channels. Input channels and classes all stay.

    Each width has batch-norms of its own. The slim ones begin as copies of the leading channels, so
    their statistics are not those of the slim network: train it (or let it see some batches in
    training mode) at a slim width before using it there.

    With ``nested`` the slim channels of every layer depend on the slim channels before it alone: the
    weights from other inputs to slim outputs become zero and stay so, so the full width is no longer
    quite `model`. The slim width's activations are then part of the full width's, with the same
    batch-norms, and a forward at both runs the layers once.

    Args:
        model: its forward must be the same sequence of operations for every input, and return the
            logits of an `nn.Linear` (or of a 1x1 convolution of pooled features), or an object with
            `logits`. Other arguments of its forward take their defaults. It is copied and left as
            it is.
        widths: strictly ascending fractions of the channels, the last one 1.0.
        example: a batch that `model` takes, on its device; None: one is found by trying. Sizes may
            differ later, along the batch and wherever the network allows it.
        nested: nest the one slim width in the full one.
        head: classifier of the nested width: shared (the columns of the full one that it uses), own (one of
            its own, which begins as a copy of them), or probe (its own, on detached features, so that its loss
            trains it alone).

    Raises:
        TypeError: `model` is not an `nn.Module`, or `example` no tensor.
        ValueError: `widths` are not as described, or something in `model` cannot be slimmed; the
            message says which module, of which type, at which line, and what is wanted; or ``nested``
            is wanted of what mixes all channels otherwise than by its weights, such as a LayerNorm.
    """
    widths = check_widths(widths)
    if nested and len(widths) != _NESTED_WIDTHS:
        raise ValueError(f"widths: got {widths}, want one slim width and 1.0 with nested=True")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, want an nn.Module")
    if example is not None and not isinstance(example, Tensor):
        raise TypeError(f"example: got {type(example).__name__}, want a tensor")
    if example is not None and (example.dim() == 0 or not len(example)):
        raise ValueError(f"example: got shape {tuple(example.shape)}, want a batch")
    one_of("head", head, get_args(SlimHead))
    if head != "shared" and not nested:
        raise ValueError(f"head: got {head}, want shared without nested=True")
    _check_modules(model)
    network = _copied(model)
    recordings, analysis, found = _analysed(network, example)
    nesting = None
    if nested:
        # Only now is it known which weights become zero; what is recorded comes of those that stay.
        parts = nn.ModuleDict({"network": network})
        for each in found.values():
            nesting_of(each, widths[0]).clear(parts)
        recordings, analysis, found = _analysed(network, recordings[False].example)
        modes = {mode: nesting_of(each, widths[0]) for mode, each in found.items()}
        nesting = replace(modes[False], absent={**modes[True].absent, **modes[False].absent})
    forwards = {
        (width, mode): Forward(
            features_of(each, width, recordings[mode].varying),
            logits_of(each, width, recordings[mode].varying),
        )
        for width in widths
        for mode, each in found.items()
    }
    slices = {
        f"network.{path}": Slices.of(layout, widths) for path, layout in analysis.states.items()
    }
    constants = nn.Module()
    for each in found.values():
        for ref, value in each.record.constants.items():
            name = each.record.constant_name(ref)
            constants.register_buffer(name, value.clone(), persistent=False)
            slices[f"constants.{name}"] = Slices.of(each.layouts[ref], widths)
    # Before each norm is replaced by one for each width, which an ordinary network of a width has not.
    asleep = resting(network)
    for path, axis in analysis.norms.items():
        norm = network.get_submodule(path)
        assert isinstance(norm, _BatchNorm)
        kind = NestedBatchNorm if nested else SwitchableBatchNorm
        replace_module(network, norm, kind.of(norm, axis, widths))
    states, last = found[False].record.states, found[False].head
    bias = None if last.bias is None else f"network.{states[last.bias]}"
    blueprint = Blueprint(
        forwards,
        slices,
        (f"network.{states[last.weight]}", bias),
        _shape(recordings),
        asleep,
        any(recording.changes_input for recording in recordings.values()),
        frozenset(f"network.{path}" for each in found.values() for path in each.record.changed),
        nesting,
    )
    converted = SlimmableNetwork(network, constants, blueprint, widths, head=head)
    _check_effect(converted, recordings)
    if nested:
        check_nested(copy.deepcopy(converted).eval(), found[False], recordings[False])
    return converted


def _analysed(
    network: nn.Module, example: Tensor | None
) -> tuple[dict[bool, Recording], Analysis, dict[bool, Slimming]]:
    """Record a network in both modes, and find out how it slims."""
    recordings = recorded(network, example)
    analysis = Analysis(network)
    found: dict[bool, Slimming] = {}
    for mode, recording in recordings.items():
        alike = mode and recording.record is recordings[False].record
        found[mode] = found[False] if alike else analysis.slimming(recording.record)
    analysis.settle(list(found.values()))
    return recordings, analysis, found


def _shape(recordings: Mapping[bool, Recording]) -> tuple[int | None, ...]:
    """Shape of the input, with None for sizes that may vary in both modes."""
    sizes = recordings[False].example.shape
    return tuple(
        None
        if all((each.record.input, dim) in each.varying for each in recordings.values())
        else size
        for dim, size in enumerate(sizes)
    )


@torch.no_grad()
def _check_effect(network: SlimmableNetwork, recordings: Mapping[bool, Recording]) -> None:
    """See that the full width computes on the example what the network did, and that every width computes.

    Raises:
        ValueError: one does not.
    """
    for mode, recording in recordings.items():
        tried = copy.deepcopy(network).train(mode)
        place = Place("", type(network.network).__name__)
        told = f"in {'training' if mode else 'eval'} mode"
        for before, at in zip(recording.logits, ("again", "the second time"), strict=True):
            with seeded(network):
                logits = tried(recording.example.clone())
            assert isinstance(logits, Tensor)
            if not _close(logits, before):
                raise place.refusal(
                    f"{told} it does not compute {at} what it did when it was recorded: does it draw random "
                    "numbers outside torch, or keep a state that is no buffer?"
                )
        for path, buffer in recording.buffers.items():
            ours = _buffer(tried.network, path)
            if ours is not None and ours.shape == buffer.shape and not _close(ours, buffer, _NOISE):
                raise place.refusal(f"{told} the buffer {path!r} does not change as it did")
        for width in network.widths[:-1]:
            try:
                tried(recording.example.clone(), (1.0, width) if network.nested else width)
            except Exception as error:  # noqa: PERF203 - whatever torch raises
                raise place.refusal(f"{told} it fails at width {width}: {error}") from error


def _close(one: Tensor, other: Tensor, noise: float = 0.0) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    # As far apart as a GPU's choice of algorithms may bring them; what is looked for is far more.
    scale = 0.02 * float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=scale + noise, equal_nan=True)


def _buffer(network: nn.Module, path: str) -> Tensor | None:
    """Return a buffer of the full width; None: there is none of that name."""
    *owners, name = path.split(".")
    for owner in owners:
        found = network._modules.get(owner)
        if isinstance(found, SwitchableBatchNorm):
            found = found.at(1.0)
        if found is None:
            return None
        network = found
    return network._buffers.get(name)


def _check_modules(model: nn.Module) -> None:
    """Refuse what a copy would lose, by name."""
    for path, module in model.named_modules():
        place = Place(path, type(module).__name__)
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(map(is_lazy, tensors)):
            raise place.refusal("it has no weights yet; call the network once first")
        if any(each.is_meta for each in tensors):
            raise place.refusal(
                "its weights are on the meta device, without values; want them first"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise place.refusal("it is compiled; convert the module that was scripted or traced")
        if isinstance(getattr(module, "_orig_mod", None), nn.Module):
            raise place.refusal(
                "it is compiled; convert first, then use torch.compile on the result"
            )
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
