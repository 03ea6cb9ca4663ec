"""What can go wrong in training that is not a bug: each is told in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynams.report import Summary


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what is kept."""


class NonFiniteLossError(TrainingError):
    """The loss became infinite or not a number; the checkpoint of before is kept."""


class ReportError(TrainingError):
    """The run ended well, but for its report, which could not be written.

    Attributes:
        summary: how the run ended.
    """

    def __init__(self, message: str, summary: Summary) -> None:
        super().__init__(message)
        self.summary = summary


class LostProcessError(TrainingError):
    """Another process of the run was lost; the message names it, and the command that resumes.

    Attributes:
        speaks: whether this is the first of those that are left: one line is enough.
    """

    def __init__(self, message: str, *, speaks: bool = True) -> None:
        super().__init__(message)
        self.speaks = speaks


class ResumeError(ValueError):
    """A run cannot be resumed as asked: no checkpoint, a damaged one, or a changed setting."""
