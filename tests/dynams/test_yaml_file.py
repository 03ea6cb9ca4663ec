"""Files of settings: what is read as what, and one right line about each that cannot be read."""

from __future__ import annotations

import os

import pytest

from dynams.yaml_file import YamlError, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5e-4", 0.0005),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-1_000", -1000),
        ("010", 10),  # of YAML 1.1: 8
        ("1:30", "1:30"),  # of YAML 1.1: 90
        ("2024-01-01", "2024-01-01"),  # of YAML 1.1: a date
        (".inf", float("inf")),
        ("on", True),
        ("No", False),
        ("~", None),
        ("", None),
        ("'no'", "no"),
        ("# nothing", None),
        ("\ufeffa: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("{1: a, no: b, null: c}", {"1": "a", "no": "b", "null": "c"}),
        ('"caf\\uDCE9"', "caf\udce9"),
    ],
)
def test_a_plain_word_means_what_people_mean(text, value):
    assert parse_yaml(text, "") == value
    assert type(parse_yaml(text, "")) is type(value)


def test_what_is_to_be_text_stays_as_it_is_written():
    text = "run: {name: 007, dir: no, seed: 3}\nbase: {run.name: 1e3}\nname: null\n"
    assert parse_yaml(text, "", ["run.name", "run.dir", "name"]) == {
        "run": {"name": "007", "dir": "no", "seed": 3},
        "base": {"run.name": "1e3"},
        "name": None,
    }


def test_merge_keys_and_aliases_are_no_repetition():
    text = (
        "a: &a {lr: 1, warmup: 2}\nb: &b {lr: 3, epochs: 4}\nown: {<<: *a, lr: 5}\n"
        "both: {<<: [*a, *b], warmup: 6}\nsame: *a\n"
    )
    values = parse_yaml(text, "")
    assert values["own"] == {"lr": 5, "warmup": 2}
    assert values["both"] == {"lr": 1, "warmup": 6, "epochs": 4}
    assert values["same"] == values["a"] == {"lr": 1, "warmup": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim: {lr: 1}\nrun:\noptim: {epochs: 7}\n", "optim is given twice, in line 1 and line 3"),
        ("a:\n  b:\n    c: 1\n    d: 2\n    c: 3\n", "a.b.c is given twice, in line 3 and line 5"),
        ("1: 2\n'1': 3\n", "1 is given twice, in line 1 and line 2"),
        ("optim: {lr: 1}\noptim.lr: 2\n", "optim.lr is given twice, in line 1 and line 2"),
        ("{a: 1, a: 1}", "a is given twice, in line 1"),
        ("- {a: 1}\n- {b: 1,\n   b: 2}\n", "[1].b is given twice, in line 2 and line 3"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n", "c.<< is given twice, in line 3 and line 4"),
        ("a: 1\n---\nb: 2\n", "holds 2 documents (see `---` before line 3), want one"),
        ("a:\n\tb: 1\n", "is not YAML: line 2: found character '\\t' that cannot start any token; "),
        ("a: [", "is not YAML: line 1: "),
        ("a: b: c", "is not YAML: line 1: mapping values are not allowed here"),
        ("a: \x07", "is not YAML: holds the control character #x07"),
        ("a: &a [*a]", "line 1: holds itself"),
        ("<<: 3", "line 1: <<: got 3, want keys with values"),
        ("[a]: 1", "line 1: got a list or keys as a key, want a word"),
        ("a: !!python/name:os.system x", "line 1: got !!python/name:os.system 'x', want plain YAML"),
        ("a: !mine {b: 1}", "line 1: got !mine, want plain YAML"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told_with_its_lines(text, said):
    with pytest.raises(YamlError) as refused:
        parse_yaml(text, "x.yaml")
    assert str(refused.value).startswith(f"x.yaml: {said}")


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path):
    def said(content: bytes | None) -> str:
        path = tmp_path / "caf\udce9.yaml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(YamlError) as refused:
            read_yaml(path if content is not None else tmp_path, "x")
        return str(refused.value)

    assert said(None) == "x: is a directory, want a YAML file"
    assert said(b"a: 1\nb: caf\xe9\n") == "x: is not a text file in UTF-8: see line 2"
    assert said(b"\x00\xff").startswith("x: is not a text file")
    with pytest.raises(YamlError, match="x: cannot be read: No such file or directory"):
        read_yaml(tmp_path / "missing", "x")
    (tmp_path / "wide").write_bytes("a: é".encode("utf-16"))
    assert read_yaml(tmp_path / "wide", "x") == {"a": "é"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_read_once(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"a: 1\n")
    os.close(writer)
    try:
        assert read_yaml(f"/dev/fd/{reader}", "x") == {"a": 1}
    finally:
        os.close(reader)
