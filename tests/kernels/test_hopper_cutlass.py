"""CUTLASS's side of the linear head's Hopper kernels, asked of CUTLASS itself: where it leaves the logits, what it takes of a block, which tiles it takes."""

from __future__ import annotations

import numpy as np
import pytest

import aot
import cuda_on_host
import hopper_cutlass
from hopper_cutlass import Facts
from hopper_on_host import TILE_ROWS, TILES

HEADERS = hopper_cutlass.header_folders()

pytestmark = [
    pytest.mark.skipif(cuda_on_host.compiler() is None, reason="needs a C++ compiler on Linux"),
    pytest.mark.skipif(HEADERS is None, reason="needs the headers of CUTLASS and CUDA"),
]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    assert HEADERS is not None
    return hopper_cutlass.build(tmp_path_factory.mktemp("hopper_cutlass"), HEADERS)


def test_every_register_is_taken_for_the_logit_that_it_holds(facts: Facts) -> None:
    for kernel, places in zip(facts.kernels(), facts.places(), strict=True):
        cutlass, taken_for = places[:, :, 0], places[:, :, 1]
        assert np.array_equal(cutlass, taken_for), kernel
        # Every place of the tile is in one register of one thread.
        flat = np.sort((cutlass[..., 0].astype(int) * kernel.columns + cutlass[..., 1]).ravel())
        assert np.array_equal(flat, np.arange(kernel.rows * kernel.columns)), kernel


def test_tilings_are_what_they_are_called_and_fit_a_block(facts: Facts) -> None:
    kernels = facts.kernels()
    assert {(k.number, k.rows, k.columns) for k in kernels} == {
        (number, TILE_ROWS, columns) for number, columns in TILES.values()
    }
    for kernel in kernels:
        # One warpgroup loads; of two others each has a tile, or both share one, 64 rows each.
        assert kernel.block_threads == 3 * 128, kernel
        assert kernel.threads == (256 if kernel.columns == 256 else 128), kernel
        assert kernel.cluster_blocks == 2, kernel
        stage = (kernel.rows + kernel.columns) * 64 * 2
        limit = aot.SHARED_MEMORY_LIMIT[90]
        assert kernel.stages * stage < kernel.shared_bytes <= limit, kernel
        assert kernel.shared_bytes + stage > limit, f"room for another stage: {kernel}"
        assert kernel.stages >= 4, kernel


def test_every_tile_is_taken_once_and_few_that_are_none(facts: Facts) -> None:
    heads = [
        (rows, classes, number)
        for rows in (1, 129, 300, 1100, 2049, 8192)
        for classes in (2, 257, 1000, 1100, 2560, 32_003)
        for number, _ in TILES.values()
    ]
    for (rows, classes, number), walk in zip(heads, facts.walks(heads), strict=True):
        case = (rows, classes, number)
        columns = list(TILES.values())[number][1]
        row_tiles, class_tiles = -(-rows // TILE_ROWS), -(-classes // columns)
        unit = 2 * walk.swizzle
        padded_rows = -(-row_tiles // unit) * unit
        padded_classes = -(-class_tiles // walk.swizzle) * walk.swizzle
        flat = np.sort(walk.places[:, 0] * padded_classes + walk.places[:, 1])
        assert np.array_equal(flat, np.arange(padded_rows * padded_classes)), case
        # A cluster alone may be ragged; a swizzle adds less than a hundredth to that.
        needed = -(-row_tiles // 2) * 2 * class_tiles
        assert (padded_rows * padded_classes - needed) * 100 < needed, case
        # The two blocks of a cluster share the weight's tile.
        first, second = walk.places[::2], walk.places[1::2]
        assert (first[:, 0] % 2 == 0).all(), case
        assert np.array_equal(second - first, np.tile([1, 0], (len(first), 1))), case


def test_a_wave_of_blocks_reads_few_tiles_of_both_operands(facts: Facts) -> None:
    (walk,) = facts.walks([(8192, 128_256, 0)])  # of a language model
    assert walk.swizzle == 8
    wave = walk.places[:128]
    assert [len(np.unique(wave[:, axis])) for axis in (0, 1)] == [16, 8]


SIXTEEN_BITS = (1, 6, 9)  # the driver's numbers of uint16, float16 and bfloat16


def test_slim_and_ragged_operands_are_described_to_tma(facts: Facts) -> None:
    # 250 columns of rows 256 and 264 elements apart.
    launch = facts.launch((4096, 8192), (300, 1000, 250), (256, 264), 132)
    columns = 144
    for operand, address, rows, step, box in (
        (launch.features, 4096, 300, 512, TILE_ROWS),
        (
            launch.weight,
            8192,
            1000,
            528,
            columns // 2,
        ),  # each block of a cluster loads half for both
    ):
        assert operand.type in SIXTEEN_BITS
        assert operand.swizzled
        assert operand.zero_filled
        assert operand.address == address
        assert operand.sizes == [250, rows, 1]
        assert operand.strides[1] == step
        assert operand.box == [64, box, 1]
    blocks = 2 * 2 * -(-1000 // columns)  # two clusters of row tiles
    assert int(np.prod(launch.grid)) == blocks


@pytest.mark.parametrize("refused", [None, 0, 1])
def test_operands_that_the_driver_refuses_are_noticed(facts: Facts, refused: int | None) -> None:
    addresses = [0 if operand == refused else 4096 for operand in (0, 1)]
    launch = facts.launch((addresses[0], addresses[1]), (300, 1000, 256), (256, 256), 132)
    assert launch.described == (refused != 0, refused != 1)


@pytest.mark.parametrize("multiprocessors", [132, 131, 114, 78])
def test_a_full_grid_has_a_block_for_every_pair_of_multiprocessors(
    facts: Facts, multiprocessors: int
) -> None:
    for shape in ((65_536, 1000, 1024), (8192, 128_256, 4096)):
        width = shape[2]
        launch = facts.launch((4096, 8192), shape, (width, width), multiprocessors)
        assert int(np.prod(launch.grid)) == multiprocessors // 2 * 2
