"""What the commands' parsers share: errors in one line, and files of options checked key by key.

A file counts before the options beside it wherever it stands on the command line: commands take
files out first, and put them in front.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser

from dynams.cli.errors import UsageError
from dynams.cli.suggest import suggestion

_UNION = (
    r"Does not validate against any of the Union subtypes Subtypes: [\[(](.*?)[\])] Errors:.*"
    r"Given value: (.*)"
)


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
    """
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"--config: no file {name}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"--config: {name} is not a text file") from error
    except yaml.YAMLError as error:
        raise UsageError(f"--config: {name} is not YAML: {error}") from error
    if values is None:
        return None
    known = list(known)
    what = "sections with keys" if any("." in key for key in known) else "keys"
    if not isinstance(values, dict):
        raise UsageError(f"--config: wanted {what} in {name}, got {type(values).__name__}")
    for key in _flat(values):
        if key not in known:
            raise UsageError(f"--config: unknown key {key} in {name}{suggestion(key, known)}")
    return path


def _flat(values: dict[Any, Any]) -> list[str]:
    keys: list[str] = []
    for name, value in values.items():
        keys += [f"{name}.{key}" for key in value] if isinstance(value, dict) else [str(name)]
    return keys


def _or(types: str) -> str:
    return types.replace("NoneType", "null").replace(", ", " or ")


def _readable(message: str, parser: ArgumentParser) -> str:
    """Put the parser's message in one line, with what an unknown option may have meant."""
    text = " ".join(message.split())
    text = re.sub(r'Parser key "([^"]+)"', r"\1", text)
    text = re.sub(r"<class '([^']+)'>", r"\1", text)
    text = re.sub(
        r"Expected a typing\.Literal\[(.*)\]\. Got value:", r"wanted one of \1, got", text
    )
    text = re.sub(r"Expected an? (\S+)\. Got value:", r"wanted \1, got", text)
    text = re.sub(_UNION, lambda found: f"wanted {_or(found[1])}, got {found[2]}", text)
    options = [name for action in parser._actions for name in action.option_strings]
    for word in text.split():
        option = word.partition("=")[0]
        if option.startswith("--") and option not in options:
            return text + suggestion(option, options)
    return text
