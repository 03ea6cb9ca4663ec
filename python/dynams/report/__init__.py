"""Records of a run, its log, its progress display, its closing table and its page.

rich, matplotlib and tensorboard are imported only where they are used, so reading a log needs none.
"""

from __future__ import annotations

from dynams.files import StorageError
from dynams.report.console import make_console, summary_table
from dynams.report.html import render_report, write_report
from dynams.report.progress import TrainingProgress
from dynams.report.records import EpochRecord, RefreshRecord, Run, SamplePictures, Summary
from dynams.report.runlog import RunLog, read_run

__all__ = [
    "EpochRecord",
    "RefreshRecord",
    "Run",
    "RunLog",
    "SamplePictures",
    "StorageError",
    "Summary",
    "TrainingProgress",
    "make_console",
    "read_run",
    "render_report",
    "summary_table",
    "write_report",
]
