"""Pickled batches of CIFAR, read without running anything that a pickle may ask for.

A pickle is a program: `pickle.load` calls whatever functions it names. Here its instructions are
checked first against the few that dictionaries, lists, text, whole numbers and NumPy arrays need,
and every name that it looks up is answered by a harmless stand-in or refused. NumPy itself is never
handed to it: arrays are recorded (`_Array`) and made after the program has ended.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynams.data.errors import DataError

# fmt: off
_INSTRUCTIONS = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "EMPTY_DICT", "SETITEM",
    "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "GLOBAL", "STACK_GLOBAL",
    "REDUCE", "BUILD",
})
# fmt: on
_BYTE_ORDERS = frozenset("<>|=")
_DTYPES = frozenset(kind + size for kind in "iu" for size in "1248")
# Tuples nested without end overflow the stack when one is hashed; a batch has a dozen tuples.
_MOST_TUPLES = 256


def unpickle(data: bytes) -> object:
    """Read a dictionary, list, text, whole number or integer array from a pickle.

    Arrays are made where batches have them: as the whole, or as a value of the outermost dictionary.

    Args:
        data: a pickle of protocol 2 or later, by Python 2 or 3 and NumPy 1 or 2. Text that Python 2
            wrote comes as bytes.

    Raises:
        DataError: it is damaged, or asks for anything else; none of it has been executed then.
    """
    _check_instructions(data)
    try:
        found = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # A damaged pickle raises whatever its bytes lead to.
        raise DataError(f"a damaged pickle: {error}") from error
    if isinstance(found, dict):
        return {key: _made(value) for key, value in found.items()}
    return _made(found)


def _check_instructions(data: bytes) -> None:
    tuples = 0
    try:
        for opcode, argument, position in pickletools.genops(data):
            if opcode.name not in _INSTRUCTIONS:
                raise DataError(
                    f"refused: a pickle with the instruction {opcode.name} at byte {position}, "
                    "which no batch of images needs"
                )
            # The unpickler makes room for every memo entry up to the largest one named.
            if opcode.name == "LONG_BINPUT" and int(argument or 0) > len(data):
                raise DataError(f"a damaged pickle: a memo entry {argument} at byte {position}")
            tuples += opcode.name.startswith("TUPLE")
            if tuples > _MOST_TUPLES:
                raise DataError(f"refused: a pickle with more than {_MOST_TUPLES} tuples")
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"a damaged pickle: {error}") from error


class _Sealed:
    """An object that a pickle can neither fill (BUILD) nor change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise DataError("refused: a pickle that changes what it was given to build arrays with")


class _Function(_Sealed):
    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)


class _Dtype:
    """What a pickle says of a dtype: made by its code, then told the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        text = _text(code)
        if text not in _DTYPES:
            raise DataError(f"refused: a pickle with an array of dtype {text!r}, want integers")
        self.code = text
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        version, order, *rest = state
        if (
            version not in (3, 4)
            or rest[:3] != [None, None, None]
            or _text(order) not in _BYTE_ORDERS
        ):
            raise DataError("refused: a pickle with an array of a structured dtype, want integers")
        self.order = _text(order)


class _Array:
    """What a pickle says of an array: its shape, dtype, order in memory and bytes."""

    __slots__ = ("data", "dtype", "order", "shape")

    def __init__(self) -> None:
        self.data: bytes | bytearray = b""
        self.dtype: _Dtype = _Dtype("u1")
        self.order = "C"
        self.shape: tuple[int, ...] = (0,)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self._fill(data, dtype, shape, "F" if fortran else "C")

    def _fill(self, data: object, dtype: object, shape: object, order: str) -> _Array:
        if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
            raise DataError("a damaged pickle: an array without dtype or bytes")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise DataError("a damaged pickle: an array whose shape is not whole numbers")
        if order not in ("C", "F"):
            raise DataError(f"a damaged pickle: an array stored in the order {order!r}")
        if math.prod(shape) * int(dtype.code[1]) != len(data):
            raise DataError(
                f"a damaged pickle: an array of shape {shape} and dtype {dtype.code} in "
                f"{len(data)} bytes"
            )
        self.data, self.dtype, self.shape, self.order = data, dtype, shape, order
        return self

    def made(self) -> NDArray[Any]:
        order: Any = self.order
        flat = np.frombuffer(self.data, np.dtype(self.dtype.order + self.dtype.code))
        return flat.reshape(self.shape, order=order)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise DataError(f"a damaged pickle: got {type(value).__name__}, want text")


def _empty_array(kind: object, shape: object, code: object) -> _Array:
    return _Array()


def _array_from_buffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    return _Array()._fill(data, dtype, shape, _text(order))


def _encoded(text: object, encoding: object) -> bytes:
    """Encode text: protocol 2 has no bytes, so Python 3 writes them so."""
    if not isinstance(text, str) or encoding != "latin1":
        raise DataError("refused: a pickle that encodes text other than bytes")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


_NAMES: dict[tuple[str, str], Callable[..., object] | _Sealed] = {
    ("numpy", "ndarray"): _Sealed(),
    ("numpy", "dtype"): _Function(_Dtype),
    ("_codecs", "encode"): _Function(_encoded),
    ("__builtin__", "bytes"): _Function(_no_bytes),
    ("builtins", "bytes"): _Function(_no_bytes),
    **{
        (f"numpy.{core}.multiarray", "_reconstruct"): _Function(_empty_array)
        for core in ("core", "_core")
    },
    **{
        (f"numpy.{core}.numeric", "_frombuffer"): _Function(_array_from_buffer)
        for core in ("core", "_core")
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _NAMES[module_name, global_name]
        except KeyError:
            raise DataError(
                f"refused: a pickle that asks for {module_name}.{global_name}; nothing was executed"
            ) from None


def _made(found: object) -> object:
    return found.made() if isinstance(found, _Array) else found
