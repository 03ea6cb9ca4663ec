"""A network recorded in both of its modes, and what of its sizes may vary."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynams.slimmable.example import example_for, others_like
from dynams.slimmable.record import Guard, Place, Record, Ref, RefusedError
from dynams.slimmable.recorder import Recorder, logits_in

Varying = frozenset[tuple[Ref, int]]
"""Axes whose sizes another input may change."""


@dataclass
class Recording:
    """A forward in one mode.

    Attributes:
        record: what it does.
        varying: the axes whose sizes may vary.
        example: what it was recorded with.
        logits: what came of it, and what of a second call.
        buffers: those of the network after both.
        changes_input: it changes its input in place.
    """

    record: Record
    varying: Varying
    example: Tensor
    logits: tuple[Tensor, Tensor]
    buffers: dict[str, Tensor]
    changes_input: bool


def recorded(network: nn.Module, example: Tensor | None) -> dict[bool, Recording]:
    """Record a network in eval mode (False) and training mode (True); both have one record if they do the same.

    Raises:
        ValueError: it fails, or does something else for another input.
    """
    recordings: dict[bool, Recording] = {}
    with torch.inference_mode(False):
        if example is None:
            with seeded(network):
                example = example_for(_in_mode(network, False))
        # Two samples: one is no batch to a batch-norm, and more would cost time.
        example = torch.cat([example[:1], example[-1:]]).detach()
        for mode in (False, True):
            given = example.clone()
            version = given._version
            model = _in_mode(network, mode)
            record = _record(model, given)
            with seeded(network), torch.no_grad():
                logits = record.logits, logits_in(model(example.clone()))
            changes_input = given._version != version
            if mode and _same(record, recordings[False].record):
                known = recordings[False]
                record, varying = known.record, known.varying
            else:
                varying = _varying(record, network, mode, example)
            buffers = dict(model.named_buffers())
            recordings[mode] = Recording(record, varying, example, logits, buffers, changes_input)
    return recordings


@contextmanager
def seeded(network: nn.Module) -> Iterator[None]:
    """Seed what a network draws from for a block, and give it back its state."""
    devices = sorted({each.device.index for each in network.parameters() if each.is_cuda})
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed: where CUDA is not initialised yet that would be done to it later.
        torch.default_generator.manual_seed(0)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(0)
        yield


def resting(network: nn.Module) -> tuple[str, ...]:
    """Modules put in eval mode inside a network in training mode: meant to stay so."""
    return tuple(
        path for path, each in network.named_modules() if network.training and not each.training
    )


def _in_mode(network: nn.Module, mode: bool) -> nn.Module:
    paths = resting(network)
    network = copy.deepcopy(network).train(mode)
    for path in paths:
        network.get_submodule(path).eval()
    return network


def _record(network: nn.Module, example: Tensor) -> Record:
    recorder = Recorder(network)
    try:
        with seeded(network):
            return recorder.run(example)
    except RefusedError:
        raise
    except Exception as error:  # whatever a module of the user's raises
        raise _failed(recorder, error) from error


def _failed(recorder: Recorder, error: Exception) -> ValueError:
    return recorder.place().refusal(f"its forward fails on the example: {error}")


def _same(one: Record, other: Record) -> bool:
    # Steps tell tensors by number alone: the same numbers may be other parameters.
    ours, theirs = ((each.replaced, each.states, each.sources) for each in (one, other))
    if ours != theirs:
        return False
    return len(one.steps) == len(other.steps) and all(
        type(step) is type(again) and step.same(again)  # type: ignore[arg-type]
        for step, again in zip(one.steps, other.steps, strict=True)
    )


def _varying(record: Record, network: nn.Module, mode: bool, example: Tensor) -> Varying:
    """Find the axes whose sizes another input may change, by giving it others.

    Raises:
        ValueError: with another batch it computes something else.
    """
    for other, dims in others_like(example):
        try:
            again = _record(_in_mode(network, mode), other)
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
            raise _difference(record, again)
    raise AssertionError


def _difference(record: Record, again: Record) -> RefusedError:
    problem = "its forward is not the same for every number of samples in a batch"
    for one, other in zip(record.steps, again.steps, strict=False):
        if type(one) is not type(other) or not one.same(other):  # type: ignore[arg-type]
            if isinstance(one, Guard) and isinstance(other, Guard) and one.name == "eq":
                problem += ": it makes a number of the batch's size; want x.shape[0] as it is"
            return one.place.refusal(problem)
    return Place("", "").refusal(problem)
