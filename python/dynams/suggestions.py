"""What an unknown word may stand for: the same in another spelling, place or program, or nearly the same."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Words of other programs, and what they are called here, or the last part of it: letters only.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "arch": ("modelname",),
    "bs": ("batchsize",),
    "checkpoint": ("resume",),
    "datadir": ("datapath",),
    "dataset": ("dataname",),
    "device": ("accelerator",),
    "gpu": ("cuda", "accelerator"),
    "gpus": ("devices",),
    "learningrate": ("lr",),
    "numepochs": ("epochs",),
    "numworkers": ("workers",),
    "output": ("out", "dir"),
    "outputdir": ("out", "dir"),
    "wd": ("weightdecay",),
}
_NEAR = 0.66
_MOST = 3  # more than these say nothing


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Make the end of a message about an unknown word, such as " (did you mean train?)"; it may be empty."""
    if not isinstance(word, str):
        return ""  # a number that is no other number is not mistyped
    near = _meant(word, list(dict.fromkeys(map(str, known))))
    return f" (did you mean {' or '.join(near)}?)" if 0 < len(near) <= _MOST else ""


def unknown(kind: str, word: object, known: Iterable[object]) -> str:
    """Tell of an unknown word where those that are known are too many to list."""
    return f"unknown {kind} {word}{did_you_mean(word, known)}"


def _meant(word: str, known: list[str]) -> list[str]:
    whole, last = _letters(word), _last(word)
    for asked, part in ((whole, _letters), (last, _last)):
        elsewhere = _ELSEWHERE.get(asked, ())
        for names in ((asked,), elsewhere):
            near = [name for name in known if {part(name), _last(name), _letters(name)} & {*names}]
            if near:
                return near
    return [
        name
        for part in (
            {_letters(name): name for name in known},
            {_last(name): name for name in known},
        )
        for asked in dict.fromkeys((whole, last))
        for name in map(part.__getitem__, difflib.get_close_matches(asked, part, 1, _NEAR))
    ][:1]


def _letters(name: str) -> str:
    """A name such as --optim.batch_size in letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _last(name: str) -> str:
    """Its last part, without the section."""
    return _letters(name.rpartition(".")[2])
