// All other scores of a row: every tile leaves the row's state over its classes, and a second launch merges these in
// the order of the classes. No atomics, so the sums have the same bits on every run.
//
// A state is the two largest logits and, for kinds with a softmax, the sums that row_accumulator.cuh defines: up to 20
// bytes a row and tile, written once and read once, against 256 for the logits of 128 classes in bfloat16.
#pragma once

#include "../row_finish.cuh"
#include "tile_rows.cuh"

namespace dynams {

struct StatesTask {
  const int64_t* labels;  // (rows) or null
  float* states;          // (floats_of_state(kinds), class tiles, rows)
  float* own;             // (rows): the label's logit, of rows whose label is a class
  uint32_t kinds;
  int64_t rows, classes, class_tiles;
  float* scores;
  int64_t scores_stride;
};

static inline __host__ __device__ int floats_of_state(uint32_t kinds) {
  return 2 + ((kinds & kSoftmaxKinds) != 0) + ((kinds & kEl2n) != 0) + ((kinds & kEntropy) != 0);
}

// The sums over a row of the quad relative to the *second* largest, without one of the largest, in all its lanes; then
// relative to the largest, which counts as the row's only tie (others are among the sums, where e = 1).
//
// The argument of exp2 is kept in [-2^14, 0] by a product that saturates: it holds 0 for the largest, which so counts
// as 1 and is taken off, and for -inf - -inf; and e = 0 times the argument is 0 also for logits of -inf.
template <class Shape, class Logits>
__device__ __forceinline__ RowState<float> sums_of_row(const Logits& logits, int row, TopTwo<float> top) {
  constexpr float kLog2e = 1.44269504088896341f, kLn2 = 0.693147180559945309f, kSpan = 16384.0f;
  float mass = 0, squares = 0, shifted = 0;
#pragma unroll
  for (int value = 0; value < Shape::kValues; ++value) {
    const float part = saturated_product(top.second - logits.at(row, value), kLog2e / kSpan);
    const float e = exp2_fast(part * -kSpan);
    mass += e;
    squares = fmaf(e, e, squares);
    shifted = fmaf(e, part, shifted);
  }
#pragma unroll
  for (int offset = 1; offset < 4; offset *= 2) {
    mass += __shfl_xor_sync(kWholeWarp, mass, offset);
    squares += __shfl_xor_sync(kWholeWarp, squares, offset);
    shifted += __shfl_xor_sync(kWholeWarp, shifted, offset);
  }
  mass -= 1.0f;
  squares -= 1.0f;
  shifted *= -kSpan * kLn2;
  const float shift = bounded_shift(difference(top.second, top.first));
  // Of nothing but -inf no sums are kept: the finished row tells it by its largest.
  const float scale = top.first == -infinity<float>() ? 0.0f : exp_of_shift(shift);
  return RowState<float>{top.first,
                         top.second,
                         1,
                         times(scale, mass),
                         times(times(scale, scale), squares),
                         times(scale, fmaf(shift, mass, shifted))};
}

// A warp's part of a tile that starts at row `first_row` of the batch and is the `class_tile`-th of its rows.
template <class Shape, class Element, class Logits>
__device__ __forceinline__ void leave_states(const Logits& logits, const TileRange<Element>& range,
                                             const TilePlace<Shape>& place, int64_t first_row, int64_t class_tile,
                                             const StatesTask& task) {
  // The lane's own row, and the column of its label in this tile, or -1.
  const int own_row = place.quad_lane() < Shape::kRows ? place.row(place.quad_lane()) : range.rows;
  int own_column = -1;
  if (task.labels != nullptr && own_row < range.rows) {
    const int64_t column = task.labels[first_row + own_row] - class_tile * Shape::kColumns;
    if (column >= 0 && column < Shape::kColumns) own_column = static_cast<int>(column);
  }
  complete(logits, range, place);
  if (__any_sync(kWholeWarp, own_column >= 0)) {
#pragma unroll
    for (int row = 0; row < Shape::kRows; ++row) {
      const int column = __shfl_sync(kWholeWarp, own_column, place.lane / 4 * 4 + row);
      const float own = pick<Shape::kValues>(logits, row, column / 8 * 2 + column % 2);
      if (column >= 0 && column % 8 / 2 == place.quad_lane()) task.own[first_row + place.row(row)] = own;
    }
  }
  RowState<float> state{};
#pragma unroll
  for (int row = 0; row < Shape::kRows; ++row) {
    const TopTwo<float> top = top_two<Shape>(logits, row);
    RowState<float> found{top.first, top.second, 1, 0, 0, 0};
    if (task.kinds & kSoftmaxKinds) found = sums_of_row<Shape>(logits, row, top);
    if (place.quad_lane() == row) state = found;
  }
  if (own_row >= range.rows) return;
  float* to = task.states + class_tile * task.rows + first_row + own_row;
  const int64_t step = task.class_tiles * task.rows;
  *to = state.largest;
  *(to += step) = state.second;
  if (task.kinds & kSoftmaxKinds) *(to += step) = state.mass;
  if (task.kinds & kEl2n) *(to += step) = state.mass_squares;
  if (task.kinds & kEntropy) *(to += step) = state.mass_shifted;
}

}  // namespace dynams
