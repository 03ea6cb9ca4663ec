"""What the commands' parsers share: errors in one line, numbers, and files of options checked key by key.

A file counts before the options beside it wherever it stands on the command line: commands take
files out first, and put them in front.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser

from dynams.checks import TYPE_WORDS, did_you_mean, of_type, unknown
from dynams.cli.errors import UsageError
from dynams.training.moved_settings import refuse_moved

# What jsonargparse says of a value: what it wants, then what came.
_REFUSALS = (
    r"Expected a typing\.Literal\[(?P<known>.*)\]\. Got value: (?P<value>.*)",
    r"Expected an? (?P<type>\S+)\. Got value: (?P<value>.*)",
    r"Does not validate against any of the Union subtypes Subtypes: [\[(](?P<type>.*?)[\])] Errors:.*"
    r"Given value: (?P<value>.*)",
)
_WORDS = {kind.__name__: words for kind, words in TYPE_WORDS.items()} | {"NoneType": "null"}


class OptionParser(ArgumentParser):
    """Raises `UsageError` where argparse prints its usage and exits."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: D102
        raise UsageError(_readable(message, self)) from ex


def checked_file(name: str, known: Iterable[str]) -> Path | None:
    """Check that a file of options can be read and has only known keys; None if it is empty.

    Args:
        name: the file.
        known: keys as options name them, such as optim.lr.

    Raises:
        UsageError: there is no such file, it is not YAML, or a key is unknown.
        TypeError: it holds no keys.
    """
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--config: no file {name}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"--config: {name}: is not a text file") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--config: {name}: is not YAML: {error}") from error
    if values is None:
        return None
    known = list(known)
    of_type(f"--config: {name}", values, dict)
    for key, value in _keys_of(values).items():
        refuse_moved(key, value)
        if key not in known:
            raise UsageError(f"--config: {name}: {unknown('key', key, known)}")
    return path


def number_in(word: str) -> float:
    """Read a number from the command line: a type of options."""
    try:
        return float(word)
    except ValueError:
        raise ArgumentTypeError(f"got {word!r}, want {TYPE_WORDS[float]}") from None


def _keys_of(values: dict[Any, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, value in values.items():
        inner = value if isinstance(value, dict) else None
        keys |= (
            {str(name): value} if inner is None else {f"{name}.{key}": inner[key] for key in inner}
        )
    return keys


def _readable(message: str, parser: ArgumentParser) -> str:
    """Put the parser's message in one line and in our words."""
    text = " ".join(message.removeprefix("argument ").split())
    text = re.sub(r'Parser key "([^"]+)"( element \d+)?', r"\1", text)
    text = re.sub(r"<class '([^']+)'>", r"\1", text)
    for refusal in _REFUSALS:
        text = re.sub(refusal, _refused, text)
    foreign = re.match(r"unrecognized arguments: ([^\s=]+)[\s=]?(\S*)", text, re.IGNORECASE)
    if foreign is None:
        return text
    try:
        refuse_moved(foreign[1].removeprefix("--"), foreign[2])
    except ValueError as error:
        return str(error)
    kind = "option" if foreign[1].startswith("-") else "argument"
    options = [name for action in parser._actions for name in action.option_strings]
    return unknown(kind, foreign[1], options)


def _refused(found: re.Match[str]) -> str:
    """Say it as `dynams.checks` does."""
    value, groups = found["value"], found.groupdict()
    if "known" in groups:
        known = [word.strip("'") for word in found["known"].split(", ")]
        return f"got {value!r}, want one of {', '.join(known)}{did_you_mean(value, known)}"
    kinds = [_WORDS.get(name, name) for name in found["type"].split(", ")]
    return f"got {value!r}, want {' or '.join(kinds)}"
