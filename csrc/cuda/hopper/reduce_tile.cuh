// What happens to a finished tile of logits: the one end of every tile, whichever reduction it is. Without CUTLASS, so
// that the tests run it on a CPU as it is.
#pragma once

#include <type_traits>

#include "aside.cuh"
#include "gap.cuh"
#include "states.cuh"

namespace dynams {

// The logits of a lane by row of its quad and place in the row. `accumulators`: by register of a 64-row product, and
// product.
template <class Accumulators>
struct WgmmaLogits {
  Accumulators& accumulators;

  __device__ __forceinline__ float& at(int row, int value) const {
    return accumulators(value % 2 + 2 * (row % 2) + 4 * (value / 2), row / 2, 0);
  }
};

// Whether a warp of those that load has a part in the ends of tiles: aside.cuh.
template <class Shape, class Task>
constexpr bool kHasAside = Shape::kGroups == 2 && std::is_same_v<Task, GapTask>;

// `rows_left`, `classes_left`: from the tile's first row and class on to the last of all, if any. `thread`: of those
// that share the tile.
template <class Shape, class Element, class Task, class Accumulators>
__device__ __forceinline__ void reduce_tile(Accumulators& accumulators, int64_t row_tile, int64_t class_tile,
                                            int rows_left, int classes_left, const Element* bias, int thread,
                                            const Task& task) {
  // The scheduler rounds the tiles up to whole swizzles and clusters.
  if (rows_left <= 0 || classes_left <= 0) return;
  const TileRange<Element> range{rows_left, classes_left,
                                 bias == nullptr ? nullptr : bias + class_tile * Shape::kColumns};
  const WgmmaLogits<Accumulators> logits{accumulators};
  const TilePlace<Shape> place(thread);
  const int64_t first_row = row_tile * Shape::kTileRows;
  if constexpr (std::is_same_v<Task, GapTask>) merge_gap<Shape>(logits, range, place, first_row, task);
  else leave_states<Shape>(logits, range, place, first_row, class_tile, task);
}

// The same where a warp has a part in it: that of the warpgroups, and that of the warp.
template <class Shape, class Accumulators>
__device__ __forceinline__ void end_tile(Accumulators& accumulators, int rows_left, int classes_left, int thread,
                                         bool apart, Aside<Shape>& aside) {
  if (rows_left <= 0 || classes_left <= 0) return;
  leave_keys(WgmmaLogits<Accumulators>{accumulators}, classes_left, thread, apart, aside);
}
template <class Shape, class Element>
__device__ __forceinline__ void attend_tile(int64_t row_tile, int64_t class_tile, int rows_left, int classes_left,
                                            const Element* bias, int lane, Aside<Shape>& aside, const GapTask& task) {
  if (rows_left <= 0 || classes_left <= 0) return;
  merge_keys(row_tile * Shape::kTileRows, rows_left, classes_left,
             bias == nullptr ? nullptr : bias + class_tile * Shape::kColumns, lane, aside, task);
}

}  // namespace dynams
