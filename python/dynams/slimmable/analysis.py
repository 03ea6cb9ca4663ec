"""How a recorded network slims: the axes of all its tensors, and what each call gets at a width."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynams.slimmable.axes import Axis, settle, unite
from dynams.slimmable.record import Guard, Leaf, Place, Record, Ref, RefusedError, Step
from dynams.slimmable.rules import Call, Layout, Outcome, kept_whole, refs, rule
from dynams.slimmable.rules.call import wholes

_LOG = logging.getLogger(__name__)


@dataclass
class HeadCall:
    """Where the classifier is called.

    Attributes:
        features: what it takes.
        step: where in the record.
        weight: its weight.
        bias: its bias, if it has one.
    """

    features: Ref
    step: int
    weight: Ref
    bias: Ref | None


@dataclass
class Slimming:
    """How the forward of one mode slims.

    Attributes:
        record: the forward.
        layouts: axes of its tensors.
        outcomes: of its steps.
        sequences: what batch-norms take that has more axes than two.
        head: its classifier.
    """

    record: Record
    layouts: dict[Ref, Layout] = field(default_factory=dict)
    outcomes: dict[Step, Outcome] = field(default_factory=dict)
    sequences: set[Ref] = field(default_factory=set)
    head: HeadCall = field(default_factory=lambda: HeadCall(Ref(0), 0, Ref(0), None))


class Analysis:
    """Finds out how a network slims.

    Args:
        model: the network.

    Attributes:
        states: axes of its parameters and buffers, by path.
        norms: the channels of its batch-norms, by path.
        whole: what it does not know how to slim, and where.
    """

    def __init__(self, model: nn.Module) -> None:
        self.states: dict[str, Layout] = {}
        self.norms: dict[str, Axis] = {}
        self.whole: dict[str, Place] = {}
        self._model = model

    def slimming(self, record: Record) -> Slimming:
        """Unite the axes of a forward's tensors; those of its parameters are shared by all forwards.

        Raises:
            ValueError: something in it cannot be slimmed; the message says where.
        """
        found = Slimming(record)
        found.layouts[record.input] = wholes(record.shape(record.input))
        for ref, tensor in record.constants.items():
            found.layouts[ref] = tuple(map(Axis, tensor.shape))
        for ref, path in record.states.items():
            if path not in self.states:
                self.states[path] = tuple(map(Axis, record.shape(ref)))
            found.layouts[ref] = self.states[path]
        for step in record.steps:
            if isinstance(step, Step):
                outcome = self._visit(step, found)
                found.outcomes[step] = outcome
                for ref, layout in zip(step.results, outcome.layouts, strict=True):
                    found.layouts[ref] = layout
        found.head = _head(found, self._model)
        late = {
            ref
            for step in record.steps[found.head.step :]
            if isinstance(step, Step)
            for ref in step.results
        }
        for buffer, value in record.replaced.items():
            if value in late:
                raise Place("", type(self._model).__name__).refusal(
                    f"its forward keeps in the buffer {record.states[buffer]!r} what comes of the logits"
                )
            for one, other in zip(found.layouts[buffer], found.layouts[value], strict=True):
                unite(one, other)
        found.layouts[found.head.weight][0].fix()
        return found

    def settle(self, found: Sequence[Slimming]) -> None:
        """Let every product of axes slim by one of them.

        Raises:
            ValueError: nothing is left to slim.
        """
        for each in found:
            for layout in each.layouts.values():
                for axis in layout:
                    settle(axis)
        if all(axis.fixed for layout in self.states.values() for axis in layout):
            raise Place("", type(self._model).__name__).refusal(
                "there is nothing to slim: no layer between its input and its classifier could have "
                "fewer channels" + self._reasons()
            )
        if self.whole:
            _LOG.warning("convert: every width keeps all channels%s", self._reasons())

    def _reasons(self) -> str:
        reasons = [f"{name} of {place.told}" for name, place in self.whole.items()]
        return f" at what is not known: {'; '.join(reasons)}" if reasons else ""

    def _visit(self, step: Step, found: Slimming) -> Outcome:
        call = Call(step, found.layouts.__getitem__, [found.record.shape(r) for r in step.results])
        if isinstance(step.target, Leaf):
            module = self._model.get_submodule(step.target.path)
            if isinstance(module, _BatchNorm):
                axis = self.norms.setdefault(step.target.path, Axis(module.num_features))
                unite(call.first[1], axis)
                if len(call.first) > 2:
                    found.sequences.add(step.args[0])
            return Outcome((call.first,))
        known: Callable[[Call], Outcome] | None = rule(step.name)
        try:
            if known is not None:
                outcome = known(call)
                sizes = [tuple(axis.size for axis in layout) for layout in outcome.layouts]
                if sizes == list(call.shapes):
                    return outcome
        except RefusedError:
            raise
        except Exception:  # a use of the function that its rule does not know
            _LOG.debug("convert: %s of %s", step.name, step.place.told, exc_info=True)
        if not all(axis.fixed for ref in call.tensors for axis in call.axes(ref)):
            self.whole.setdefault(step.name, step.place)
        return kept_whole(call)


# What may stand between the classifier and the logits: it moves nothing but axes of one element, and
# computes nothing (language models give their logits in single precision).
_AFTER = frozenset("flatten reshape view squeeze contiguous float to".split())


def _head(found: Slimming, model: nn.Module) -> HeadCall:
    record, ref = found.record, found.record.output
    steps = [each for each in enumerate(record.steps) if isinstance(each[1], Step)]
    makers = {result: (at, step) for at, step in steps for result in step.results}  # type: ignore[union-attr]
    told = "what it was given"
    while ref in makers:
        at, step = makers[ref]
        assert isinstance(step, Step)
        told = f"the result of {step.name}"
        if _is_head(step, found):
            _check_last(record, at)
            call = Call(step, found.layouts.__getitem__, ())
            bias = call.argument(2, "bias")
            return HeadCall(step.args[0], at, _weight(step), bias)
        if step.name not in _AFTER:
            break
        ref = step.args[0]
    raise Place("", type(model).__name__).refusal(
        f"it must return the logits of an nn.Linear, its classifier; it returns {told}"
    )


def _is_head(step: Step, found: Slimming) -> bool:
    if step.name not in ("linear", "conv2d") or _weight(step) not in found.record.states:
        return False
    shape = found.record.shape(step.args[0])
    return step.name == "linear" or (
        shape[2:] == (1, 1) and found.record.shape(_weight(step))[2:] == (1, 1)
    )


def _weight(step: Step | Guard) -> Any:
    assert isinstance(step, Step)
    return step.args[1] if len(step.args) > 1 else step.kwargs["weight"]


def _check_last(record: Record, at: int) -> None:
    """Refuse a classifier whose logits something else than the output needs."""
    taken = {record.steps[at].results[0]}  # type: ignore[union-attr]
    for step in record.steps[at + 1 :]:
        if isinstance(step, Step) and taken.intersection(refs((step.args, step.kwargs))):
            if step.name not in _AFTER:
                raise step.place.refusal("the logits must be used by nothing else")
            taken.update(step.results)
