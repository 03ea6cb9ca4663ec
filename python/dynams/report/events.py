"""A run's records as TensorBoard events: the same as in the log, for a reader's own tools.

TensorBoard's writer has a thread, where an error of the disk ends as a traceback on the terminal.
Here events are written at once, a few an epoch; one that cannot be ends the events, not the run, for
the log says all that they say.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynams.files import StorageError
from dynams.packages import not_installed
from dynams.report.codec import to_plain
from dynams.report.records import EpochRecord, RefreshRecord

if TYPE_CHECKING:
    from tensorboard.summary.writer.record_writer import RecordWriter

TENSORBOARD_DIR = "tensorboard"


class Events:
    """Writes events below ``run_dir/tensorboard``.

    Without the tensorboard package, or where nothing can be written, one warning says so and nothing
    more is done.

    Args:
        run_dir: directory of the run.
        purge_from: the epoch from which on a reader is to forget what earlier files say; None: none.
    """

    def __init__(self, run_dir: Path, purge_from: int | None = None) -> None:
        self._folder = run_dir / TENSORBOARD_DIR
        self._writer: RecordWriter | None = None
        try:
            from tensorboard.compat.proto.event_pb2 import SessionLog
            from torch.utils.tensorboard import summary

            self._summary: Any = summary  # untyped
            self._writer = _new_file(self._folder)
            self._write(file_version="brain.Event:2")
            if purge_from is not None:
                self._write(purge_from, session_log=SessionLog(status=SessionLog.START))
        except ImportError:
            warnings.warn(
                f"TensorBoard events are not written: {not_installed('tensorboard')}", stacklevel=4
            )
        except Exception as error:  # packages that do not fit each other fail in many ways
            self._end(error)

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write what is run and where."""
        if self._writer is not None:
            text = json.dumps(to_plain({"config": config, "environment": environment}), indent=2)
            self._write(0, summary=self._summary.text("run", "```json\n" + text + "\n```"))

    def epoch(self, record: EpochRecord) -> None:
        """Write one finished epoch."""
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
        self._scalars(scalars, record.epoch)

    def refresh(self, record: RefreshRecord) -> None:
        """Write one refresh."""
        self._histogram(record)
        scalars = {
            "selection/threshold": record.threshold,
            "selection/overlap": record.overlap,
            "selection/selected": record.selected,
        }
        self._scalars(scalars, record.epoch)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _scalars(self, values: Mapping[str, float | None], step: int) -> None:
        for tag, value in values.items():
            if self._writer is not None and value is not None and math.isfinite(value):
                self._write(step, summary=self._summary.scalar(tag, value))

    def _histogram(self, record: RefreshRecord) -> None:
        edges, counts = record.histogram_edges, record.histogram_counts
        if self._writer is None or not counts or len(edges) != len(counts) + 1:
            return
        middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
        pairs = list(zip(middles, counts, strict=True))
        found = self._summary.histogram_raw(
            "margin",
            min=edges[0],
            max=edges[-1],
            num=sum(counts),
            sum=sum(middle * count for middle, count in pairs),
            sum_squares=sum(middle * middle * count for middle, count in pairs),
            bucket_limits=edges[1:],
            bucket_counts=counts,
        )
        self._write(record.epoch, summary=found)

    def _write(self, step: int = 0, **what: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        assert self._writer is not None
        try:
            event = Event(wall_time=time.time(), step=step, **what)
            self._writer.write(event.SerializeToString())
        except OSError as error:
            self._end(error)

    def _end(self, error: Exception) -> None:
        self.close()
        told = StorageError(self._folder, error) if isinstance(error, OSError) else error
        warnings.warn(
            f"TensorBoard events are written no more, the log is: {told}, or --run.tensorboard false",
            stacklevel=6,
        )


def _new_file(folder: Path) -> RecordWriter:
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(exist_ok=True)
    # TensorBoard reads a folder's files by name: those that are written later come later.
    stem = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    for number in itertools.count():
        try:
            file = (folder / f"{stem}.{number}").open("xb", buffering=0)
        except FileExistsError:
            continue
        return RecordWriter(file)
    raise AssertionError
