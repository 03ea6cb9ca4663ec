"""How the linear kernels are cut for a device: tiles, shares of the classes, units of their loads, and what is compiled ahead."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynams_kernels import _device
from dynams_kernels._kinds import BIT, KINDS, mask_of

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from dynams_kernels._triton import linear
from dynams_kernels._triton.linear_configuration import (
    Burden,
    burden,
    configuration,
    descriptors_configuration,
    float32_precision,
    shared_limit,
    shares,
    slicing,
    slicing_widths,
    unit_of,
)
from dynams_kernels._triton.linear_rounding import MOST_BYTES, pays

CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
SHAPES = (
    [(65_536, 1024, classes) for classes in (2, 10, 17, 33, 65, 100, 129, 300, 1000)]
    + [(rows, 4096, 128_256) for rows in (1, 64, 128, 8192)]
    + [(1, 64, 1_000_000), (1000, 1, 10), (1000, 17, 1000)]
)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("size", "precision"), [(2, "ieee"), (4, "tf32"), (4, "ieee")])
@pytest.mark.parametrize("load", Burden)
def test_a_tile_fits_the_device(
    load: Burden, size: int, precision: str, capability: tuple[int, int]
) -> None:
    for rows, width, classes in SHAPES:
        chosen = configuration(rows, classes, width, size, precision, load, False, capability)
        assert chosen.shared_bytes(size) * chosen.programs <= shared_limit(capability)
        assert chosen.num_stages >= 2
        assert chosen.block_features >= 16
        assert chosen.block_classes >= 16


@pytest.mark.parametrize("capability", [(9, 0), (10, 0), (10, 3)])
@pytest.mark.parametrize("load", [Burden.TOP_TWO, Burden.SUMS, Burden.LABEL])
def test_a_tile_suits_the_copy_engine(load: Burden, capability: tuple[int, int]) -> None:
    for rows, width, classes in (*SHAPES, (256, 2048, 1000), (3, 40, 70)):
        chosen = descriptors_configuration(rows, classes, width, load, capability, 132)
        assert chosen.shared_bytes(2) * chosen.programs <= shared_limit(capability)
        assert chosen.num_stages >= 3
        assert 16 <= chosen.block_features <= 128
        assert max(chosen.block_rows, chosen.block_classes) <= 256


@pytest.mark.parametrize("load", [Burden.TOP_TWO, Burden.SUMS])
@pytest.mark.parametrize(("rows", "classes"), [(512, 1000), (256, 1000), (256, 100), (64, 8192)])
def test_a_head_of_few_tiles_is_cut_smaller(rows: int, classes: int, load: Burden) -> None:
    def programs(load: Burden, multiprocessors: int) -> int:
        chosen = descriptors_configuration(rows, classes, 2048, load, (9, 0), multiprocessors)
        blocks, tiles = -(-rows // chosen.block_rows), -(-classes // chosen.block_classes)
        return blocks * shares(blocks, tiles, chosen, 2048, 2, multiprocessors).splits

    # A program for each tile, all at once.
    assert programs(load, 132) == -(-rows // 64) * -(-classes // 32) <= 264
    # Those of more tiles, or that keep more, have the usual ones.
    assert programs(load, 2) <= -(-rows // 128) * -(-classes // 128)
    assert programs(Burden.LABEL, 132) <= -(-rows // 128) * -(-classes // 128)


def test_the_burden_is_that_of_what_a_sweep_keeps() -> None:
    loads = {
        "gap": Burden.TOP_TWO,
        "gap+distance": Burden.TOP_TWO,
        "probability": Burden.SUMS,
        "gap+loss+entropy": Burden.SUMS,
        "gap+label": Burden.SUMS,
        "label": Burden.LABEL,
        "distance": Burden.DISTANCES,
    }
    for kinds, load in loads.items():
        assert burden(mask_of(kinds.split("+")), False, 1) == load, kinds
    assert burden(BIT["gap"], True, 1) == Burden.LABEL
    assert burden(BIT["label"], False, 2) == Burden.WIDTHS
    assert burden(BIT["loss"], False, 2) == Burden.WIDTHS_SUMS


@pytest.mark.parametrize("multiprocessors", [1, 108, 132])
def test_every_class_tile_has_one_program_a_row_block(multiprocessors: int) -> None:
    for rows, width, classes in SHAPES:
        chosen = configuration(rows, classes, width, 2, "ieee", Burden.TOP_TWO, False, (9, 0))
        blocks, tiles = -(-rows // chosen.block_rows), -(-classes // chosen.block_classes)
        dealt = shares(blocks, tiles, chosen, width, 2, multiprocessors)
        assert (dealt.splits - 1) * dealt.tiles_per_split < tiles
        assert dealt.splits * dealt.tiles_per_split >= tiles
        assert 1 <= dealt.group_blocks <= blocks


def test_few_rows_are_split_over_the_device() -> None:
    chosen = configuration(128, 128_256, 4096, 2, "ieee", Burden.TOP_TWO, False, (9, 0))
    dealt = shares(1, -(-128_256 // chosen.block_classes), chosen, 4096, 2, 132)
    assert dealt.splits >= 100


def test_a_large_weight_is_read_few_times() -> None:
    # The row blocks of a group walk it together; their features must stay in the cache meanwhile.
    for rows, classes in [(8192, 128_256), (65_536, 32_000)]:
        chosen = configuration(rows, classes, 4096, 2, "ieee", Burden.TOP_TWO, False, (9, 0))
        blocks, tiles = -(-rows // chosen.block_rows), -(-classes // chosen.block_classes)
        dealt = shares(blocks, tiles, chosen, 4096, 2, 132)
        assert 12 <= dealt.group_blocks <= 36


def test_a_small_change_of_shape_is_no_other_kernel() -> None:
    for classes in (900, 1000):
        chosen = configuration(60_000, classes, 1000, 2, "ieee", Burden.TOP_TWO, False, (9, 0))
        assert chosen == configuration(65_536, 1000, 1024, 2, "ieee", Burden.TOP_TWO, False, (9, 0))


def test_units_are_powers_of_two() -> None:
    assert [unit_of(size) for size in (1, 2, 12, 40, 48, 1024)] == [1, 2, 4, 8, 16, 16]
    assert unit_of(256, 24) == 8
    assert unit_of(0, 0) == 16
    assert slicing(96, 32, 2) == {"MASKED": False, "PEELED": False, "WIDTH_UNIT": 16}
    assert slicing(40, 32, 2) == {"MASKED": True, "PEELED": False, "WIDTH_UNIT": 8}
    assert slicing(41, 32, 2) == {"MASKED": False, "PEELED": True, "WIDTH_UNIT": 1}
    assert slicing(31, 32, 2) == {"MASKED": True, "PEELED": False, "WIDTH_UNIT": 1}
    assert not slicing_widths([64, 128], 64)["MASKED"]
    assert slicing_widths([60, 128], 64)["MASKED"]


@pytest.mark.parametrize(
    ("setting", "precision"), [("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")]
)
def test_float32_products_follow_torchs_setting(setting: str, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(setting)
        assert float32_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("rows", "width", "classes", "wanted"),
    [
        (16_384, 1024, 1000, True),
        (65_536, 1024, 100, True),
        (4096, 4096, 1000, True),
        (4096, 512, 1000, False),  # the launch would cost more than it saves
        (1024, 4096, 1000, False),  # reading and writing the weight would
        (65_536, 4096, 10, False),  # bound by reading the features
        (8192, 4096, 128_256, False),  # more scratch than is promised
    ],
)
def test_a_weight_is_rounded_first_where_that_pays(
    rows: int, width: int, classes: int, wanted: bool
) -> None:
    assert pays(rows, classes, width) is wanted


@given(rows=st.integers(1, 1 << 24), width=st.integers(1, 1 << 16), classes=st.integers(2, 1 << 20))
def test_a_rounded_weight_takes_little_memory(rows: int, width: int, classes: int) -> None:
    bytes_of_rows = 4 * -(-width // 16) * 16
    if pays(rows, classes, width):
        assert classes * bytes_of_rows <= min(MOST_BYTES, rows * bytes_of_rows)


def test_shipped_kernels_are_told_apart_and_complete() -> None:
    kernels = linear.shipped()
    assert len({kernel.name for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        constants = {name for name, kind in kernel.signature.items() if kind == "constexpr"}
        assert constants == set(kernel.constexprs), kernel.name


# ------------------------------------------------------------------------------------ what descriptors can load


def _matrix(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.zeros(rows, columns, dtype=dtype)


_WIDE = _matrix(5, 32)
OPERANDS: dict[str, tuple[Tensor, Tensor, bool]] = {
    "rows of 32": (_WIDE, _matrix(9, 32), True),
    "rows of 32, 9 of them used": (_WIDE[:, :9], _matrix(9, 32)[:, :9], True),
    "every second row": (_matrix(10, 32)[::2], _WIDE, True),
    "rows of 31": (_WIDE[:, :31], _matrix(9, 31), False),
    "the second column on": (_WIDE[:, 1:17], _matrix(9, 16), False),
    "the ninth column on": (_WIDE[:, 8:24], _matrix(9, 16), True),
    "transposed": (_matrix(16, 32).t(), _matrix(9, 16), False),
    "expanded": (_WIDE, _matrix(1, 32).expand(9, 32), False),
    "float32": (_matrix(5, 16, torch.float32), _matrix(9, 16, torch.float32), False),
    "negated": (_matrix(5, 16, torch.float16)._neg_view(), _matrix(9, 16, torch.float16), False),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_descriptors_can_load_rows_that_begin_at_16_bytes(name: str) -> None:
    features, weight, served = OPERANDS[name]
    gap = BIT["gap"]
    assert linear.describable(features, weight, [weight.shape[1]], gap, False) is served
    if not served:
        with pytest.raises(ValueError, match='loads: got "descriptors", want "pointers"'):
            linear.linear_scores(
                features,
                weight,
                None,
                None,
                None,
                [weight.shape[1]],
                gap,
                False,
                loads="descriptors",
            )


def test_descriptors_serve_one_width_of_any_kinds_but_distance() -> None:
    operands = _WIDE, _matrix(9, 32)
    everything = mask_of(KINDS)
    assert linear.describable(*operands, [32], everything & ~BIT["distance"], False)
    assert not linear.describable(*operands, [32], everything, False)
    assert not linear.describable(*operands, [32], BIT["gap"], True)
    assert not linear.describable(*operands, [16, 32], BIT["gap"], False)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_descriptors_need_a_copy_engine(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_device, "capability", lambda _: capability)
    served = linear.describable(_WIDE, _matrix(9, 32), [32], BIT["gap"], False)
    assert served == (capability in ((9, 0), (10, 0)))
