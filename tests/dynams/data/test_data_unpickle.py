"""The restricted unpickler: reads what batches hold, refuses everything else unexecuted."""

from __future__ import annotations

import builtins
import contextlib
import functools
import operator
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynams.data import DataError
from dynams.data.unpickle import unpickle

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
DTYPES = ["u1", "i1", "<i2", ">i2", "<u4", ">i8", "<i8", "=u8"]

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=12,
)


class Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Fill:
    """Pickles as a call whose result is then given a state (BUILD)."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any) -> None:
        self.parts = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


def attacks(marker: Path) -> dict[str, Any]:
    command = f"touch '{marker}'"
    source = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, command),
        "builtins.eval": Call(eval, source),
        "builtins.exec": Call(exec, source),
        "builtins.getattr": Call(getattr, "text", "upper"),
        "functools.partial": Call(functools.partial, os.system, command),
        "map over eval": Call(list, Call(map, eval, [source])),
        "operator.methodcaller": Call(operator.methodcaller, "touch"),
        "open": Call(open, str(marker), "w"),
        "a method": Call(Path.touch, marker),
        "a path": marker,
        "__import__": Call(builtins.__import__, "os"),
        "numpy.load": Call(np.load, str(marker)),
        "numpy.fromfile": Call(np.fromfile, str(marker)),
        "numpy scalar": np.int64(3),
        "numpy object array": np.array([Call(os.system, command), None], dtype=object),
        "numpy structured array": np.zeros(2, np.dtype([("a", "u1")])),
        "numpy float array": np.zeros(2),
        "set": {1, 2},
        "complex": 1j,
        "class": Path,
        "state with a call": Fill(dict, (), {"a": Call(os.system, command)}),
        "bytes of a file": Call(bytes, Call(open, str(marker), "w")),
    }


NAMES = sorted(attacks(Path("unused")))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", NAMES)
def test_attack_is_refused_without_executing(tmp_path: Path, name: str, protocol: int) -> None:
    marker = tmp_path / "executed"
    attack = attacks(marker)[name]
    for value in (
        attack,
        {b"data": attack},
        [[{b"a": (1, attack)}]],
        {b"data": b"", b"z": [attack]},
    ):
        with pytest.raises(DataError):
            unpickle(pickle.dumps(value, protocol))
        assert not marker.exists()


def test_the_same_attack_on_pickle_itself_executes(tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps({b"data": attacks(marker)["os.system"]}))
    assert marker.exists()


@given(st.sampled_from(NAMES), plain, plain, st.sampled_from(list(PROTOCOLS)), st.integers(0, 3))
def test_attack_hidden_in_any_data_is_refused(
    name: str, before: Any, after: Any, protocol: int, depth: int
) -> None:
    marker = Path("executed by the restricted unpickler")
    value = attacks(marker)[name]
    for _ in range(depth):
        value = {b"before": before, b"value": [before, value], b"after": after}
    with pytest.raises(DataError):
        unpickle(pickle.dumps([before, value, after], protocol))
    assert not marker.exists()


@given(plain, st.sampled_from(list(PROTOCOLS)))
def test_plain_data_come_as_pickle_reads_them(value: Any, protocol: int) -> None:
    assert unpickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 4), (5,), (0, 7), (), (2, 3, 4)])
def test_integer_arrays_come_as_numpy_reads_them(
    protocol: int, dtype: str, order: Any, shape: tuple[int, ...]
) -> None:
    values = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    array = np.array(values, order=order)
    got = unpickle(pickle.dumps({b"data": array}, protocol))
    assert isinstance(got, dict)
    assert got[b"data"].dtype == array.dtype
    assert np.array_equal(got[b"data"], array)


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_arrays_of_numpy_1_and_2_are_read(core: bytes) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    written = pickle.dumps(array, 2)
    other = b"numpy._core" if b"numpy._core" in written else b"numpy.core"
    renamed = written.replace(b"c" + other + b".multiarray\n", b"c" + core + b".multiarray\n")
    assert core in renamed
    got = unpickle(renamed)
    assert isinstance(got, np.ndarray)
    assert np.array_equal(got, array)


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_raise_only_data_error(data: bytes, header: bool) -> None:
    with contextlib.suppress(DataError):
        unpickle((b"\x80\x02" if header else b"") + data)


@given(
    st.sampled_from(list(PROTOCOLS)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 400),
)
def test_a_pickle_with_changed_bytes_raises_only_data_error(
    protocol: int, changes: list[tuple[int, int]], cut: int
) -> None:
    batch = {b"labels": [1, 2, 3], b"data": np.arange(12, dtype=np.uint8).reshape(3, 4)}
    data = bytearray(pickle.dumps(batch, protocol))
    for position, value in changes:
        data[position % len(data)] = value
    if cut < len(data):
        del data[len(data) - cut :]
    with contextlib.suppress(DataError):
        unpickle(bytes(data))


def test_a_pickle_cannot_change_what_it_builds_with() -> None:
    shape = b"K\x01K\x02K\x03\x87"
    untouched = pickle.dumps(np.arange(3, dtype=np.uint8), 2)
    for target in (b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"c_codecs\nencode\n"):
        for state in (b"}", b"N}\x86", b"}U\x05_callK\x01s", b"N}U\x05_callK\x01s\x86", shape):
            with pytest.raises(DataError):
                unpickle(b"\x80\x02" + target + state + b"b.")
    assert np.array_equal(unpickle(untouched), np.arange(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # Protocol 0.
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"\x80\x02cos\nsystem\nU\x04true\x85\x81.",  # NEWOBJ
        b"\x80\x02}\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL
        b"\x80\x02U\x02idQ.",  # BINPERSID
        b"Pid\n.",  # PERSID
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x05\x97.",  # NEXT_BUFFER
        b"\x80\x04\x8f.",  # EMPTY_SET
    ],
)
def test_instructions_that_no_batch_needs_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="refused"):
        unpickle(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
        b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"x.",
        b"\x80\x02}" + b"N" + b"\x85" * 100_000 + b"Ns.",
    ],
    ids=["memo entry", "long bytes", "long string", "long bytearray", "tuple in tuple"],
)
def test_small_pickles_that_ask_for_much_memory_are_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        unpickle(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"),
        lambda data: data.replace(b"K\x02K\x03\x86", b"NK\x03\x86"),
        lambda data: data.replace(b"K\x02K\x03\x86", b"J\xff\xff\xff\xffJ\xfa\xff\xff\xff\x86"),
        lambda data: data.replace(b"u1", b"u2"),
        lambda data: data.replace(b"u1", b"O8"),
        lambda data: data.replace(b"u1", b"V1"),
    ],
)
def test_an_array_that_contradicts_itself_is_refused(change: Callable[[bytes], bytes]) -> None:
    data = pickle.dumps(np.arange(6, dtype=np.uint8).reshape(2, 3), 2)
    changed = change(data)
    assert changed != data
    with pytest.raises(DataError):
        unpickle(changed)
