"""What the commands' parsers share: options made of declared settings, files of them, errors in one line.

A file counts before the options beside it wherever it stands on the command line. A value means the same in
a file and on the command line, but for text, which is taken as it is.
"""

from __future__ import annotations

import argparse
import json
import os
from argparse import ArgumentTypeError
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynams.checks import TYPE_WORDS
from dynams.cli.errors import PlainParser, UsageError
from dynams.paths import told_path
from dynams.suggestions import unknown
from dynams.training.moved_settings import refuse_moved
from dynams.training.options import Options, read_options, text_names
from dynams.training.settings import Declared, read
from dynams.yaml_file import YamlError, parse_yaml, read_yaml

_PREFIX = "setting "  # of a setting among the parser's values


class OptionParser(PlainParser):
    """A parser of a command's own options and of settings.

    Args:
        about: as `argparse.ArgumentParser` takes them.
    """

    def __init__(self, **about: Any) -> None:
        self.names: list[str] = []
        self.settings: dict[str, Declared] = {}
        super().__init__(allow_abbrev=False, **about)

    def add_argument(self, *names: str, **about: Any) -> argparse.Action:
        """Add an option of the command's own."""
        self.names += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **about)

    def add_settings(
        self, title: str, settings: Iterable[Declared], *, in_help: bool = True
    ) -> None:
        """Add an option for each of some settings.

        Args:
            title: of the settings, in the help.
            settings: as they were declared.
            in_help: whether the help shows them.
        """
        group = self.add_argument_group(title)
        for each in settings:
            self.settings[each.name] = each
            self.names.append(f"--{each.name}")
            choices = each.choices if each.choices and len(each.choices) < 10 else None
            group.add_argument(
                f"--{each.name}",
                metavar=f"{{{','.join(choices)}}}" if choices else each.key.upper(),
                dest=f"{_PREFIX}{each.name}",
                default=argparse.SUPPRESS,
                help=_help(each) if in_help else argparse.SUPPRESS,
            )

    def read(self, argv: Sequence[str]) -> tuple[argparse.Namespace, Options]:
        """Read the arguments: the command's own options, and the settings that were given.

        Raises:
            UsageError, TypeError, ValueError: an argument is unknown or refused.
            SystemExit: help was asked for and is printed.
        """
        own, foreign = self.parse_known_args(argv)
        if foreign:
            self._refuse(*foreign)
        words = {
            name.removeprefix(_PREFIX): word
            for name, word in list(vars(own).items())
            if name.startswith(_PREFIX)
        }
        for name in words:
            delattr(own, f"{_PREFIX}{name}")
        return own, {name: _of_word(self.settings[name], word) for name, word in words.items()}

    def _refuse(self, word: str, *after: str) -> NoReturn:
        name, _, value = word.partition("=")
        refuse_moved(name.removeprefix("--"), value or "".join(after[:1]))
        inner = [each for each in self.names if each.startswith(f"{name}.")]
        if inner:
            raise UsageError(f"{name}: got no setting, want one of it, such as {inner[0]}")
        kind = "option" if word.startswith("-") else "argument"
        raise UsageError(unknown(kind, name, self.names))


def settings_file(path: Path, where: str, known: Mapping[str, Declared]) -> Options:
    """Read a YAML file of settings.

    Args:
        path: the file.
        where: what the message of an error begins with.
        known: the settings that it may hold.

    Raises:
        TypeError, ValueError: it cannot be read, or a key or value is refused.
    """
    return read_options(read_yaml(path, where, text_names(known)), where, known=known)


def config_files(paths: Iterable[Path], known: Mapping[str, Declared]) -> Options:
    """Read the files of `--config`; a later one counts before an earlier one.

    Raises:
        UsageError, TypeError, ValueError: one of them cannot be read, or a key or value is refused.
    """
    values: Options = {}
    for path in paths:
        if not os.path.lexists(path):
            raise UsageError(f"--config: no file {path}")
        values |= settings_file(path, f"--config: {path}", known)
    return values


def number_in(word: str) -> float:
    """Read a number from the command line: a type of options."""
    try:
        return float(word)
    except ValueError:
        raise ArgumentTypeError(f"got {word!r}, want {TYPE_WORDS[float]}") from None


def whole_in(word: str) -> int:
    """Read a whole number from the command line: a type of options."""
    try:
        return int(word)
    except ValueError:
        raise ArgumentTypeError(f"got {word!r}, want {TYPE_WORDS[int]}") from None


def path_in(word: str) -> Path:
    """Read a path from the command line: a type of options."""
    if not word:
        raise ArgumentTypeError("got '', want a path")
    return told_path(word)


def value_in(word: str) -> Any:
    """What a word of the command line means, as in YAML; what is no YAML is text."""
    try:
        return parse_yaml(word, "")
    except YamlError:
        return word


def nested_options(argv: Sequence[str], name: str) -> tuple[Options, list[str]]:
    """Take options such as --selection.options.STRATEGY.OPTION VALUE out of arguments.

    Args:
        argv: the arguments.
        name: of the setting that holds such options, such as selection.options.

    Returns:
        What was given of each strategy, and the other arguments.

    Raises:
        UsageError: a value is missing.
    """
    given: Options = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        told, beside, text = word.partition("=")
        if not told.startswith(f"--{name}."):
            rest.append(word)
            continue
        text = text if beside else next(words, "--")
        if not beside and text.startswith("--"):
            raise UsageError(f"{word}: expected one argument")
        strategy, dot, option = told.removeprefix(f"--{name}.").partition(".")
        value = {option: value_in(text)} if dot else value_in(text)
        given = joined(given, {strategy: value})
    return given, rest


def joined(given: Mapping[str, Any], more: Mapping[str, Any]) -> Options:
    """Put options on top of others, one by one where both are of one strategy."""
    together = dict(given)
    for strategy, own in more.items():
        before = given.get(strategy)
        both = isinstance(before, Mapping) and isinstance(own, Mapping)
        together[strategy] = {**before, **own} if both else own  # type: ignore[dict-item]
    return together


def _of_word(each: Declared, word: str) -> Any:
    """Return a word of the command line as the setting has it."""
    if each.kind is str:
        return None if each.optional and word == "null" else read(each, word, each.name)
    return read(each, value_in(word), each.name)


def _help(each: Declared) -> str:
    kind = each.kind.__name__ + (" or null" if each.optional else "")
    plain = each.default is None or isinstance(each.default, bool)
    default = str(json.dumps(each.default) if plain else each.default)
    return f"{each.text}. (type: {kind}, default: {default})".replace("%", "%%")
