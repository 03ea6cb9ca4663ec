"""Who scores a linear head on a GPU: which operands the Hopper kernel takes, the table's choice, and what the kernel is called with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from dynams_kernels._backends import gpu as gpu_module
from dynams_kernels._backends import native_cuda
from dynams_kernels._backends.gpu import Gpu, Served
from dynams_kernels._backends.linear_choice import CANDIDATES, HOPPER_TILES, Candidate, choose
from dynams_kernels._kinds import BIT, mask_of

GAP = BIT["gap"]
TRAINING = mask_of(["loss", "entropy", "gap"])
TRITON: tuple[Candidate, ...] = ("triton descriptors", "triton pointers", "eager")
H100 = 132  # multiprocessors


def tiles_in_columns(candidate: Candidate, classes: int) -> int:
    columns = 128 if candidate in TRITON else int(candidate.rpartition("x")[2])
    return -(-classes // columns) * columns


# ------------------------------------------------------------------------------------ the table


@given(
    rows=st.integers(1, 1 << 20),
    classes=st.integers(2, 1 << 20),
    width=st.integers(1, 1 << 14),
    kinds=st.integers(1, (1 << 9) - 1),
    others=st.sets(st.sampled_from(CANDIDATES)),
)
def test_only_a_candidate_that_can_serve_is_chosen(
    rows: int, classes: int, width: int, kinds: int, others: set[Candidate]
) -> None:
    head = (rows, classes, width, kinds, H100)
    assert choose(*head, {*others, "eager"}) in {*others, "eager"}
    # Plain torch is the last resort, but for distances of many classes.
    chosen = choose(*head, {*others, "triton pointers", "eager"})
    assert chosen != "eager" or (kinds & BIT["distance"] and classes > 128)


@given(classes=st.integers(256, 300_000), kinds=st.sampled_from([GAP, TRAINING]))
def test_large_heads_go_to_a_tiling_that_wastes_little(classes: int, kinds: int) -> None:
    chosen = choose(65_536, classes, 1024, kinds, H100, CANDIDATES)
    assert chosen in (*HOPPER_TILES, "triton descriptors")
    least = min(tiles_in_columns(tile, classes) for tile in HOPPER_TILES)
    assert tiles_in_columns(chosen, classes) <= 1.2 * least


@given(
    row_tiles=st.integers(1, 64),
    class_tiles=st.integers(2, 200),
    width=st.sampled_from([512, 4096]),
)
def test_no_tiling_that_would_end_in_much_fewer_rounds_is_passed_over(
    row_tiles: int, class_tiles: int, width: int
) -> None:
    rows, classes = 256 * row_tiles, 128 * class_tiles
    assume(rows * classes >= 1 << 21)

    def columns_of_the_busiest(tile: Candidate) -> int:
        columns = int(tile.rpartition("x")[2])
        return -(-2 * row_tiles * -(-classes // columns) // H100) * columns

    chosen = choose(rows, classes, width, TRAINING, H100, tuple(HOPPER_TILES))
    assert columns_of_the_busiest(chosen) <= 1.2 * min(map(columns_of_the_busiest, HOPPER_TILES))


@pytest.mark.parametrize(
    ("rows", "classes", "width"),
    [
        (65_536, 10, 1024),  # bound by reading the features
        (65_536, 100, 1024),
        (64, 1_000_000, 4096),  # bound by reading the weight
        (1024, 1000, 1024),  # fewer tiles than multiprocessors
        (65_536, 1000, 64),  # the product is too short to hide a reduction behind
    ],
)
def test_heads_that_the_compiled_kernel_is_not_made_for_go_to_triton(
    rows: int, classes: int, width: int
) -> None:
    assert choose(rows, classes, width, GAP, H100, CANDIDATES).startswith("triton")


@pytest.mark.parametrize("kinds", [GAP, TRAINING])
@pytest.mark.parametrize("classes", [10, 1000])
def test_products_without_tensor_cores_are_torchs(classes: int, kinds: int) -> None:
    sizes = (4096, classes, 1024, kinds, H100)
    assert choose(*sizes, CANDIDATES, tensor_cores=False) == "eager"
    assert choose(*sizes, CANDIDATES) != "eager"


def test_each_reduction_wants_a_product_that_hides_it() -> None:
    assert choose(65_536, 1000, 512, GAP, H100, CANDIDATES) in HOPPER_TILES
    assert choose(65_536, 1000, 384, GAP, H100, CANDIDATES) in TRITON  # it waits for atomics
    assert choose(65_536, 1000, 384, TRAINING, H100, CANDIDATES) in HOPPER_TILES
    assert choose(65_536, 1000, 320, TRAINING, H100, CANDIDATES) in TRITON


@pytest.mark.parametrize(
    ("rows", "classes", "want"),
    [
        (65_536, 1000, "eager"),
        (256, 1000, "eager"),
        (65_536, 129, "eager"),
        (4096, 257, "triton pointers"),
        (65_536, 128, "triton pointers"),
    ],
)
def test_distances_of_more_classes_than_a_tile_go_through_torchs_product(
    rows: int, classes: int, want: Candidate
) -> None:
    for kinds in (BIT["distance"], BIT["distance"] | GAP):
        assert choose(rows, classes, 1024, kinds, H100, TRITON) == want
        without = choose(rows, classes, 1024, kinds, H100, ["triton pointers"])
        assert without == "triton pointers"


# ------------------------------------------------------------------------------------ what the compiled kernel takes


def matrix(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.zeros(rows, columns, dtype=dtype)


# The name of a case, features, weight, widths, and whether TMA can describe them.
LAYOUTS: dict[str, tuple[Tensor, Tensor, tuple[int, ...], bool]] = {
    "plain": (matrix(6, 64), matrix(5, 64), (64,), True),
    "float16": (matrix(6, 64, torch.float16), matrix(5, 64, torch.float16), (64,), True),
    "a slim width": (matrix(6, 64), matrix(5, 64), (50,), True),
    "features as slim as the width": (matrix(6, 56)[:, :50], matrix(5, 64), (50,), True),
    "one row": (matrix(1, 64), matrix(5, 64), (50,), True),
    "one row, shorter than a multiple": (matrix(1, 50), matrix(5, 64), (50,), False),
    "no rows": (matrix(0, 64), matrix(5, 64), (64,), True),
    "float32": (matrix(6, 64, torch.float32), matrix(5, 64, torch.float32), (64,), False),
    "two widths": (matrix(6, 64), matrix(5, 64), (32, 64), False),
    "features transposed": (matrix(64, 6).T, matrix(5, 64), (64,), False),
    "weight transposed": (matrix(6, 64), matrix(64, 5).T, (64,), False),
    "rows at odd places": (matrix(6, 50), matrix(5, 64), (50,), False),
    "weight rows at odd places": (matrix(6, 64), matrix(5, 66), (64,), False),
    "a base at an odd place": (matrix(6, 72)[:, 1:65], matrix(5, 64), (64,), False),
    "one row for all": (matrix(1, 64).expand(6, 64), matrix(5, 64), (64,), False),
    "more tiles than are counted": (
        torch.empty(2**24, 256, dtype=torch.bfloat16, device="meta"),
        torch.empty(2**21, 256, dtype=torch.bfloat16, device="meta"),
        (256,),
        False,
    ),
    "a flipped sign": (torch._neg_view(matrix(6, 64)), matrix(5, 64), (64,), False),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_compiled_kernel_serves_what_tma_can_describe(name: str) -> None:
    features, weight, widths, can = LAYOUTS[name]
    native = native_cuda.NativeCuda(SimpleNamespace())  # type: ignore[arg-type]
    assert native.serves_linear(features, weight, widths, GAP, False) is can
    assert not native.serves_linear(features, weight, widths, GAP, True)  # pairs
    assert not native.serves_linear(features, weight, widths, GAP | BIT["distance"], False)


class Module:
    """The compiled module's place: notes calls and what scratch they are given, writes nothing."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def linear_scores(self, *arguments: Any) -> None:
        self.made.append(arguments)


class Triton:
    """Triton's place: notes how it is asked to load."""

    def __init__(self) -> None:
        self.descriptors: list[bool] = []

    def describable(self, *operands: Any) -> bool:
        return True

    def linear_scores(self, *operands: Any, descriptors: bool) -> tuple[Tensor, Tensor]:
        self.descriptors.append(descriptors)
        return torch.zeros(1, 1, len(operands[0])), torch.zeros(0, 2)


def gpu_of(native: bool, triton: bool, native_linear: bool = True) -> tuple[Gpu, Module, Triton]:
    """The backends of a GPU whose device is that of the CPU's tensors, -1."""
    module, by_triton = Module(), Triton()
    gpu = Gpu(None, None, "auto")
    gpu._served[-1] = Served(
        native_cuda.NativeCuda(module) if native else None,  # type: ignore[arg-type]
        by_triton if triton else None,  # type: ignore[arg-type]
        native and native_linear,
    )
    return gpu, module, by_triton


def test_the_candidates_are_those_of_the_installation_the_device_and_the_operands() -> None:
    plain, strided = (matrix(6, 64), matrix(5, 64)), (matrix(6, 64), matrix(64, 5).T)
    rest = ([64], GAP, False)
    assert gpu_of(True, True)[0].serves(-1).linear_candidates(*plain, *rest) == CANDIDATES
    assert gpu_of(True, True)[0].serves(-1).linear_candidates(*strided, *rest) == TRITON
    assert gpu_of(True, True, False)[0].serves(-1).linear_candidates(*plain, *rest) == TRITON
    assert gpu_of(False, True)[0].serves(-1).linear_candidates(*plain, *rest) == TRITON
    assert gpu_of(True, False)[0].serves(-1).linear_candidates(*plain, *rest) == (
        *HOPPER_TILES,
        "eager",
    )
    assert gpu_of(False, False)[0].serves(-1).linear_candidates(*plain, *rest) == ("eager",)
    wide = (plain[0].double(), plain[1].double())
    assert gpu_of(True, True)[0].serves(-1).linear_candidates(*wide, *rest) == ("eager",)


def test_widths_whose_widest_the_compiled_kernel_serves_go_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_cuda, "raw_stream", lambda device: 0)
    monkeypatch.setattr(gpu_module, "multiprocessors", lambda tensor: 132)
    operands = (matrix(6, 64), matrix(5, 64), None, None, None, [16, 32, 64], GAP)
    by_width: dict[int, Candidate] = {}
    monkeypatch.setattr(
        gpu_module,
        "choose",
        lambda rows, classes, width, *rest, tensor_cores: by_width.get(width, "eager"),
    )
    by_width |= {16: "hopper 128x144", 32: "hopper 128x256", 64: "hopper 128x256"}
    gpu, module, triton = gpu_of(True, True)
    scores, _ = gpu.linear_scores(*operands, False)
    assert scores.shape == (1, 3, 6)
    assert [(call[9], call[13]) for call in module.made] == [(16, 0), (32, 2), (64, 2)]
    assert not triton.descriptors
    # A narrow one goes where it is the fastest.
    by_width |= {16: "triton pointers"}
    gpu, module, triton = gpu_of(True, True)
    assert gpu.linear_scores(*operands, False)[0].shape == (1, 3, 6)
    assert [(call[9], call[13]) for call in module.made] == [(32, 2), (64, 2)]
    assert triton.descriptors == [False]
    # One pass for pairs of classes, for a widest that another kernel is faster for, and for more columns than it is slower by.
    about = operands[:2]
    assert gpu._are_faster_apart(*about, [16, 32, 64], GAP, False)
    assert not gpu._are_faster_apart(*about, [16, 32, 64], GAP, True)
    assert not gpu._are_faster_apart(*about, [64], GAP, False)
    assert not gpu._are_faster_apart(*about, [16, 32, 50, 64], GAP, False)
    by_width |= {64: "triton descriptors"}
    gpu, module, triton = gpu_of(True, True)
    gpu.linear_scores(*operands, False)
    assert (module.made, triton.descriptors) == ([], [True])


def test_a_candidate_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_cuda, "raw_stream", lambda device: 7000 + device)
    gpu, module, triton = gpu_of(True, True)
    bias = torch.zeros(6, dtype=torch.bfloat16)[1:]
    labels = torch.zeros(12, dtype=torch.int64)[::2]
    features, weight = matrix(6, 64), matrix(5, 72)
    operands = (features, weight, bias, labels, None, [50])
    for name, number in HOPPER_TILES.items():
        scores, pairs = gpu.linear_scores(*operands, TRAINING, False, by=name)
        assert (scores.shape, scores.dtype, pairs) == ((3, 1, 6), torch.float32, None)
        call = module.made.pop()
        assert call[:4] == (features.data_ptr(), 64, weight.data_ptr(), 72)
        # Two of the bias are read at a time, labels one after the other: copies, where they lie otherwise.
        assert call[4] not in (0, bias.data_ptr())
        assert call[4] % 4 == 0
        assert call[5] not in (0, labels.data_ptr())
        assert call[6:14] == (3, 6, 5, 50, TRAINING, scores.data_ptr(), 6, number)
        assert call[14](12).dtype == torch.bfloat16
        assert call[15:] == (-1, 6999)
    gpu.linear_scores(*operands, GAP, False, by="hopper 128x192")
    assert module.made.pop()[5] == 0, "labels that no kind asks for are not read"
    gpu.linear_scores(*operands, GAP, False, by="triton descriptors")
    gpu.linear_scores(*operands, GAP, False, by="triton pointers")
    assert triton.descriptors == [True, False]


def test_float32_goes_by_the_setting_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    precision = torch.get_float32_matmul_precision()
    features, weight = torch.randn(6, 16), torch.randn(300, 16)
    asked = ([16], GAP)
    try:
        for _ in range(2):
            for setting, want in (("highest", "eager"), ("high", "triton pointers")):
                torch.set_float32_matmul_precision(setting)
                gpu, _, triton = gpu_of(True, True)
                monkeypatch.setattr(triton, "describable", lambda *operands: False)
                for _ in range(2):
                    assert gpu.linear_choice(features, weight, *asked, False) == want
                # The classes themselves: plain torch sorts for them.
                assert gpu.linear_choice(features, weight, *asked, True) == "triton pointers"
        torch.set_float32_matmul_precision("highest")
        assert gpu.linear_choice(features, weight, *asked, False) == "eager"
        gpu._choice = "triton"
        gpu._chosen.clear()
        assert gpu.linear_choice(features, weight, *asked, False) == "triton pointers"
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("keeps", [True, False])
def test_distances_go_through_torchs_product_only_where_it_need_not_round(
    keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_module, "keeps_logits", lambda features: keeps)
    asked = (matrix(300, 64), matrix(2000, 64), [64], BIT["distance"])
    gpu, _, triton = gpu_of(True, True)
    monkeypatch.setattr(triton, "describable", lambda *operands: False)
    assert gpu.linear_choice(*asked, False) == ("eager" if keeps else "triton pointers")
    assert gpu.linear_choice(*asked, True) == "triton pointers"  # the classes themselves
    gpu._choice = "triton"
    gpu._chosen.clear()
    assert gpu.linear_choice(*asked, False) == "triton pointers"
    assert gpu_of(False, False)[0].linear_choice(*asked, False) == "eager"


def test_no_rows_take_no_launch() -> None:
    gpu, module, _ = gpu_of(True, True)
    operands = (matrix(0, 64), matrix(5, 64), None, None, None, [64])
    scores, _ = gpu.linear_scores(*operands, GAP, False, by="hopper 128x192")
    assert scores.shape == (1, 1, 0)
    assert module.made == []


def test_a_call_goes_where_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_cuda, "raw_stream", lambda device: 7000 + device)
    gpu, module, triton = gpu_of(True, True)
    gpu.linear_scores(matrix(8192, 512), matrix(2048, 512), None, None, None, [512], GAP, False)
    assert len(module.made) == 1
    assert module.made[0][13] in HOPPER_TILES.values()
    gpu.linear_scores(matrix(8192, 256), matrix(10, 256), None, None, None, [256], GAP, False)
    assert (len(module.made), triton.descriptors) == (1, [False])
    # The same shape again, in a layout that the compiled kernel cannot take.
    strided = matrix(512, 8192).T
    for _ in range(2):
        gpu.linear_scores(strided, matrix(300, 512), None, None, None, [512], GAP, False)
        gpu.linear_scores(matrix(8192, 512), matrix(2048, 512), None, None, None, [512], GAP, False)
    assert (len(module.made), len(triton.descriptors)) == (3, 3)
