"""The command line: help, precedence of options, and errors in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

import dynams
from dynams.bench import BenchConfig
from dynams.cli import main
from dynams.cli.compare import parse as parse_compare
from dynams.cli.errors import UsageError, one_line
from dynams.cli.options import parse, presets
from dynams.training.config import TrainConfig
from dynams.training.resolve import build_selector


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a refused command line gives."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dynams: error: ")
    return lines[0].removeprefix("dynams: error: ")


def test_the_help_names_the_commands_and_no_others(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    commands = text.partition("commands:")[2].partition("options:")[0]
    assert [line.split()[0] for line in commands.strip().splitlines()] == [
        "train",
        "compare",
        "bench",
        "info",
    ]


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dynams {dynams.__version__}\n"


def test_the_help_of_train_documents_every_setting(capsys):
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for section, values in TrainConfig().to_dict().items():
        for key in values:
            after = text.partition(f" --{section}.{key} ")[2]
            sentence = after.partition("(type:")[0]
            assert len(sentence.split()) > 3, f"--{section}.{key} is not explained"
    for option in ("--preset", "--config", "--resume", "--print_config"):
        assert option in text
    assert "compare" not in text
    assert "bench" not in text


def test_the_help_of_info_is_complete(capsys):
    assert main(["info", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text


def test_the_help_of_bench_documents_every_setting(capsys):
    assert main(["bench", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in BenchConfig().to_dict():
        sentence = text.partition(f" --{name} ")[2].partition("(type:")[0]
        assert len(sentence.split()) > 3, f"--{name} is not explained"
    for option in ("--config", "--json"):
        assert option in text


def test_help_imports_neither_torch_nor_the_engine():
    code = (
        "import sys\n"
        "from dynams.cli import main\n"
        "statuses = [main(['--help']), main(['train', '--help']), main(['info', '--help']), main(['bench', '--help'])]\n"
        "heavy = {'torch', 'numpy', 'lightning_fabric', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'{statuses} {heavy}' if any(statuses) or heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_options_count_before_the_config_which_counts_before_the_preset(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {lr: 0.03, epochs: 7}\n")
    argv = ["--optim.lr", "0.02", "--config", str(file), "--preset", "cifar10"]
    config = parse(argv).config
    assert config.optim.lr == 0.02
    assert config.optim.epochs == 7
    assert config.model.name == "resnet18"
    assert parse(argv[2:]).config.optim.lr == 0.03
    assert parse(argv[4:]).config.optim.lr == 0.1


def test_of_two_configs_the_later_counts(tmp_path):
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("optim: {lr: 0.03, epochs: 7}\n")
    second.write_text("optim: {lr: 0.04}\n")
    config = parse([f"--config={first}", f"--config={second}"]).config
    assert (config.optim.lr, config.optim.epochs) == (0.04, 7)


def test_without_options_the_defaults_are_the_digits_preset():
    assert parse([]).config == TrainConfig()
    assert parse(["--preset", "digits"]).config == TrainConfig()


def test_every_preset_is_a_valid_configuration_of_known_keys():
    names = {"digits", "cifar10", "sprint-94", "sprint-96", "imagenet", "dynams", "dynams-paper"}
    assert set(presets()) == names
    for name, path in presets().items():
        values = yaml.safe_load(path.read_text())
        for section, settings in values.items():
            known = TrainConfig().to_dict()[section]
            assert set(settings) <= set(known)
        config = parse(["--preset", name]).config
        for section, settings in values.items():
            for key, value in settings.items():
                assert getattr(getattr(config, section), key) == value


def test_a_recipe_s_preset_goes_on_top_of_a_data_set_s():
    own = parse(["--preset", "cifar10", "--preset", "dynams"]).config
    assert own == parse(["--preset", "cifar10"]).config
    paper = parse(["--preset=cifar10", "--preset=dynams", "--preset=dynams-paper"]).config
    assert own.model == paper.model == parse(["--preset", "cifar10"]).config.model
    assert (own.selection.free, build_selector(own).proxy_width) == (True, None)
    assert (paper.selection.free, build_selector(paper).proxy_width) == (False, 0.5)
    assert paper.selection.exploration == 0.0
    assert (paper.selection.age_weight, paper.selection.softness) == (0.0, 0.0)
    assert parse(["--preset", "dynams", "--selection.budget=0.4"]).config.selection.budget == 0.4


def test_every_option_is_a_key_and_the_other_way_round(tmp_path):
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump(TrainConfig().to_dict()))
    assert parse(["--config", str(file)]).config == TrainConfig()
    argv = [
        f"--{section}.{key}={'null' if value is None else str(value).lower()}"
        for section, values in TrainConfig().to_dict().items()
        for key, value in values.items()
    ]
    assert parse(argv).config == TrainConfig()


def test_print_config_gives_the_whole_configuration(capsys):
    assert main(["train", "--print_config", "--preset", "imagenet", "--optim.lr", "0.7"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    config = TrainConfig.from_dict(values)
    assert config.optim.lr == 0.7
    assert config.model.name == "resnet50"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "command: got none, want one of train, compare, bench, info"),
        (
            ["trian"],
            "command: got 'trian', want one of train, compare, bench, info (did you mean train?)",
        ),
        (["--verbose"], "unknown option --verbose"),
        (
            ["compar"],
            "command: got 'compar', want one of train, compare, bench, info (did you mean compare?)",
        ),
        (["train", "--optim.lrr", "1"], "unknown option --optim.lrr (did you mean --optim.lr?)"),
        (["train", "--lr=3"], "unknown option --lr (did you mean --optim.lr?)"),
        (
            ["train", "--optim", "3"],
            "--optim: got no setting, want one of it, such as --optim.epochs",
        ),
        (["train", "--config", ""], "--config: got '', want a path"),
        (["train", "--model.name=resnet19"], "(did you mean resnet18?)"),
        (["train", "extra"], "unknown argument extra"),
        (["train", "--optim.lr", "fast"], "optim.lr: got 'fast', want a number"),
        (["train", "--optim.lr", "-1"], "optim.lr: got -1.0, want a number in (0, inf)"),
        (["train", "--optim.lr"], "--optim.lr: expected one argument"),
        (["train", "--data.name", "mnist"], "data.name: got 'mnist', want one of digits, cifar10"),
        (["train", "--data.name", "digist"], "shards (did you mean digits?)"),
        (["train", "--data.flip", "3"], "data.flip: got 3, want true or false or null"),
        (
            ["train", "--selection.budget", "1.5"],
            "selection.budget: got 1.5, want a number in (0, 1]",
        ),
        (
            ["train", "--preset", "mnist"],
            "--preset: got 'mnist', want one of cifar10, digits, dynams, dynams-paper, imagenet",
        ),
        (["train", "--preset"], "--preset: expected one argument"),
        (["train", "--config", "missing.yaml"], "--config: no file missing.yaml"),
        (["train", "--resume", "missing"], "resume: no directory missing"),
        (["train", "--resume", "x", "--preset", "digits"], "--preset: a resumed run keeps"),
        (["bench", "--row", "3"], "(did you mean --rows?)"),
        (["bench", "--rows", "many"], "rows: got 'many', want a whole number"),
        (["bench", "--rows", "0"], "rows: got 0, want at least 1"),
        (["bench", "--classes", "1"], "classes: got 1, want at least 2"),
        (["bench", "--width", "0"], "width: got 0.0, want a number in (0, 1]"),
        (["bench", "--budget", "1.5"], "budget: got 1.5, want a number in (0, 1]"),
        (["bench", "--kernel", "topk"], "kernel: got 'topk', want one of all, margin, scores"),
        (["bench", "--dtype", "int8"], "dtype: got 'int8', want one of float32"),
        (["bench", "--device", "gpu"], "device: got 'gpu', want auto, cpu, cuda or a numbered one"),
        (["bench", "--device", "cuda:99"], "device: got cuda:99, want a device that is there"),
        (["bench", "--rounds", "0"], "rounds: got 0, want at least 1"),
        (["bench", "--threads", "0"], "threads: got 0, want at least 1"),
        (["bench", "--seed", "-1"], "seed: got -1, want at least 0"),
        (["bench", "--config", "missing.yaml"], "--config: no file missing.yaml"),
        (["info", "--jsn"], "unknown argument --jsn (did you mean --json?)"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(capsys, monkeypatch, tmp_path, argv, said):
    monkeypatch.chdir(tmp_path)
    assert said.lower() in refusal(capsys, *argv).lower()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"optim: 3\n", "optim: got 3, want keys with values"),
        (b"optim: []\n", "optim: got [], want keys with values"),
        (
            b"optim: {lr: 1}\nrun: {seed: 3}\noptim: {epochs: 7}\n",
            "optim is given twice, in line 1 and",
        ),
        (b"optim: {lr: null}\n", "optim.lr: got null, want a number"),
        (b"run: {dir: ~}\n", "run.dir: got null, want text"),
        (b"data: {path: ''}\n", "data.path: got '', want a path"),
        (b"selection: {options: {margin: 3}}\n", "selection.options.margin: got 3, want keys with"),
        (b"lr: 1\n", "unknown key lr (did you mean optim.lr?)"),
        (b"optim: {lrr: 1}\n", "unknown key optim.lrr"),
        (b"optim: {lrr: 1}\n", "(did you mean optim.lr?)"),
        (b"optimizer: {lr: 1}\n", "unknown key optimizer.lr"),
        (b"optim: {lr: fast}\n", "optim.lr: got 'fast', want a number"),
        (b"optim: {lr: -3}\n", "optim.lr: got -3.0, want a number in (0, inf)"),
        (b"optim: {lr: [\n", "is not YAML"),
        (b"just words\n", "got 'just words', want keys with values"),
        (b"\x00\xff", "is not a text file"),
    ],
)
def test_a_bad_config_file_is_one_line_and_status_2(capsys, tmp_path, content, said):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    assert said in refusal(capsys, "train", "--config", str(file))


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "optim:\n  # lr: 0.1\nselection:\n  options:\n    margin:\n"]
)
def test_what_is_empty_in_a_config_file_changes_nothing(tmp_path, text):
    file = tmp_path / "empty.yaml"
    file.write_text(text)
    config = parse(["--config", str(file)]).config
    assert config.optim == TrainConfig().optim
    assert build_selector(config) == build_selector(TrainConfig())


def test_files_and_options_read_numbers_and_text_alike(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "data: {limit: 1e3}\noptim: {lr: 1e-3, weight_decay: 5e-4}\nrun: {name: 007, tensorboard: off}\n"
    )
    argv = ["--data.limit=1e3", "--optim.lr=1e-3", "--optim.weight_decay=5e-4", "--run.name=007"]
    config = parse(["--config", str(file)]).config
    assert config == parse([*argv, "--run.tensorboard=off"]).config
    assert (config.data.limit, type(config.data.limit)) == (1000, int)
    assert (config.optim.lr, config.run.name, config.run.tensorboard) == (0.001, "007", False)


def test_a_tilde_is_the_home_directory_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(
        "run: {dir: ~/runs}\ndata: {path: ~/data, cache: ~/cache}\nselection: {scores: ~/s.npy}\n"
    )
    (tmp_path / "config.yaml").write_text("optim: {lr: 0.3}\n")
    config = parse(["--config", "~/mine.yaml"]).config
    told = [config.run.dir, config.data.path, config.data.cache, config.selection.scores]
    assert told == [str(tmp_path / name) for name in ("runs", "data", "cache", "s.npy")]
    request = parse(["--resume", "~", "--run.dir=~"])
    assert (request.resume, request.config.optim.lr) == (tmp_path, 0.3)
    assert request.config.run.dir == str(tmp_path)
    (tmp_path / "plan.yaml").write_text("out: ~/out\nrecipes: {full: {selection.strategy: full}}\n")
    for plan, out in (("~/plan.yaml", "out"), ("~", ".")):
        comparison = parse_compare([plan, "--merge", "~/a", "~"])
        assert comparison.out == tmp_path / out
        assert comparison.merge == [tmp_path / "a", tmp_path]
    assert parse_compare(["~", "--out=~/other"]).out == tmp_path / "other"
    asked = parse(["--rates=~/runs"]).forecast
    assert asked is not None
    assert asked.rates == tmp_path / "runs"


@pytest.mark.parametrize(
    "argv", [["--run.dir", "file/runs"], ["--run.dir=file"], ["--run.name", "x" * 300]]
)
def test_a_run_that_could_write_nowhere_is_refused_before_its_data_are_read(
    capsys, monkeypatch, tmp_path, argv
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "data").mkdir()
    said = refusal(capsys, "train", "--data.name=cifar10", "--data.path=data", *argv)
    assert said.startswith(argv[0].removeprefix("--").partition("=")[0])
    assert [item.name for item in tmp_path.iterdir() if item.name not in ("file", "data")] == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--data.name=cifar10"], "data.path: got None"),
        (["--data.path=."], "data.path: got ., want null for digits"),
        (["--data.name=cifar10", "--data.path=missing"], "data.path: no directory missing"),
        (
            ["--model.name=resnet9", "--run.devices=2", "--run.accelerator=cpu"],
            "model.name: got",
        ),
        (["--data.name=cifar10", "--data.path=."], "."),
        (["--model.name=resnet9000"], "resnet9000"),
        (["--data.image_size=9"], "image_size"),
        (["--optim.batch_size=2", "--run.devices=2", "--run.accelerator=cpu"], "batch_size"),
    ],
)
def test_what_only_the_run_can_refuse_is_one_line_and_status_2(
    capsys, monkeypatch, tmp_path, argv, said
):
    monkeypatch.chdir(tmp_path)
    assert said in refusal(capsys, "train", *argv)
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_shown_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("DYNAMS_DEBUG", "1")
    assert main(["train", "--optim.lr", "-1"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith("dynams: error: optim.lr")


def test_an_error_is_one_line_whatever_it_is():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(KeyError("key")) == "KeyError 'key'"
    assert one_line(RuntimeError()) == "RuntimeError"
    missing = ModuleNotFoundError("No module named 'rich.table'", name="rich.table")
    assert one_line(missing) == "rich lacks rich.table: pip install --upgrade rich"
    assert one_line(OSError(2, "No such file", "x.yaml")) == "No such file: x.yaml"
    with pytest.raises(UsageError):
        parse(["--nonsense"])


def test_a_failure_that_is_no_bad_input_has_status_1(capsys, monkeypatch):
    def fail(argv: list[str]) -> int:
        raise RuntimeError("the machine is on fire")

    monkeypatch.setattr("dynams.cli.train.run", fail)
    assert main(["train"]) == 1
    assert capsys.readouterr().err == "dynams: error: the machine is on fire\n"


def test_info_shows_versions_devices_and_kernels(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in (torch.__version__, dynams.__version__, "python", "triton", "cuda", "usable"):
        assert word in text


def test_info_as_json_has_all_that_backends_tells(capsys):
    import dynams_kernels as dk

    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kernels"] == json.loads(json.dumps(dk.backends()))
    assert found["versions and processor"]["torch"] == torch.__version__


def test_the_configuration_is_made_of_frozen_dataclasses():
    config = parse([]).config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.optim.lr = 1.0  # type: ignore[misc]
