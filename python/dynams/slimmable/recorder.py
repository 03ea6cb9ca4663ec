"""Records what a network's forward does, while it runs on an example.

The network computes with real values, so any Python in its forward works.
"""

from __future__ import annotations

import pickle
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from dynams.slimmable.extents import Expression, Extent
from dynams.slimmable.record import Guard, Leaf, Place, Record, Ref, Region, Step, mapped

_TORCH = str(Path(torch.__file__).parent)
_LAYERS = str(Path(torch.__file__).parent / "nn" / "modules")
_HERE = str(Path(__file__).parent)

# Of a tensor they give a number or a property that no value decides.
_ABOUT = frozenset(
    "dim ndimension stride is_contiguous get_device is_floating_point is_complex element_size "
    "storage_offset data_ptr untyped_storage is_same_size is_pinned is_shared is_inference has_names "
    "type register_hook retain_grad __repr__ __format__ __str__ __hash__ is_cuda is_tensor".split()
)
_READERS = frozenset(
    "__bool__ __float__ __int__ __index__ __complex__ __contains__ __array__ item tolist numpy equal "
    "allclose is_nonzero nonzero unique masked_select".split()
)
_RANDOM = frozenset(
    "rand randn randint randperm rand_like randn_like randint_like bernoulli bernoulli_ multinomial "
    "normal normal_ uniform_ random_ poisson empty empty_like new_empty".split()
)
_GENERATORS = random.Random, np.random.RandomState, np.random.Generator
_PARTS = frozenset({"T", "mT", "H", "mH", "data", "real", "imag"})


class Recorder(TorchFunctionMode):
    """Records what `model` does, which is a copy that nobody else uses.

    Args:
        model: the network.
        leaves: classes of the modules that stay modules.
    """

    def __init__(
        self, model: nn.Module, leaves: tuple[type[nn.Module], ...] = (_BatchNorm, _DropoutNd)
    ) -> None:
        super().__init__()
        self.model = model
        self._leaves = leaves
        self.record = Record(Ref(0), model.training)
        self._known: dict[int, tuple[Tensor, Ref]] = {}
        self._unread: set[Ref] = set()
        self._places: list[Place] = []
        self._paused = False
        # Held with their versions, so that no other tensor gets the identity of one that is replaced.
        self._stored = {
            path: (each, each._version)
            for named in (model.named_buffers(), model.named_parameters())
            for path, each in named
        }
        self._states = {id(each): path for path, (each, _) in self._stored.items()}
        self._attributes = {id(each): (each, each._version) for each in _held(model, Tensor)}
        self._generators = list(_generators(model))
        self._device = ""
        self._autocasts = 0
        self._drawn: Any = None

    def run(self, example: Tensor) -> Record:
        """Record a call with ``example``.

        Raises:
            ValueError: the forward decides by values, or uses a tensor of unknown origin.
        """
        self._device = example.device.type
        self._autocasts = _nesting()
        self._drawn = _drawn(self._generators)
        self.record.input = self._new(example)
        self._unread.add(self.record.input)
        with self._watched(), torch.enable_grad(), self:
            output = self.model(example)
        logits = logits_in(output)
        if not isinstance(logits, Tensor):
            raise Place("", type(self.model).__name__).refusal(
                f"it must return logits, or an object whose logits they are; it returns {_kind(output)}"
            )
        # Whoever reads the record compares sizes too.
        self._paused = True
        self.record.output = self._ref(logits)
        self._changes()
        self.record.logits = logits.detach()
        return self.record

    def _changes(self) -> None:
        """Find out what the forward changed of the network itself."""
        for path, (tensor, version) in self._stored.items():
            owner, _, name = path.rpartition(".")
            now = self.model.get_submodule(owner)._buffers.get(name, tensor)
            # What a norm counts is its own, at each width.
            if tensor._version != version and not isinstance(
                self.model.get_submodule(owner), self._leaves
            ):
                self.record.changed.add(path)
            # A buffer of another shape is a table made anew, which a later call makes anew too.
            if now is tensor or now is None or now.shape != tensor.shape:
                continue
            if id(now) in self._known:
                ref = next((ref for ref, at in self.record.states.items() if at == path), None)
                self.record.replaced[self._ref(tensor) if ref is None else ref] = self._ref(now)
                self.record.changed.add(path)
        for tensor, version in self._attributes.values():
            if tensor._version != version and id(tensor) not in self._states:
                raise Place("", type(self.model).__name__).refusal(
                    f"its forward changes a tensor of shape {tuple(tensor.shape)} that is neither a parameter "
                    "nor a buffer, which would be lost; want register_buffer"
                )

    def place(self) -> Place:
        """Where the forward is now."""
        path, kind, _ = self._places[-1] if self._places else Place("", type(self.model).__name__)
        return Place(path, kind, _line(sys._getframe()))

    def guard(self, name: str, one: int, other: float, outcome: bool) -> None:
        """Record a comparison of sizes."""
        # Torch's own layers compare sizes to check them.
        if not self._paused and not _asker(sys._getframe()).startswith(_LAYERS):
            self.record.steps.append(Guard(name, (one, other), outcome, self.place()))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        name = str(getattr(func, "__name__", func))
        if name in ("__get__", "__set__"):
            return self._property(func, name, args)
        if name in ("size", "numel", "nelement", "__len__") and isinstance(args[0], Tensor):
            return self._size(name, *args, **kwargs)
        if name in _ABOUT and not (name == "type" and (args[1:] or kwargs)):
            return func(*args, **kwargs)
        if name in _READERS:
            self._check_read(name, args)
            if name not in ("nonzero", "unique", "masked_select"):
                return func(*args, **kwargs)
        with self._pause():
            result = func(*args, **kwargs)
        packed = isinstance(result, (tuple, list))
        results = list(result) if packed else [result]
        while packed and results[-1:] == [None]:
            results.pop()  # such as the weights of an attention, when nobody asked for them
        if not all(isinstance(each, Tensor) for each in results) and name != "__setitem__":
            return result
        self._append(func, args, kwargs, [] if result is None else results, packed)
        if name in _RANDOM:
            self._unread.update(self.record.steps[-1].results)  # type: ignore[union-attr]
        return result

    def _append(
        self, target: Any, args: Any, kwargs: Any, results: list[Any], packed: bool
    ) -> None:
        place = self.place()
        taken: list[Ref] = []

        def recorded(value: Any) -> Any:
            if isinstance(value, Tensor):
                taken.append(self._ref(value, place))
                return taken[-1]
            return value

        args, kwargs = mapped(tuple(args), recorded), mapped(dict(kwargs), recorded)
        # An autocast that changes nothing now may do so in a run under another.
        own = _nesting() > self._autocasts
        region = Region(torch.is_grad_enabled(), _autocast(self._device) if own else None)
        if torch.is_inference_mode_enabled():
            raise place.refusal(
                "its forward goes into inference mode; torch.no_grad() would be kept"
            )
        refs = tuple(self._new(each) for each in results)
        if self._unread.intersection(taken):
            self._unread.update(refs)
        self.record.steps.append(
            Step(
                target,
                args,
                kwargs,
                refs,
                packed,
                place,
                None if region == Region(True, None) else region,
            )
        )

    def _property(self, func: Any, name: str, args: tuple[Any, ...]) -> Any:
        attribute = str(getattr(func.__self__, "__name__", ""))
        if name == "__set__":
            raise self.place().refusal(f"its forward sets the {attribute!r} of a tensor")
        if attribute == "shape":
            return self._size("size", args[0])
        result = func(*args)
        if isinstance(result, Tensor) and attribute in _PARTS:
            self._append(getattr, (args[0], attribute), {}, [result], False)
        return result

    def _size(self, name: str, tensor: Tensor, dim: Any = None) -> Any:
        ref = self._ref(tensor)
        lengths = [
            Extent.of(size, Expression("size", (ref, axis)), self.guard)
            for axis, size in enumerate(tensor.shape)
        ]
        if name == "__len__":
            return int(lengths[0])  # which len() makes of it in any case
        if name in ("numel", "nelement"):
            count: Any = 1
            for length in lengths:
                count = length * count
            return count
        return torch.Size(lengths) if dim is None else lengths[dim]

    def _check_read(self, name: str, args: tuple[Any, ...]) -> None:
        refs = {self._ref(each) for each in args if isinstance(each, Tensor)}
        if refs & self._unread:
            raise self.place().refusal(
                f"its forward reads the values of a tensor ({name}), so that it is not the same for "
                "every input"
            )

    def _new(self, tensor: Tensor) -> Ref:
        ref = Ref(len(self.record.shapes))
        self.record.shapes.append(tuple(tensor.shape))
        # Held, so that no other tensor gets its identity.
        self._known[id(tensor)] = tensor, ref
        return ref

    def _ref(self, tensor: Tensor, place: Place | None = None) -> Ref:
        if isinstance(tensor.grad_fn, BackwardCFunction):
            name = type(tensor.grad_fn).__name__.removesuffix("Backward")
            raise (place or self.place()).refusal(
                f"it uses the result of {name}, an autograd.Function, whose gradient would be lost"
                + ("; want use_reentrant=False" if name == "CheckpointFunction" else "")
            )
        if id(tensor) in self._known:
            return self._known[id(tensor)][1]
        path = self._states.get(id(tensor))
        if path is None and id(tensor) not in self._attributes:
            raise (place or self.place()).refusal(
                "it uses a tensor that no function of torch gave: of another library, or of a module that "
                "is no part of it"
            )
        ref = self._new(tensor)
        if path is None:
            self.record.constants[ref] = tensor.detach()
            self.record.sources[ref] = list(self._attributes).index(id(tensor))
        else:
            self.record.states[ref] = path
            self._unread.add(ref)
        return ref

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Follow the calls of the modules; the leaves among them are recorded as such."""
        hooks = []
        leaves = []
        for path, module in self.model.named_modules():
            place = Place(path, type(module).__name__)
            hooks.append(
                module.register_forward_pre_hook(lambda *_, at=place: self._places.append(at))
            )
            if isinstance(module, self._leaves):
                module.forward = self._leaf(path, module)
                leaves.append(module)
            hooks.append(module.register_forward_hook(lambda *_, at=place: self._left(at)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module in leaves:
                del module.forward

    @contextmanager
    def _pause(self) -> Iterator[None]:
        """Record nothing: what torch's functions decide by sizes they decide anew at every call."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _left(self, place: Place) -> None:
        """Leave a module."""
        self._places.pop()
        if _drawn(self._generators) != self._drawn:
            raise place.refusal(
                "its forward draws random numbers outside torch, which would be drawn once for all inputs; "
                "want torch.rand"
            )

    def _leaf(self, path: str, module: nn.Module) -> Callable[..., Tensor]:
        compute = module.forward
        if isinstance(module, nn.SyncBatchNorm):
            # It refuses a CPU; one process computes the same.
            compute = _BatchNorm.forward.__get__(module)

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            given = (*args, *kwargs.values())
            if len(given) != 1 or not isinstance(given[0], Tensor):
                raise self.place().refusal("it must be called with one tensor")
            with self._pause():
                output: Tensor = compute(given[0])
                self._append(Leaf(path), given, {}, [output], False)
            return output

        return forward


def logits_in(output: Any) -> Any:
    """Return the logits in what a network gives; None: there are none."""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return output if isinstance(output, Tensor) else getattr(output, "logits", None)


def _held(model: nn.Module, kinds: Any) -> Iterator[Any]:
    """What modules hold of some classes without having registered it."""

    def held(value: Any, depth: int) -> Iterator[Any]:
        if isinstance(value, kinds):
            yield value
        elif isinstance(value, Mapping) and depth:
            for each in value.values():
                yield from held(each, depth - 1)
        elif isinstance(value, (tuple, list)) and depth:
            for each in value:
                yield from held(each, depth - 1)

    for module in model.modules():
        for value in vars(module).values():
            yield from held(value, 2)


def _generators(model: nn.Module) -> Iterator[Any]:
    """Generators of random numbers outside torch: of the modules, and of the files that their classes stand in."""
    yield from _held(model, _GENERATORS)
    for forward in {type(each).forward for each in model.modules()}:
        known = list(getattr(forward, "__globals__", {}).values())
        yield from (each for each in known if isinstance(each, _GENERATORS))


def _autocast(device: str) -> tuple[str, bool, torch.dtype]:
    enabled = torch.is_autocast_enabled(device)
    return device, enabled, torch.get_autocast_dtype(device)


def _drawn(generators: Sequence[Any]) -> Any:
    """How far the random numbers outside torch have come, also those of generators of the network's own."""
    kind, keys, *place = np.random.get_state(legacy=True)
    own = list(map(pickle.dumps, generators))
    return random.getstate(), kind, keys.tobytes(), place, own  # type: ignore[union-attr]


def _nesting() -> int:
    """Count the autocasts that are open, also those that change nothing."""
    count = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return count


def _kind(value: object) -> str:
    return type(value).__name__


def _asker(frame: Any) -> str:
    """File of the code that called this package."""
    while frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return str(frame.f_code.co_filename)


def _line(frame: Any) -> str:
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_HERE):
            break  # beyond this frame begins whoever asked for the conversion
        if not name.startswith((_TORCH, "<")):
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
