"""What can go wrong in training that is not a bug: each is told in one line."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what is kept."""


class NonFiniteLossError(TrainingError):
    """The loss became infinite or not a number; the checkpoint of before is kept."""


class ResumeError(ValueError):
    """A run cannot be resumed as asked: no checkpoint, a damaged one, or a changed setting."""
