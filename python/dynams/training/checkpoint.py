"""Checkpoints that a crash cannot damage, and that tell when something else did.

`last.pt` is the newest state of a run and `best.pt`, a file of its own, the state with the best test
accuracy so far. Both are written aside, flushed to the disk, then renamed. They hold tensors and plain
values only and are read with ``weights_only=True``: loading one runs no code.

A file is what `torch.save` writes, which ends where its zip ends, and behind it a seal of 32 bytes: a
name, the length and the CRC-32 of all bytes before. A CRC takes a tenth of the time of writing; it finds
damage, not forgery. Format 2 had no seal: torch's own checks are all that such a file has.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from dynams.files import remove_leftovers, replacing, storing
from dynams.training.errors import ResumeError
from dynams.training.rundir import BEST, CHECKPOINTS, LAST, checkpoint_path, resume_command

FORMAT = 4
UNSEALED = 2
_READ_TOO = (3, UNSEALED)  # as one process wrote them, or all that several knew in common

_SEAL = struct.Struct("<16sQII")  # name, length, CRC-32 of what lies before, CRC-32 of the seal
_NAME = b"\ndynams: sealed\n"
_READ = 1 << 20


@dataclass
class Checkpoint:
    """All that a run needs to go on exactly where it was.

    Attributes:
        config: the run's configuration, nested plain values.
        data: fingerprint of the data, see `dynams.training.batches.fingerprint`.
        epoch: the epoch that runs now or next, from 0.
        step: steps of that epoch already taken; 0 means that it has not begun.
        global_step: optimiser steps taken in the whole run.
        samples: training samples used in the whole run, over all processes.
        model: state of the network.
        optimizer: state of the optimiser.
        sampler: state of the selection.
        sums: sums of this epoch's losses, see `dynams.training.step.Sums`.
        cost: state of the `Clock`.
        total_seconds: wall-clock seconds so far.
        accuracy: last test accuracy at full width, None before the first.
        proxy_accuracy: last test accuracy at the proxy's width.
        best_accuracy: best test accuracy so far at full width.
        lookahead: slow weights, see `dynams.training.lookahead.Lookahead`; empty where there are none.
        visits: what training steps left behind of the samples, see `dynams.selection.Visits`;
            empty where nothing needs it.
        given: scores that were read or computed before the first epoch, by name.
        batch_strategy: state of a strategy that chooses inside the steps; empty if it has none.
        processes: of several, what each has for itself between two steps, by rank; empty for one. With as
            many again each takes its own, so that it goes on bit for bit; with another number all take
            what the other attributes have of all together.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    epoch: int
    step: int
    global_step: int
    samples: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    sampler: dict[str, Any]
    sums: dict[str, Any]
    cost: dict[str, Any]
    total_seconds: float
    accuracy: float | None = None
    proxy_accuracy: float | None = None
    best_accuracy: float | None = None
    lookahead: dict[str, Any] = field(default_factory=dict)
    visits: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    batch_strategy: dict[str, Any] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)
    format: int = field(default=FORMAT)


def save_checkpoint(run_dir: str | Path, checkpoint: Checkpoint, *, best: bool = False) -> Path:
    """Write the checkpoint as the run's last one, and as its best one too if ``best``.

    The file appears whole or not at all; until then the one of before stays.

    Returns:
        The path of the last checkpoint.

    Raises:
        StorageError: it cannot be written.
    """
    path = checkpoint_path(run_dir)
    with storing(path.parent):
        path.parent.mkdir(exist_ok=True)
    values = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    with replacing(path) as file:
        sealed = _Sealed(file)
        torch.save(values, cast("IO[bytes]", sealed))  # all that it calls is there
        sealed.close()
    if best:
        # No link: what damages one file would damage the other, and nothing would be left to go on from.
        with replacing(path.with_name(BEST)) as file, path.open("rb") as last:
            shutil.copyfileobj(last, file, _READ)
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint on the CPU, running no code from it.

    Raises:
        ResumeError: the file is missing, damaged, or of another format. If the run has another
            checkpoint that is whole, the message gives the command that goes on from it.
    """
    path = Path(path)
    try:
        return _load(path)
    except ResumeError as error:
        raise ResumeError(f"{error}{_instead_of(path)}") from error


def remove_unfinished(run_dir: str | Path) -> None:
    """Remove the checkpoints that killed processes left half written; live ones keep what is theirs."""
    folder = Path(run_dir) / CHECKPOINTS
    remove_leftovers(folder)
    for name in (LAST, BEST):  # until format 3 in folders, which have no lock
        for left in folder.glob(f".{name}.*/"):
            shutil.rmtree(left, ignore_errors=True)


def _load(path: Path) -> Checkpoint:
    if not path.is_file():
        raise ResumeError(f"no checkpoint at {path}")
    try:
        with path.open("rb") as file:
            sealed = _is_sealed(path, file)
    except OSError as error:
        raise ResumeError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damage may look like anything
        raise ResumeError(f"damaged: {path}: it is no checkpoint of dynams, or no more") from error
    if not isinstance(values, dict) or "format" not in values:
        raise ResumeError(f"{path}: not a checkpoint of dynams")
    if values["format"] not in (FORMAT, *_READ_TOO):
        raise ResumeError(f"{path}: got checkpoint format {values['format']!r}, want {FORMAT}")
    if values["format"] != UNSEALED and not sealed:
        raise ResumeError(f"damaged: {path}: its checksum is missing, as when it was cut short")
    if values["format"] in _READ_TOO:
        values.setdefault("processes", [])
    values.setdefault("lookahead", {})  # there was none once
    names = {item.name for item in fields(Checkpoint)}
    if set(values) != names:
        differing = ", ".join(sorted(map(str, set(values) ^ names)))
        raise ResumeError(f"{path}: not a whole checkpoint of dynams; differing: {differing}")
    return Checkpoint(**values)


def _instead_of(path: Path) -> str:
    for name in (LAST, BEST):
        other = path.with_name(name)
        if name == path.name or path.parent.name != CHECKPOINTS:
            continue
        try:
            epoch = _load(other).epoch
        except ResumeError:
            continue
        return f"; {name} is whole, from epoch {epoch + 1} on: {resume_command(other)}"
    return ""


class _Sealed:
    """The file that `torch.save` writes to, and the seal behind it.

    torch tells of no error of the system, so that is kept until `close`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._length = 0
        self._crc = 0
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        size = memoryview(data).nbytes
        if self._error is None:
            self._length += size
            self._crc = zlib.crc32(data, self._crc)
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Leave it to who closes the file."""

    def close(self) -> None:
        """Write the seal.

        Raises:
            OSError: something could not be written.
        """
        self.write(_seal(self._length, self._crc))
        if self._error is not None:
            raise self._error


def _seal(length: int, crc: int) -> bytes:
    bare = _SEAL.pack(_NAME, length, crc, 0)
    return _SEAL.pack(_NAME, length, crc, zlib.crc32(bare))


def _is_sealed(path: Path, file: BinaryIO) -> bool:
    """Check the seal of an open file. False: it has none.

    Raises:
        ResumeError: it does not fit what lies before it.
    """
    size = os.fstat(file.fileno()).st_size
    if size < _SEAL.size:
        raise ResumeError(f"damaged: {path}: it was cut short, to {size} bytes")
    file.seek(-_SEAL.size, os.SEEK_END)
    seal = file.read()
    if not seal.startswith(_NAME):
        return False
    file.seek(0)
    crc, left = 0, size - _SEAL.size
    while left and (data := file.read(min(left, _READ))):
        crc, left = zlib.crc32(data, crc), left - len(data)
    if seal != _seal(size - _SEAL.size, crc):
        raise ResumeError(f"damaged: {path}: its checksum is not that of its content")
    return True
