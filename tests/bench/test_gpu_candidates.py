"""The candidates of a linear head: wrong ones are never timed, deadly ones never called twice, and the report says which to choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_processes import BENCH, new_ledger, run_benchmarks
from test_gpu_outcomes import run
from test_gpu_report import CEILINGS, FACTS
from torch import Tensor

from dynams_kernels import _device
from dynams_kernels._backends import linear_choice, registry
from dynams_kernels._backends.gpu import Gpu, Served
from dynams_kernels._kinds import BIT
from gpu import candidate_table, candidates, ledger, predictions, results

GAP, SUMS = "gap 65536x1024-1000", "sums 4096x1024-1000"
ONE, OFF, OTHER = "hopper 128x256", "hopper 128x144", "hopper 128x192"
POINTERS = "triton pointers"


def run_candidates(folder: Path, *names: str, **faulty: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code of these benchmarks, and what all processes so far measured; `faulty` by tiling."""
    faults = json.dumps({f"hopper {tiling}": fault for tiling, fault in faulty.items()})
    code = run_benchmarks(folder, *(str(BENCH / "gpu" / name) for name in names), FAULTY=faults)
    entries = ledger.read(folder / results.LEDGER).suite("benchmarks").entries
    return code.returncode, [entry["extra_info"] for entry in entries]


def test_a_wrong_candidate_is_never_timed_and_a_deadly_one_not_called_again(
    tmp_path: Path,
) -> None:
    new_ledger(tmp_path)
    gap, sums = (
        f"bench_linear_candidates_gpu.py::{candidate_table.name_of(w)}" for w in (GAP, SUMS)
    )
    code, entries = run_candidates(tmp_path, gap, sums, **{"128x256": "dies"})
    assert (code, entries) == (70, [])
    faulty = {"128x256": "dies", "128x144": "off", "128x192": "raises"}
    public = "bench_linear_gpu.py::bench_slim_head"
    code, [extra] = run_candidates(tmp_path, gap, sums, public, **faulty)
    assert code == 0
    assert {POINTERS, "eager"} <= extra["peers"].keys()
    assert not {ONE, OFF, OTHER} & extra["peers"].keys()
    assert extra["failed_peers"].keys() == {OFF, OTHER}
    assert "off by 0." in extra["failed_peers"][OFF]
    kept = ledger.read(tmp_path / results.LEDGER)
    tried = kept.suite(ledger.CANDIDATES)
    assert tried.running == [f"{ONE}: {GAP}"]
    assert tried.of("failed").keys() == {f"{OFF}: {SUMS}", f"{OTHER}: {SUMS}"}
    assert tried.of("passed").keys() == {f"{POINTERS}: {SUMS}", f"eager: {SUMS}"}
    # The public functions are not called either: they may choose it.
    skipped = kept.suite("benchmarks").of("skipped")
    assert list(skipped.values()) == [f"a process died or hung in {ONE}"]
    results.write_page(tmp_path)
    text = (tmp_path / "kernels.md").read_text()
    assert "## Candidates of a linear head" in text
    assert "- `candidates`: 2 passed, 2 failed" in text
    assert f"stopped: `{ONE}: {GAP}`" in text
    assert f"{OTHER}: RuntimeError: no such launch: `linear_candidates[{SUMS}]`" in text


def test_tests_of_a_kernel_in_which_a_case_died_are_skipped(tmp_path: Path) -> None:
    new_ledger(
        tmp_path,
        {"suite": "cases", "begin": "hopper a: linear"},
        {"suite": "cases", "begin": "hopper b: linear"},
        {"suite": "cases", "end": "hopper b: linear", "outcome": "passed"},
        # It may have been compiling when the time of the cases ended.
        {"suite": "cases", "begin": "triton descriptors: linear"},
    )
    names = ["hopper a", "hopper b", "triton descriptors"]
    (tmp_path / "test_it.py").write_text(
        f"import pytest\n@pytest.mark.parametrize('name', {names})\ndef test_it(name): pass\n"
    )
    code, output = run(tmp_path, "test_it.py")
    assert code == 0, output
    kept = ledger.read(tmp_path / results.LEDGER).suite("native")
    assert list(kept.of("skipped").values()) == ["a process died or hung in hopper a"]
    assert len(kept.of("passed")) == 2


def test_the_reference_is_float64s_and_allows_torchs_own_error() -> None:
    generator = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(n, 64, generator=generator).bfloat16() for n in (200, 50))
    labels = torch.randint(50, (200,), generator=generator)
    kinds = ("loss", "entropy", "gap")
    want = candidates.Reference((features, weight, None, labels), kinds)
    logits = features.double() @ weight.double().T
    top = logits.sort(1).values
    p = logits.softmax(1)
    exact = torch.stack(
        [
            top[:, -1] - top[:, -2],
            torch.nn.functional.cross_entropy(logits, labels, reduction="none"),
            -(p * p.log()).sum(1),
        ]
    )
    want.check(exact.float())
    want.check(candidates.of_logits((features @ weight.T).double(), kinds, labels))
    for place, kind in enumerate(("gap", "loss", "entropy")):
        for row, wrong in ((0, 0.4), (199, -0.4), (199, float("nan"))):
            spoilt = exact.clone()
            spoilt[place, row] += wrong
            with pytest.raises(candidates.WrongScoresError, match=f"{kind} off by"):
                want.check(spoilt)


def matrix(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta")


def test_what_can_serve_and_what_the_table_chooses_are_asked_of_the_gpus_own_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "gpu", Gpu(None, None, "eager"))
    head = (torch.randn(300, 32), torch.randn(500, 32), torch.randn(500), None)
    assert candidates.able(head, ("entropy", "gap")) == ("eager",)
    assert candidates.chosen(head, ("entropy", "gap")) == "eager"
    candidates.Reference(head, ("entropy", "gap")).check(
        candidates.scores_by("eager", head, ("entropy", "gap"))
    )
    # 1024 columns of a batch of images, where all can serve.
    wide = (matrix(65_536, 1024), matrix(1000, 1024))
    monkeypatch.setattr(Served, "linear_candidates", lambda *_: linear_choice.CANDIDATES)
    about = (65_536, 1000, 1024, BIT["gap"], _device.multiprocessors(wide[0]))
    want = linear_choice.choose(*about, linear_choice.CANDIDATES)
    assert candidates.chosen((*wide, None, None), ("gap",)) == want


# ------------------------------------------------------------------------------------ which to choose


def entry(chosen: str, times: dict[str, float], **extra: Any) -> dict[str, Any]:
    """An entry of GAP: microseconds of what could serve, beside 100 of the product alone."""
    able = [ONE, OTHER, POINTERS]
    return {
        "name": candidate_table.name_of(GAP),
        "stats": {"median": 100e-6},
        "extra_info": {
            "able": able,
            "chosen": chosen,
            "limit": "bf16 matmul",
            "flops": 6e10,
            "ceilings": CEILINGS,
            "peers": {
                name: {"median_s": time * 1e-6, "speedup": time / 100}
                for name, time in times.items()
            },
            **extra,
        },
    }


@pytest.mark.parametrize(
    ("chosen", "times", "said"),
    [
        (ONE, {ONE: 96, OTHER: 97}, "choice, hopper 128x256, is the fastest."),
        (ONE, {ONE: 97.9, OTHER: 96}, "is within 2 % of the fastest, hopper 128x192."),
        (ONE, {ONE: 98.1, OTHER: 96}, "**the table should say hopper 128x192**: its choice, hopper 128x256, takes 2.2 % longer."),
        # A peer is no candidate, however fast.
        (ONE, {ONE: 96, "quack gemm": 80}, "is the fastest."),
        (ONE, {POINTERS: 120}, "**the table should say triton pointers**: its choice, hopper 128x256, was not measured (off by 3)."),
        (OTHER, {POINTERS: 120}, "was not measured (not tried: a process died or hung in it)."),
        (ONE, {}, "no candidate was measured."),
    ],
)  # fmt: skip
def test_the_report_says_what_the_table_should(
    chosen: str, times: dict[str, float], said: str
) -> None:
    made = entry(chosen, times, failed_peers={ONE: "off by 3"})
    assert candidate_table.verdict(made, GAP).endswith(said)


def test_all_that_was_timed_is_ranked_beside_the_product() -> None:
    report = {
        "machine_info": FACTS,
        "benchmarks": [entry(ONE, {ONE: 120, POINTERS: 150, "quack gemm": 101}, why_no_hopper="no nvcc")],
        "run": {"predictions": {"by_candidate": {GAP: {ONE: [["us", 151, 189], ["time of F.linear alone", 0.93, 1.15]]}}}},
    }  # fmt: skip
    lines = candidate_table.section(report).splitlines()
    table = [line for line in lines if line.startswith("| ")][1:]
    assert [line.split(" | ")[1] for line in table] == [
        "F.linear alone",
        "quack gemm",
        f"**{ONE}** (chosen)",
        f"**{POINTERS}**",
    ]
    assert table[0].startswith(
        f"| {GAP} | F.linear alone | 100 us | 1.000 | 600 | 80 % of bf16 matmul |"
    )
    assert (
        "| 120 us | 1.200 | 500 | 67 % of bf16 matmul | 151 to 189 us, 0.93 to 1.15 x the time of F.linear alone | below (faster), above (slower) |"
        in table[2]
    )
    assert "- No kernels for Hopper: no nvcc." in lines
    assert candidate_table.section({"benchmarks": []}) == ""


def test_predictions_are_of_works_that_exist_in_a_measure_they_have() -> None:
    assert set(predictions.CANDIDATES) <= set(candidate_table.WORK)
    named = {name for by_name in predictions.CANDIDATES.values() for name in by_name}
    assert named <= set(linear_choice.CANDIDATES)
    for work, by_name in predictions.CANDIDATES.items():
        made = {**entry(ONE, dict.fromkeys(by_name, 100)), "name": work}
        made["extra_info"]["limit"] = "copy" if work.endswith(("-10", "-100")) else "bf16 matmul"
        made["extra_info"]["bytes"] = 10**8
        for one in candidate_table.measured(made):
            told = predictions.verdict({**one.entry, "name": one.name}, by_name)
            assert bool(told) == (one.name in by_name)
            assert "not measured" not in told
