"""The log of a run: ``log.jsonl``, one strict JSON object a line, and the same in TensorBoard.

Each line is flushed as it is written, so a killed run loses at most the line it was writing. The
reader ignores such a torn last line and refuses any other damage, naming file and line. Numbers
that are not finite are written as null, which strict JSON requires, and read back as NaN.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from dynams.checks import of_type, one_of
from dynams.report.codec import from_plain, to_plain
from dynams.report.files import replace_file
from dynams.report.records import EpochRecord, RefreshRecord, Run, Summary

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_NAME = "log.jsonl"
TENSORBOARD_DIR = "tensorboard"
FORMAT = 1


class RunLog:
    """Writes a run's records as they come. Use as a context manager.

    Args:
        run_dir: directory of the run; made if it is missing.
        tensorboard: also write TensorBoard events below ``run_dir/tensorboard``. If the
            tensorboard package is missing, one warning says so and the run goes on without.

    Raises:
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
                kept.append(line + b"\n")
            replace_file(path, b"".join(kept))
        log = cls.__new__(cls)
        log._open(run_dir, tensorboard, purge_from=epoch)
        return log

    def _open(self, run_dir: Path, tensorboard: bool, purge_from: int | None) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.run_dir = run_dir
        self._file: IO[bytes] = (run_dir / LOG_NAME).open("ab")
        self._writer = _summary_writer(run_dir, purge_from) if tensorboard else None

    @property
    def path(self) -> Path:
        """The log file."""
        return self.run_dir / LOG_NAME

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write what is run (``config``, nested) and where (``environment``).

        Values that JSON does not know are written as text.
        """
        self._write("start", {"format": FORMAT, "config": config, "environment": environment})
        if self._writer is not None:
            text = json.dumps(to_plain({"config": config, "environment": environment}), indent=2)
            self._writer.add_text("run", "```json\n" + text + "\n```", 0)
            self._writer.flush()

    def epoch(self, record: EpochRecord) -> None:
        """Write one finished epoch."""
        self._write("epoch", dataclasses.asdict(record))
        if self._writer is None:
            return
        scalars: dict[str, float | None] = {
            "loss/full": record.loss,
            "loss/proxy": record.proxy_loss,
            "accuracy/full": record.accuracy,
            "accuracy/proxy": record.proxy_accuracy,
            "schedule/learning_rate": record.lr,
            "schedule/budget": record.budget,
            "schedule/samples": record.samples,
        }
        for purpose, seconds in record.seconds.items():
            scalars["seconds/" + purpose.replace(" ", "_")] = seconds
        self._scalars(self._writer, scalars, record.epoch)

    def refresh(self, record: RefreshRecord) -> None:
        """Write one refresh."""
        self._write("refresh", dataclasses.asdict(record))
        if self._writer is None:
            return
        scalars = {
            "selection/threshold": record.threshold,
            "selection/overlap": record.overlap,
            "selection/selected": record.selected,
        }
        self._histogram(self._writer, record)
        self._scalars(self._writer, scalars, record.epoch)

    def end(self, summary: Summary) -> None:
        """Write the end of the run."""
        self._write("end", dataclasses.asdict(summary))
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the files. Safe to call twice."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

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
        line = json.dumps({"record": kind, **to_plain(fields)}, allow_nan=False)
        self._file.write(line.encode("ascii") + b"\n")
        self._file.flush()

    @staticmethod
    def _scalars(writer: SummaryWriter, values: Mapping[str, float | None], step: int) -> None:
        for tag, value in values.items():
            if value is not None and math.isfinite(value):
                writer.add_scalar(tag, value, step)
        writer.flush()

    @staticmethod
    def _histogram(writer: SummaryWriter, record: RefreshRecord) -> None:
        edges, counts = record.histogram_edges, record.histogram_counts
        if not counts or len(edges) != len(counts) + 1:
            return
        middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
        pairs = list(zip(middles, counts, strict=True))
        writer.add_histogram_raw(
            "margin",
            min=edges[0],
            max=edges[-1],
            num=sum(counts),
            sum=sum(middle * count for middle, count in pairs),
            sum_squares=sum(middle * middle * count for middle, count in pairs),
            bucket_limits=edges[1:],
            bucket_counts=counts,
            global_step=record.epoch,
        )


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


def _summary_writer(run_dir: Path, purge_from: int | None) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warnings.warn(
            "TensorBoard events are not written: the tensorboard package is not installed "
            "(pip install dynams-kernels[train])",
            stacklevel=4,
        )
        return None
    try:
        str(run_dir).encode()
    except UnicodeEncodeError:
        warnings.warn(
            "TensorBoard events are not written: its writer takes no directory whose name is not UTF-8",
            stacklevel=4,
        )
        return None
    writer: SummaryWriter = SummaryWriter(str(run_dir / TENSORBOARD_DIR), purge_step=purge_from)
    return writer
