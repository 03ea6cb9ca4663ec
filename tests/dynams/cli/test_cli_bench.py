"""`dynams bench`: options, configuration files and the table."""

from __future__ import annotations

import json

import pytest
import torch

from dynams.bench import BenchConfig
from dynams.cli import main
from dynams.cli.bench import as_text, parse
from dynams.cli.errors import UsageError

SMALL = ["--rows=16", "--classes=5", "--features=8", "--samples=100", "--rounds=1", "--device=cpu"]


def test_without_options_the_defaults_count():
    assert parse([]) == (BenchConfig(), False)


def test_every_option_is_a_key_and_options_count_before_the_file(tmp_path):
    file = tmp_path / "bench.yaml"
    file.write_text("rows: 3\nkernel: scores\ndtype: bfloat16\njson: true\nthreads: 1\n")
    for argv in (["--rows", "4", "--config", str(file)], [f"--config={file}", "--rows=4"]):
        config, as_json = parse(argv)
        assert as_json
        assert (config.rows, config.kernel, config.dtype) == (4, "scores", "bfloat16")
        assert config.threads == 1
    argv = [
        f"--{name}={'null' if value is None else value}"
        for name, value in BenchConfig().to_dict().items()
    ]
    assert parse(argv) == (BenchConfig(), False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("row: 1\n", "unknown key row (did you mean rows?)"),
        ("rows: {a: 1}\n", "rows: got {'a': 1}, want a whole number"),
        ("rows: 0\n", "rows: got 0, want at least 1"),
        ("just words\n", "got 'just words', want keys with values"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, said):
    file = tmp_path / "bench.yaml"
    file.write_text(content)
    with pytest.raises((UsageError, TypeError, ValueError)) as refused:
        parse(["--config", str(file)])
    assert said in str(refused.value)


def test_the_table_has_a_line_for_each_kernel_and_for_what_it_is_beside(capsys):
    assert main(["bench", *SMALL]) == 0
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    kernels = [row.split("|")[1].strip() for row in rows[2:]]
    assert [name for name in kernels if name] == [
        "margin",
        "scores, six kinds",
        "smallest_k",
        "margin_topk",
        "linear_margin",
        "linear_margin, width 0.5",
        "linear_scores, three kinds",
        "linear_margin_topk",
    ]
    assert "60 of 100" in text
    assert "16 x 5 float32" in text
    assert torch.__version__ in text


def test_json_says_what_was_asked_and_what_was_found(capsys):
    assert main(["bench", *SMALL, "--kernel=margin", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"]["rows"] == 16
    assert found["environment"]["torch"] == torch.__version__
    (result,) = found["results"]
    assert result["kernel"] == "margin"
    assert result["bytes_per_second"] == (16 * 5 * 4 + 16 * 4) / result["seconds"]
    assert result["of_copy"] == result["bytes_per_second"] / found["copy_bytes_per_second"]
    assert [peer["name"] for peer in result["peers"]] == ["topk(2), subtracted", "amax alone"]


def test_times_and_rates_have_three_figures_and_a_unit():
    from dynams.bench import Measurement, Result
    from dynams.bench.timing import Peer

    def result(seconds: float, **rates: float | None) -> Result:
        known = {"bytes_per_second": None, "flops": None, "of_copy": None}
        peers = (Peer("other", 1.5, 1.5 / seconds),)
        return Result(kernel="k", inputs="i", seconds=seconds, peers=peers, **{**known, **rates})

    serves = {"cpu": "native_cpu", "cuda": {"row_scores": "native_cuda", "smallest_k": "triton"}}
    where = {"device": "cuda: X", "cpu": "Y", "threads": 2, "torch": "t", "kernels": serves}
    results = (
        result(2.0, flops=3e12),
        result(0.0123, bytes_per_second=2.5e9, of_copy=0.5),
        result(4.5e-6),
    )
    config = BenchConfig(device="cuda:1")
    lines = as_text(Measurement(config, where, 1e12, results)).splitlines()
    assert lines[0] == (
        "cuda: X (cuda:1), threads: 2, torch t, "
        "kernels: row_scores native_cuda, smallest_k triton, copy 1000.0 GB/s"
    )
    on_cpu = as_text(Measurement(BenchConfig(), {**where, "device": "cpu"}, 1e9, results))
    assert on_cpu.startswith("Y, threads: 2, torch t, kernels: native_cpu, copy 1.0 GB/s\n")
    cells = [[cell.strip() for cell in line.split("|")[3:9]] for line in lines[4:7]]
    assert cells == [
        ["2 s", "3000 GFLOP/s", "", "other", "1.5 s", "0.75 x"],
        ["12.3 ms", "2.5 GB/s", "0.50", "other", "1.5 s", "121.95 x"],
        ["4.5 us", "", "", "other", "1.5 s", "333333.33 x"],
    ]
