"""YAML as people write settings: a key counts once, 1e-3 is a number, and 2024 is a text where one is wanted.

PyYAML keeps the last of two equal keys without a word and reads numbers, dates and words such as `no`
by the rules of 2005. Here every key is a text, a key that is given twice is refused with both lines,
and what is wrong with a file is one line that begins with the file. Merge keys (`<<`) and aliases count.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

_TAG = "tag:yaml.org,2002:"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class YamlError(ValueError):
    """A file of settings cannot be read; the message begins with the file and says where."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Knows fewer kinds of plain words than YAML 1.1: no dates, no octal or sexagesimal numbers."""


_Loader.yaml_implicit_resolvers = {}
for _kind, _words, _first in (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):  # fmt: skip
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"^(?:{_words})$"), list(_first))


def read_yaml(path: str | Path, where: str, texts: Collection[str] = ()) -> Any:
    """Read the one document of a YAML file.

    Args:
        path: the file; anything that can be read, but a directory.
        where: what the message of an error begins with.
        texts: settings that hold text, by dotted name, wherever they stand: their plain words stay as
            they are written. `null` is still none.

    Returns:
        What it holds: None where that is nothing. Keys are texts.

    Raises:
        YamlError: it cannot be read, is no YAML, or gives a key twice.
    """
    if os.path.isdir(path):
        raise YamlError(f"{where}: is a directory, want a YAML file")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise YamlError(f"{where}: cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise YamlError(f"{where}: is not a text file in UTF-8: see line {line}") from error
    return parse_yaml(text, where, texts)


def parse_yaml(text: str, where: str, texts: Collection[str] = ()) -> Any:
    """Read the one document of a YAML text; see `read_yaml`."""
    try:
        documents = list(yaml.compose_all(text, _Loader))
        if len(documents) > 1:
            raise YamlError(
                f"{where}: holds {len(documents)} documents (see `---` before line "
                f"{documents[1].start_mark.line + 1}), want one"
            )
        return _Maker(where, texts).value(documents[0], "") if documents else None
    except yaml.YAMLError as error:
        raise YamlError(f"{where}: is not YAML: {_told(error)}") from error
    except RecursionError as error:
        raise YamlError(f"{where}: is nested too deeply") from error


class _Maker:
    """Makes plain values of the nodes of one document."""

    def __init__(self, where: str, texts: Collection[str]) -> None:
        self.where = where
        self.texts = texts
        self.lines: dict[str, int] = {}
        self.made: dict[Node, Any] = {}  # an alias is what it stands for, made once
        self.open: set[Node] = set()

    def value(self, node: Node, name: str) -> Any:
        if isinstance(node, ScalarNode):
            return self.scalar(node, name)
        if node in self.open:
            raise self.error(node, "holds itself")
        if node not in self.made:
            self.open.add(node)
            self.made[node] = self.collection(node, name)
            self.open.remove(node)
        return self.made[node]

    def scalar(self, node: ScalarNode, name: str) -> Any:
        word, kind = str(node.value), str(node.tag).removeprefix(_TAG)
        if kind == "null":
            return None
        text = any(name == each or name.endswith(f".{each}") for each in self.texts)
        if kind in ("str", "merge") or (text and node.style is None and kind in _READ):
            return word
        try:
            return _READ[kind](word)
        except (KeyError, ValueError):
            raise self.error(node, f"got !!{kind} {word!r}, want plain YAML") from None

    def collection(self, node: Node, name: str) -> Any:
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            raise self.error(node, f"got {node.tag}, want plain YAML")
        if isinstance(node, SequenceNode):
            return [self.value(item, f"{name}[{number}]") for number, item in enumerate(node.value)]
        assert isinstance(node, MappingNode)
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, ScalarNode):
                raise self.error(key, "got a list or keys as a key, want a word")
            inner = f"{name}.{key.value}" if name else str(key.value)
            self.once(inner, key.start_mark.line + 1)
            if key.tag == f"{_TAG}merge":
                merged = self.merge(item, inner)
            else:
                own[str(key.value)] = self.value(item, inner)
        return {**merged, **own}

    def merge(self, node: Node, name: str) -> dict[str, Any]:
        """What stands under `<<`: keys, or a list of them, of which an earlier one counts."""
        sources = self.value(node, name)
        sources = sources if isinstance(sources, list) else [sources]
        merged: dict[str, Any] = {}
        for source in reversed(sources):
            if not isinstance(source, dict):
                raise self.error(node, f"{name}: got {source!r}, want keys with values")
            merged.update(source)
        return merged

    def once(self, name: str, line: int) -> None:
        if name in self.lines:
            first = self.lines[name]
            lines = f"line {line}" if line == first else f"line {first} and line {line}"
            raise YamlError(f"{self.where}: {name} is given twice, in {lines}")
        self.lines[name] = line

    def error(self, node: Node, text: str) -> YamlError:
        return YamlError(f"{self.where}: line {node.start_mark.line + 1}: {text}")


_READ: dict[str, Callable[[str], Any]] = {
    "bool": lambda word: word.lower() in ("yes", "true", "on"),
    "int": lambda word: int(word.replace("_", "")),
    "float": lambda word: float(
        word.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan")
    ),
}


def _told(error: yaml.YAMLError) -> str:
    """PyYAML's message in one line, with the line of the file and what helps with a tab."""
    if isinstance(error, ReaderError):
        return f"holds the control character #x{error.character:02x}"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    line = error.problem_mark.line + 1
    told = f"line {line}: {error.problem}"
    return f"{told}; indent with spaces" if r"'\t'" in told else told
