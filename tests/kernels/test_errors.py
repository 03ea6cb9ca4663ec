"""Refusals: the argument's name, what came, what is wanted; and never a wrong answer instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dynams_kernels as dk
import oracle
from kernel_inputs import labels_for, random_logits

X = random_logits(6, 5)
Y = labels_for(X)
APART = torch.ones(5, 5) - torch.eye(5)
FEATURES, WEIGHT, BIAS = random_logits(6, 8, seed=1), random_logits(5, 8, seed=2), torch.zeros(5)

# Everything that takes logits, and everything that takes a linear head.
OF_LOGITS: dict[str, Callable[..., Any]] = {
    "margin": dk.margin,
    "margin_topk": lambda x, **more: dk.margin_topk(x, 2, **more),
}
OF_HEAD: dict[str, Callable[..., Any]] = {
    "linear_margin": lambda f, w, b=None, **more: dk.linear_margin(f, w, b, **more),
    "linear_margin_topk": lambda f, w, b=None, **more: dk.linear_margin_topk(f, w, 2, b, **more),
}
logits_takers = pytest.mark.parametrize("call", [*OF_LOGITS.values(), lambda x: dk.scores(x, ["gap"])],
                                        ids=[*OF_LOGITS, "scores"])  # fmt: skip
kind_takers = pytest.mark.parametrize("call", OF_LOGITS.values(), ids=OF_LOGITS)
heads = pytest.mark.parametrize("call", OF_HEAD.values(), ids=OF_HEAD)
both = pytest.mark.parametrize(
    "call",
    [
        *[lambda f=f, **more: f(X, **more) for f in OF_LOGITS.values()],
        *[lambda f=f, **more: f(FEATURES, WEIGHT, **more) for f in OF_HEAD.values()],
    ],
    ids=[*OF_LOGITS, *OF_HEAD],
)
WRONG = (TypeError, ValueError)


# ------------------------------------------------------------------------------------ logits


@logits_takers
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 4), np.float32),
        [[1.0, 2.0]],
        None,
        torch.zeros(3, 4, dtype=torch.int64),
        torch.zeros(3, 4, dtype=torch.bool),
        torch.zeros(3, 4, dtype=torch.complex64),
        torch.zeros(3, 4, dtype=torch.float8_e4m3fn),
    ],
    ids=["numpy", "list", "None", "int64", "bool", "complex", "float8"],
)
def test_logits_of_another_type_are_refused_by_name(call: Callable[..., Any], wrong: Any) -> None:
    with pytest.raises(TypeError, match="logits"):
        call(wrong)


@logits_takers
@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (3, 0), (0, 1), (2, 3, 1)], ids=str)
def test_logits_of_another_shape_are_refused_by_name(
    call: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="logits") as error:
        call(torch.zeros(shape))
    named = re.findall(r"\d+", str(error.value))
    assert all(str(size) in named for size in shape[-1:]), "the message names what came"


@logits_takers
def test_sparse_logits_are_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(WRONG, match="logits"):
        call(torch.eye(4).to_sparse())


# ------------------------------------------------------------------------------------ kinds


@both
@pytest.mark.parametrize("kind", ["", "Gap", "margin", "loss", "entropy", "gap "])
def test_an_unknown_kind_lists_the_known_ones(call: Callable[..., Any], kind: str) -> None:
    with pytest.raises(ValueError, match="kind") as error:
        call(kind=kind)
    assert repr(kind) in str(error.value)
    for known in oracle.MARGIN_KINDS:
        assert known in str(error.value)


@both
@pytest.mark.parametrize("kind", [None, 3, ["gap"]], ids=str)
def test_a_kind_that_is_no_string_is_refused(call: Callable[..., Any], kind: Any) -> None:
    with pytest.raises(WRONG, match="kind"):
        call(kind=kind)


def test_an_unknown_score_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'hinge'") as error:
        dk.scores(X, ["gap", "hinge"], labels=Y)
    for known in oracle.SCORE_KINDS:
        assert known in str(error.value)


def test_distance_among_scores_needs_class_distances() -> None:
    with pytest.raises(ValueError, match="class_distances: got None"):
        dk.scores(X, ["gap", "distance"], labels=Y)


@pytest.mark.parametrize("kind", ["logsumexp", "hinge"])
def test_what_gradients_are_made_of_is_no_score(kind: Any) -> None:
    with pytest.raises(ValueError, match="kind"):
        dk.scores(X, [kind], labels=Y)
    with pytest.raises(ValueError, match="kind"):
        dk.linear_scores(X, X, [kind], labels=Y)


@pytest.mark.parametrize("kinds", [None, 3, "gap", [3], [None]], ids=str)
def test_kinds_of_another_type_are_refused(kinds: Any) -> None:
    with pytest.raises(WRONG, match="kind"):
        dk.scores(X, kinds, labels=Y)


# ------------------------------------------------------------------------------------ labels


@both
def test_label_margin_without_labels_is_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(WRONG, match="labels"):
        call(kind="label")


@pytest.mark.parametrize("kind", oracle.LABEL_KINDS)
def test_label_based_scores_without_labels_are_refused(kind: str) -> None:
    with pytest.raises(WRONG, match="labels"):
        dk.scores(X, ["gap", kind])


@both
@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.uint8, torch.int16, torch.float32, torch.bool], ids=str
)
def test_labels_of_another_dtype_are_refused_by_name(
    call: Callable[..., Any], dtype: torch.dtype
) -> None:
    with pytest.raises(TypeError, match="labels") as error:
        call(kind="label", labels=Y.to(dtype))
    assert "int64" in str(error.value)
    assert str(dtype).removeprefix("torch.") in str(error.value)


@both
@pytest.mark.parametrize(
    "wrong", [Y[:-1], torch.cat([Y, Y]), Y[:, None], Y[0]], ids=lambda t: str(tuple(t.shape))
)
def test_labels_of_another_shape_are_refused_by_name(
    call: Callable[..., Any], wrong: Tensor
) -> None:
    with pytest.raises(ValueError, match="labels"):
        call(kind="label", labels=wrong)


@both
@pytest.mark.parametrize(
    "wrong", [[0, 1, 2, 3, 4, 0], np.zeros(6, np.int64)], ids=["list", "numpy"]
)
def test_labels_that_are_no_tensor_are_refused_by_name(
    call: Callable[..., Any], wrong: Any
) -> None:
    with pytest.raises(TypeError, match="labels"):
        call(kind="label", labels=wrong)


@both
@pytest.mark.parametrize("bad", [5, -1, -99, 2**31, 2**32, 2**32 + 1, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_label_out_of_range_is_refused_by_name(
    call: Callable[..., Any], bad: int, place: int
) -> None:
    labels = Y.clone()
    labels[place] = bad
    with pytest.raises(ValueError, match="labels"):
        call(kind="label", labels=labels)


@pytest.mark.parametrize("kind", oracle.LABEL_KINDS)
@pytest.mark.parametrize("bad", [5, -1, 2**32])
def test_a_label_out_of_range_is_refused_by_scores(kind: str, bad: int) -> None:
    labels = Y.clone()
    labels[4] = bad
    with pytest.raises(ValueError, match="labels"):
        dk.scores(X, [kind], labels=labels)


def test_one_bad_label_among_many_rows_is_found() -> None:
    x = random_logits(70_001, 3)
    for place in (0, 35_000, 70_000):
        labels = labels_for(x)
        labels[place] = 3
        with pytest.raises(ValueError, match="labels"):
            dk.margin(x, kind="label", labels=labels)
        with pytest.raises(ValueError, match="labels"):
            dk.linear_margin(x, torch.ones(3, 3), kind="label", labels=labels)


# ------------------------------------------------------------------------------------ distances


@kind_takers
def test_distance_without_class_distances_is_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(WRONG, match="class_distances"):
        call(X, kind="distance")


@both
@pytest.mark.parametrize(
    "wrong",
    [APART[:4], APART[:, :4], APART[:4, :4], torch.ones(6, 6), APART[0], APART[None]],
    ids=lambda t: str(tuple(t.shape)),
)
def test_class_distances_of_another_shape_are_refused_by_name(
    call: Callable[..., Any], wrong: Tensor
) -> None:
    with pytest.raises(ValueError, match="class_distances"):
        call(kind="distance", class_distances=wrong)


@both
@pytest.mark.parametrize(
    "wrong",
    [APART.long(), APART.bool(), APART.numpy(), 1.0],
    ids=lambda t: str(getattr(t, "dtype", t)),
)
def test_class_distances_of_another_type_are_refused_by_name(
    call: Callable[..., Any], wrong: Any
) -> None:
    with pytest.raises(TypeError, match="class_distances"):
        call(kind="distance", class_distances=wrong)


# ------------------------------------------------------------------------------------ heads


@heads
@pytest.mark.parametrize(
    ("name", "features", "weight", "bias"),
    [
        ("features", torch.tensor(1.0), WEIGHT, None),
        ("features", FEATURES[None, :, :7], WEIGHT, None),
        ("features", FEATURES[:, :7], WEIGHT, None),
        ("features", random_logits(6, 9), WEIGHT, None),
        ("weight", FEATURES, WEIGHT[0], None),
        ("weight", FEATURES, WEIGHT[None], None),
        ("weight", FEATURES, WEIGHT[:1], None),
        ("weight", FEATURES, WEIGHT[:0], None),
        ("bias", FEATURES, WEIGHT, torch.zeros(4)),
        ("bias", FEATURES, WEIGHT, torch.zeros(6)),
        ("bias", FEATURES, WEIGHT, torch.zeros(1)),
        ("bias", FEATURES, WEIGHT, torch.zeros(5, 1)),
        ("bias", FEATURES, WEIGHT, torch.tensor(0.0)),
    ],
)
def test_heads_of_wrong_shapes_are_refused_by_name(
    call: Callable[..., Any], name: str, features: Tensor, weight: Tensor, bias: Tensor | None
) -> None:
    with pytest.raises(ValueError, match=name):
        call(features, weight, bias)


@heads
def test_a_head_without_features_is_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"weight|features"):
        call(torch.zeros(6, 0), torch.zeros(5, 0))


@heads
@pytest.mark.parametrize(
    ("name", "features", "weight", "bias"),
    [
        ("features", FEATURES.long(), WEIGHT, None),
        ("features", FEATURES.numpy(), WEIGHT, None),
        ("weight", FEATURES, WEIGHT.long(), None),
        ("weight", FEATURES, WEIGHT.numpy(), None),
        ("weight|features", FEATURES, WEIGHT.double(), None),
        ("weight|features", FEATURES.half(), WEIGHT, None),
        ("weight|features", FEATURES.half(), WEIGHT.bfloat16(), None),
        ("bias", FEATURES, WEIGHT, BIAS.half()),
        ("bias", FEATURES, WEIGHT, BIAS.long()),
        ("bias", FEATURES, WEIGHT, 0.0),
        ("bias", FEATURES.half(), WEIGHT.half(), BIAS),
    ],
)
def test_heads_of_wrong_types_are_refused_by_name(
    call: Callable[..., Any], name: str, features: Any, weight: Any, bias: Any
) -> None:
    with pytest.raises(TypeError, match=name):
        call(features, weight, bias)


@pytest.mark.parametrize(
    "width",
    [
        0,
        -1,
        9,
        10**9,
        0.0,
        -0.5,
        1.0001,
        2.0,
        float("nan"),
        float("inf"),
        True,
        False,
        "half",
        {3},
    ],
    ids=str,
)
@pytest.mark.parametrize("which", [*OF_HEAD, "class_distances"])
def test_a_wrong_width_is_refused_by_name(which: str, width: Any) -> None:
    calls = {
        "class_distances": lambda: dk.class_distances(WEIGHT, width=width),
        **{name: lambda f=f: f(FEATURES, WEIGHT, width=width) for name, f in OF_HEAD.items()},
    }
    with pytest.raises(WRONG, match="width"):
        calls[which]()


@heads
def test_features_must_have_all_or_exactly_the_width_columns(call: Callable[..., Any]) -> None:
    for columns in (3, 5, 7, 9):
        with pytest.raises(ValueError, match="features"):
            call(random_logits(6, columns), WEIGHT, width=4)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (WEIGHT[0], ValueError),
        (WEIGHT[None], ValueError),
        (WEIGHT.long(), TypeError),
        (WEIGHT.numpy(), TypeError),
        (None, TypeError),
    ],
)
def test_class_distances_refuses_a_wrong_weight_by_name(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="weight"):
        dk.class_distances(wrong)


# ------------------------------------------------------------------------------------ devices


def test_arguments_on_another_device_are_refused_by_name() -> None:
    far = "cuda" if torch.cuda.is_available() else "meta"
    with pytest.raises(WRONG, match="labels"):
        dk.margin(X, kind="label", labels=Y.to(far))
    with pytest.raises(WRONG, match="labels"):
        dk.scores(X, ["loss"], labels=Y.to(far))
    with pytest.raises(WRONG, match="class_distances"):
        dk.margin(X, kind="distance", class_distances=APART.to(far))
    with pytest.raises(WRONG, match="weight"):
        dk.linear_margin(FEATURES, WEIGHT.to(far))
    with pytest.raises(WRONG, match="bias"):
        dk.linear_margin(FEATURES, WEIGHT, BIAS.to(far))
    selector = dk.MarginSelector(6)
    with pytest.raises(WRONG, match="indices"):
        selector.update(torch.arange(6, device=far), torch.zeros(6))
    with pytest.raises(WRONG, match="margins"):
        selector.update(torch.arange(6), torch.zeros(6, device=far))


@pytest.mark.parametrize("width", [[3, 4], (3,), []], ids=str)
def test_several_widths_have_no_one_selection(width: Any) -> None:
    with pytest.raises(TypeError, match=r"width: got (list|tuple), want an int"):
        dk.linear_margin_topk(FEATURES, WEIGHT, 1, width=width)
