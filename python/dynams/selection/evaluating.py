"""Networks in eval mode for the time of a call, also those that a function calls, and as they were afterwards.

The networks of a function are looked for before it is called: in its closure, its defaults, the object it is
bound to, and the globals and attributes that its code names; those of a network likewise, which may keep
others where torch does not look. A network that is called all the same without having been found, and is in
training mode, is refused before it computes anything: its batch-norms would take up statistics, its dropout
would be on, and what it gives would not be what it gives in evaluation. Only where torch.compile made
something of what was found, no calls are watched: the watch is a hook of all modules, for whose sake it would
compile again at every call, and soon give up for good.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

# Where no network of a user's is kept: a search would wander through all of it.
_LIBRARIES = sys.stdlib_module_names | {"torch", "numpy"}
# What holds no network. By exact type, for items of long lists of data.
_PLAIN = (int, float, complex, bool, str, bytes, type(None), np.generic, np.ndarray, Tensor)
_PLAIN_TYPES = frozenset(_PLAIN)


class Reached(NamedTuple):
    """What a call can reach.

    Attributes:
        networks: each once.
        compiled: whether torch.compile made something of it.
    """

    networks: list[nn.Module]
    compiled: bool


@contextmanager
def evaluating(networks: list[nn.Module], *, watch: bool) -> Iterator[None]:
    """Put all modules of `networks` in eval mode, and give them their modes back at the end.

    Args:
        networks: any number.
        watch: refuse other networks in training mode that are called meanwhile, by this thread.

    Raises:
        ValueError: such a network was called.
    """
    training = [each for network in networks for each in network.modules() if each.training]
    for module in training:
        module.training = False
    thread = threading.get_ident()

    def refuse(module: nn.Module, _: object) -> None:
        if not module.training or threading.get_ident() != thread:
            return
        state = itertools.chain(module.children(), module.parameters(), module.buffers())
        if next(state, None) is not None:
            raise ValueError(
                f"model: got one that calls a {type(module).__name__} in training mode which cannot "
                "be found from outside, want score_batches(network, loader, forward=...), or network.eval()"
            )
        # Made on the spot, such as nn.Softmax(1)(x): nothing to find and nothing to keep.
        module.training = False
        training.append(module)

    hook = register_module_forward_pre_hook(refuse) if watch else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
        for module in training:
            module.training = True


def reached_by(*functions: object) -> Reached:
    """Find what calls of `functions` can reach, themselves included where they are networks."""
    search = _Search()
    for function in functions:
        search.run(function)
    return Reached(list(search.found.values()), search.compiled)


class _Search:
    """Walks from a function to what it can reach, as far as names in code lead."""

    def __init__(self) -> None:
        self.found: dict[int, nn.Module] = {}
        self.compiled = False
        self._seen: set[tuple[int, str]] = set()
        self._attributes: dict[tuple[type, frozenset[str]], list[tuple[int, str, object]]] = {}
        self._kept: list[object] = []  # what was seen must live on, or its id might come again
        # Values still to visit, and the names in the code that holds them. Data may be nested deeply.
        self._pending: list[tuple[object, frozenset[str]]] = []

    def run(self, function: object) -> None:
        self._pending.append((function, frozenset()))
        while self._pending:
            self._visit(*self._pending.pop())

    def _visit(self, value: object, names: frozenset[str]) -> None:
        if isinstance(value, _PLAIN):
            return
        if isinstance(value, nn.Module):
            if self._first(value):
                self.found[id(value)] = value
                self._visit_network(value)
            self._visit_object(value, names)
        elif isinstance(value, type):
            self._visit_class(value, value, names)
        elif isinstance(value, types.FunctionType):
            if self._first(value):
                self._visit_function(value)
        elif isinstance(value, types.MethodType):
            self._later((value.__func__,), names)
            self._later((value.__self__,), _names(value.__func__))
        elif isinstance(value, functools.partial):
            self._later((value.func, *value.args, *value.keywords.values()), names)
        elif isinstance(value, types.ModuleType):
            if _root(value.__name__) not in _LIBRARIES:
                held = vars(value)
                self._later(
                    [held[each] for each in names & held.keys() if self._first(value, each)], names
                )
        elif isinstance(value, (dict, list, tuple, set, frozenset)):
            # No other mapping: one may read a file for each of its items.
            if self._first(value):
                self._later(dict.values(value) if isinstance(value, dict) else value, names)
        else:
            self._visit_object(value, names)

    def _later(self, values: Iterable[object], names: frozenset[str]) -> None:
        self._pending += [(each, names) for each in values if not _is_data(each)]

    def _first(self, value: object, name: str = "") -> bool:
        if (id(value), name) in self._seen:
            return False
        self._seen.add((id(value), name))
        self._kept.append(value)
        return True

    def _visit_network(self, network: nn.Module) -> None:
        """Visit what its modules call that is not registered in it."""
        for module in network.modules():
            self._first(module)
            if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None):
                self.compiled = True
            self._visit_object(module, frozenset({"forward"}))

    def _visit_function(self, function: types.FunctionType) -> None:
        # One that torch.compile leaves alone has the first of these attributes too.
        if hasattr(function, "_torchdynamo_orig_callable") and not getattr(
            function, "_torchdynamo_disable", False
        ):
            self.compiled = True
        elif _root(function.__module__) in _LIBRARIES:
            # A decorator gives its function the name of the one inside: of a method of a library's network.
            self._later((getattr(function, "__wrapped__", None),), frozenset())
            return
        names = _names(function)
        self._later(function.__defaults__ or (), names)
        self._later((function.__kwdefaults__ or {}).values(), names)
        self._later(vars(function).values(), names)
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                self._later((cell.cell_contents,), names)
        held = function.__globals__
        self._later([held[name] for name in names & held.keys()], names)

    def _visit_object(self, value: object, names: frozenset[str]) -> None:
        """Visit the attributes of an object that code names; of one that is called, those of its call."""
        names = names | {"__call__", "__wrapped__"}
        own = getattr(value, "__dict__", {})
        self._later([own[each] for each in names & own.keys() if self._first(value, each)], names)
        self._visit_class(type(value), value, names)

    def _visit_class(self, kind: type, value: object, names: frozenset[str]) -> None:
        """Visit the attributes of a class that code names, those that others override too: `super()`."""
        for owner, name, attribute in self._named(kind, names):
            if not self._first(value, f"{owner}.{name}"):
                continue
            if isinstance(attribute, types.MemberDescriptorType):  # a slot
                if value is not kind:
                    self._later((getattr(value, name, None),), names)
                continue
            code = _code_of(attribute)
            self._later((code,), names)
            if isinstance(code, types.FunctionType):
                self._pending.append((value, _names(code)))

    def _named(self, kind: type, names: frozenset[str]) -> list[tuple[int, str, object]]:
        """The attributes of a class and its bases that code names: looked up once for all of its objects."""
        key = (kind, names)
        if key not in self._attributes:
            self._attributes[key] = [
                (place, name, vars(each)[name])
                for place, each in enumerate(kind.__mro__)
                if _root(each.__module__) not in _LIBRARIES
                for name in names & vars(each).keys()
            ]
        return self._attributes[key]


def _is_data(value: object) -> bool:
    """Tell quickly whether it is data, or a row of it: there may be a million."""
    if type(value) is dict:
        value = tuple(value.values())
    if type(value) in (tuple, list):
        return _PLAIN_TYPES.issuperset(map(type, value))  # type: ignore[call-overload]
    return type(value) in _PLAIN_TYPES


def _code_of(attribute: object) -> object:
    """The function behind an attribute of a class, or the attribute."""
    if isinstance(attribute, property):
        return attribute.fget
    if isinstance(attribute, functools.cached_property):
        return attribute.func
    return attribute.__func__ if isinstance(attribute, (staticmethod, classmethod)) else attribute


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _names(function: object) -> frozenset[str]:
    """All names in a function's code, that of functions inside it and of the one it wraps too."""
    names: set[str] = set()
    functions: list[object] = []
    while function is not None and function not in functions:
        functions.append(function)
        codes = [getattr(function, "__code__", None)]
        while codes:
            code = codes.pop()
            if code is not None:
                names.update(code.co_names)
                codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
        function = getattr(function, "__wrapped__", None)
    return frozenset(names)
