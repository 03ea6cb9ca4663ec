"""The log of a run: ``log.jsonl``, one strict JSON object a line, and the same in TensorBoard.

Each line is written at once and whole, so a killed run loses at most the line it was writing. The
reader ignores such a torn last line and refuses any other damage, naming file and line. Numbers
that are not finite are written as null, which strict JSON requires, and read back as NaN.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from dynams.checks import of_type, one_of
from dynams.files import StorageError, replace_file, storing
from dynams.report.codec import from_plain, to_plain
from dynams.report.events import Events
from dynams.report.records import EpochRecord, RefreshRecord, Run, Summary

LOG_NAME = "log.jsonl"
FORMAT = 1


class RunLog:
    """Writes a run's records as they come. Use as a context manager.

    Args:
        run_dir: directory of the run; made if it is missing.
        tensorboard: also write TensorBoard events below ``run_dir/tensorboard``. If the
            tensorboard package is missing, one warning says so and the run goes on without.

    Attributes:
        started: the log says what is run, see `start`.

    Raises:
        StorageError: something cannot be written; here and in every method that writes. Of a line that
            could not be written nothing is left.
        FileExistsError: ``run_dir`` already holds the log of a run. Nothing is overwritten:
            continue that run with `RunLog.resume`, or choose another directory.
    """

    def __init__(self, run_dir: str | Path, tensorboard: bool = True) -> None:
        path = Path(run_dir) / LOG_NAME
        if path.exists() and path.stat().st_size > 0:
            raise FileExistsError(
                f"run_dir: {path} already holds the log of a run; "
                "resume that run or choose another directory"
            )
        self.started = False
        self._open(Path(run_dir), tensorboard, purge_from=None)

    @classmethod
    def resume(
        cls,
        run_dir: str | Path,
        epoch: int,
        *,
        keep_refresh: bool = False,
        tensorboard: bool = True,
    ) -> RunLog:
        """Continue a run's log at ``epoch``: what it says of that and of later epochs is dropped.

        The file is rewritten atomically. A missing log is begun afresh.

        Args:
            run_dir: directory of the run.
            epoch: the epoch that runs next, from 0.
            keep_refresh: keep the refresh that began ``epoch``: for a run that resumes in the
                middle of an epoch, after its refresh.
            tensorboard: as in `RunLog`.

        Raises:
            ValueError: the log is damaged elsewhere than in its last line.
        """
        run_dir = Path(run_dir)
        path = run_dir / LOG_NAME
        started = False
        if path.exists():
            kept = []
            for number, line in _lines(path):
                data = _parse(path, number, line)
                kind, at = data.get("record"), data.get("epoch")
                first_dropped = epoch + 1 if keep_refresh and kind == "refresh" else epoch
                if kind == "end" or (
                    kind in ("epoch", "refresh") and isinstance(at, int) and at >= first_dropped
                ):
                    continue
                started = started or kind == "start"
                kept.append(line + b"\n")
            replace_file(path, b"".join(kept))
        log = cls.__new__(cls)
        log.started = started
        log._open(run_dir, tensorboard, purge_from=epoch)
        return log

    def _open(self, run_dir: Path, tensorboard: bool, purge_from: int | None) -> None:
        self.run_dir = run_dir
        with storing(self.path):
            run_dir.mkdir(parents=True, exist_ok=True)
            # Unbuffered: of a line that cannot be written nothing is left to be written when it is closed.
            self._file = self.path.open("ab", buffering=0)
        self._events = Events(run_dir, purge_from) if tensorboard else None

    @property
    def path(self) -> Path:
        """The log file."""
        return self.run_dir / LOG_NAME

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write what is run (``config``, nested) and where (``environment``).

        Values that JSON does not know are written as text.
        """
        self._write("start", {"format": FORMAT, "config": config, "environment": environment})
        self.started = True
        if self._events is not None:
            self._events.start(config, environment)

    def epoch(self, record: EpochRecord) -> None:
        """Write one finished epoch."""
        self._write("epoch", dataclasses.asdict(record))
        if self._events is not None:
            self._events.epoch(record)

    def refresh(self, record: RefreshRecord) -> None:
        """Write one refresh."""
        self._write("refresh", dataclasses.asdict(record))
        if self._events is not None:
            self._events.refresh(record)

    def end(self, summary: Summary) -> None:
        """Write the end of the run."""
        self._write("end", dataclasses.asdict(summary))

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        text = json.dumps({"record": kind, **to_plain(fields)}, allow_nan=False)
        line = text.encode("ascii") + b"\n"
        whole = self._file.seek(0, os.SEEK_END)
        try:
            with storing(self.path):
                # What fits is written before the system says that the rest does not.
                while line:
                    line = line[self._file.write(line) :]
        except StorageError:
            with suppress(OSError):
                self._file.truncate(whole)
            raise


def read_run(run_dir: str | Path) -> Run:
    """Read a run's log.

    A last line that a kill tore is ignored. Of several records of one epoch the latest counts.

    Args:
        run_dir: directory of the run, holding ``log.jsonl``.

    Raises:
        FileNotFoundError: there is no log.
        ValueError: a line is damaged or is not a record of this format; names file and line.
    """
    path = Path(run_dir) / LOG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"run_dir: no {LOG_NAME} in {Path(run_dir)}")
    config: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    epochs: dict[int, EpochRecord] = {}
    refreshes: dict[int, RefreshRecord] = {}
    summary: Summary | None = None
    for number, line in _lines(path):
        data = _parse(path, number, line)
        try:
            kind = data.pop("record", None)
            if kind == "start":
                _check_format(data)
                config = _object("config", data.get("config"))
                environment = _object("environment", data.get("environment"))
            elif kind == "epoch":
                epoch = from_plain(EpochRecord, data)
                epochs[epoch.epoch] = epoch
            elif kind == "refresh":
                refresh = from_plain(RefreshRecord, data)
                refreshes[refresh.epoch] = refresh
            elif kind == "end":
                summary = from_plain(Summary, data)
            else:
                one_of("record", kind, ("start", "epoch", "refresh", "end"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return Run(
        config=config,
        environment=environment,
        epochs=[epochs[key] for key in sorted(epochs)],
        refreshes=[refreshes[key] for key in sorted(refreshes)],
        summary=summary,
    )


def _lines(path: Path) -> list[tuple[int, bytes]]:
    """The lines of the log with their numbers, without an unterminated tail that is no JSON."""
    *whole, tail = path.read_bytes().split(b"\n")
    lines = list(enumerate(whole, start=1))
    if tail:
        try:
            json.loads(tail)
        except ValueError:
            pass
        else:
            lines.append((len(whole) + 1, tail))
    return lines


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: not a line of JSON ({error})") from error
    if not isinstance(data, dict):
        came = type(data).__name__
        raise ValueError(f"{path}, line {number}: got {came}, want a JSON object")
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not strict JSON")


def _check_format(data: Mapping[str, Any]) -> None:
    if data.get("format") != FORMAT:
        raise ValueError(
            f"format: got {data.get('format')!r}, want {FORMAT}; written by another version"
        )


def _object(name: str, value: Any) -> dict[str, Any]:
    of_type(name, value, dict)
    return dict(value)
