"""Networks in eval mode for the time of a call, also those that a function calls, and as they were afterwards.

The networks of a function are looked for before it is called: in its closure, its defaults, the object it is
bound to, and the globals and attributes that its code names. A network that is called all the same without
having been found, and is in training mode, is refused before it computes anything: its batch-norms would
take up statistics, its dropout would be on, and what it gives would not be what it gives in evaluation.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

# Where no network of a user's is kept: a search would wander through all of it.
_LIBRARIES = sys.stdlib_module_names | {"torch", "numpy"}


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
                f"model: got a function that calls a {type(module).__name__} in training mode which cannot "
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


def networks_of(function: object) -> list[nn.Module]:
    """Find the networks that `function` can call, itself included where it is one; each once."""
    found: dict[int, nn.Module] = {}
    _Search(found).visit(function, frozenset())
    return list(found.values())


def compiled(networks: list[nn.Module]) -> bool:
    """Tell whether torch.compile made one: it compiles again, and warns, where calls are watched."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for network in networks
        for module in network.modules()
    )


class _Search:
    """Walks from a function to what it can reach, as far as names in code lead."""

    def __init__(self, found: dict[int, nn.Module]) -> None:
        self.found = found
        self.seen: set[tuple[int, str]] = set()
        self.kept: list[object] = []  # what was seen must live on, or its id might come again

    def visit(self, value: object, names: frozenset[str]) -> None:
        """Visit a value that code with these names holds."""
        if isinstance(value, nn.Module):
            self.found[id(value)] = value
        elif isinstance(value, (Tensor, str, bytes, type)):
            return
        elif isinstance(value, types.FunctionType):
            if _root(value.__module__) not in _LIBRARIES and self._first(value):
                self._visit_function(value)
        elif isinstance(value, types.MethodType):
            self.visit(value.__func__, names)
            self.visit(value.__self__, _names(value.__func__))
        elif isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self.visit(part, names)
        elif isinstance(value, types.ModuleType):
            if _root(value.__name__) not in _LIBRARIES:
                for name in names & vars(value).keys():
                    if self._first(value, name):
                        self.visit(vars(value)[name], names)
        elif isinstance(value, (Mapping, list, tuple, set, frozenset)):
            if self._first(value):
                for item in value.values() if isinstance(value, Mapping) else value:
                    self.visit(item, names)
        else:
            self._visit_object(value, names)

    def _first(self, value: object, name: str = "") -> bool:
        if (id(value), name) in self.seen:
            return False
        self.seen.add((id(value), name))
        self.kept.append(value)
        return True

    def _visit_function(self, function: types.FunctionType) -> None:
        names = _names(function)
        held: list[object] = [*(function.__defaults__ or ()), *vars(function).values()]
        held += (function.__kwdefaults__ or {}).values()
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                held.append(cell.cell_contents)
        held += [function.__globals__[name] for name in names & function.__globals__.keys()]
        for value in held:
            self.visit(value, names)

    def _visit_object(self, value: object, names: frozenset[str]) -> None:
        """Visit the attributes of an object that code names; of one that is called, those of its call."""
        own = getattr(value, "__dict__", {})
        for name in names | {"__call__", "__wrapped__"}:
            if not self._first(value, name):
                continue
            if name in own:
                self.visit(own[name], names)
                continue
            attribute: Any = inspect.getattr_static(type(value), name, None)
            code = attribute.fget if isinstance(attribute, property) else attribute
            if isinstance(code, types.FunctionType):
                self.visit(code, names)
                self.visit(value, _names(code))
            elif isinstance(attribute, types.MemberDescriptorType):  # a slot
                self.visit(getattr(value, name, None), names)


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _names(function: object) -> frozenset[str]:
    """All names in a function's code, that of functions inside it too."""
    codes = [getattr(function, "__code__", None)]
    names: set[str] = set()
    while codes:
        code = codes.pop()
        if code is not None:
            names.update(code.co_names)
            codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return frozenset(names)
