"""The ignored label gives NaN in label-based scores; any other label outside the classes is refused where it can be read."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import dynams_kernels as dk
import oracle
from kernel_inputs import random_logits

LABELLED: tuple[dk.ScoreKind, ...] = ("label", "loss", "el2n")
KINDS: tuple[dk.ScoreKind, ...] = ("gap", *LABELLED, "entropy")


@given(
    rows=st.integers(0, 40),
    classes=st.integers(2, 30),
    ignore=st.sampled_from([-100, -1, 0, 1, 30, 2**40, -(2**62)]),
    seed=st.integers(0, 999),
)
def test_ignored_samples_are_nan_and_no_others(
    rows: int, classes: int, ignore: int, seed: int, device: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < 0.3] = ignore
    y = labels.numpy()
    outside = np.where(y == ignore, -1, y)
    x = random_logits(rows, classes, seed=seed)
    features, weight = random_logits(rows, 6, seed=seed, scale=1), random_logits(classes, 6, seed=1)
    given_labels = labels.clone().to(device)
    cases: list[tuple[dict[str, torch.Tensor], Any]] = [
        (
            dk.scores(x.to(device), KINDS, labels=given_labels, ignore_index=ignore),
            oracle.array(x),
        ),
        (
            dk.linear_scores(
                features.to(device),
                weight.to(device),
                KINDS,
                labels=given_labels,
                ignore_index=ignore,
            ),
            oracle.linear(oracle.array(features), oracle.array(weight)),
        ),
    ]
    for got, logits in cases:
        want = oracle.scores(logits, KINDS, outside)
        for kind in KINDS:
            assert np.array_equal(got[kind].isnan().cpu().numpy(), np.isnan(want[kind])), kind
            oracle.check(got[kind], want[kind], ulps=256, floor=8)
    assert torch.equal(given_labels.cpu(), labels), "the caller's labels stay as they are"


def test_margins_ignore_the_label_that_torchs_losses_ignore(device: str) -> None:
    x, weight = random_logits(3, 4).to(device), random_logits(4, 4, seed=1).to(device)
    y = torch.tensor([1, -100, 3], device=device)
    assert dk.margin(x, kind="label", labels=y).isnan().tolist() == [False, True, False]
    margins = dk.linear_margin(x, weight, kind="label", labels=y)
    assert margins.isnan().tolist() == [False, True, False]
    chosen = dk.margin_topk(x, 2, kind="label", labels=y)
    assert chosen.indices.tolist() == [0, 2], "an ignored sample is selected last"


@pytest.mark.parametrize(
    ("ignore", "wrong", "said"),
    [
        (-100, [-1, 2], "-1"),
        (-1, [-1, -100], "-100"),
        (-100, [4, -100], "4"),
        (2, [2, -100], "-100"),
    ],
)
def test_any_other_label_outside_is_refused(ignore: int, wrong: list[int], said: str) -> None:
    y = torch.tensor([0, *wrong])
    message = rf"labels: got {said}, want every label in \[0, 4\)"
    with pytest.raises(ValueError, match=message):
        dk.scores(torch.zeros(3, 4), ["loss"], labels=y, ignore_index=ignore)
    with pytest.raises(ValueError, match=message):
        dk.linear_scores(
            torch.zeros(3, 5), torch.zeros(4, 5), ["el2n"], labels=y, ignore_index=ignore
        )


def test_nobody_reads_the_labels_of_scores_without_them() -> None:
    x = random_logits(3, 4)
    wrong = torch.tensor([9, 9, 9])
    assert oracle.same_bits(dk.scores(x, ["gap"], labels=wrong)["gap"], dk.margin(x))


@pytest.mark.parametrize("ignore", [None, 1.0, "x", True], ids=str)
def test_an_ignored_label_is_an_int(ignore: Any) -> None:
    with pytest.raises(TypeError, match="ignore_index"):
        dk.scores(
            torch.zeros(3, 4),
            ["loss"],
            labels=torch.zeros(3, dtype=torch.int64),
            ignore_index=ignore,
        )


@pytest.mark.parametrize("ignore", [2**63, -(2**63) - 1, 2**70])
def test_an_ignored_label_is_one_that_labels_can_be(ignore: int) -> None:
    y = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"ignore_index: got {ignore}, want"):
        dk.scores(torch.zeros(3, 4), ["loss"], labels=y, ignore_index=ignore)
    with pytest.raises(ValueError, match=f"ignore_index: got {ignore}, want"):
        dk.linear_scores(
            torch.zeros(3, 5), torch.zeros(4, 5), ["loss"], labels=y, ignore_index=ignore
        )
