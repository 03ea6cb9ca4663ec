// The gap of every row from tiles of its logits that come in any order, in 8 bytes a row.
//
// A row's two largest logits so far are kept as ordered keys (order_key.h; 0, which is no logit's key, at first). A
// tile brings its own two, k1 >= k2:
//     before = first, first = max(first, k1);    second = max(second, min(before, k1), k2)
// each line one atomic step. Whatever the order: of all the tiles' k1 only the largest is never the lesser of its line,
// so every other is offered to `second`, as are all k2; and the second largest logit is one of these. The last tile of
// a row writes its score.
#pragma once

#include "../../common/order_key.h"
#include "../row_finish.cuh"
#include "tile_rows.cuh"

namespace dynams {

struct GapTask {
  // All zero at first: the keys (rows), and how many tiles have come (row tiles, warps of a tile).
  uint32_t *first, *second, *arrivals;
  float* scores;  // (rows)
  uint32_t class_tiles;
};

__device__ __forceinline__ float gap_of_keys(uint32_t first, uint32_t second) {
  // The last key's number is a NaN.
  return difference(float_from_bits(FloatKeys::bits(first)), float_from_bits(FloatKeys::bits(second)));
}

// A warp's part of a tile that starts at row `first_row` of the batch.
template <class Shape, class Element, class Logits>
__device__ __forceinline__ void merge_gap(const Logits& logits, const TileRange<Element>& range,
                                          const TilePlace<Shape>& place, int64_t first_row, const GapTask& task) {
  complete(logits, range, place);
  TopTwo<float> own;
  int own_row = range.rows;
#pragma unroll
  for (int row = 0; row < Shape::kRows; ++row) {
    const TopTwo<float> top = top_two<Shape>(logits, row);
    if (place.quad_lane() == row) own = top;
    if (place.quad_lane() == row) own_row = place.row(row);
  }
  wait_for_launch_before();  // it zeroes the words
  if (own_row < range.rows) {
    const uint32_t first = key_of(own.first), second = key_of(own.second);
    const uint32_t before = raise(task.first + first_row + own_row, first);
    const uint32_t loser = before < first ? before : first;
    raise(task.second + first_row + own_row, loser > second ? loser : second);
  }
  __syncwarp();
  uint32_t earlier = 0;
  if (place.lane == 0) earlier = arrive(task.arrivals + first_row / Shape::kTileRows * Shape::kWarps + place.warp);
  if (__shfl_sync(kWholeWarp, earlier, 0) + 1 != task.class_tiles) return;
  see_arrivals();
  __syncwarp();  // what the lane that counted sees, the others see now: an exchange orders no memory
  const int row = place.warp_row(place.lane);
  if (place.lane >= Shape::kWarpRows || row >= range.rows) return;
  task.scores[first_row + row] = gap_of_keys(fresh(task.first + first_row + row), fresh(task.second + first_row + row));
}

}  // namespace dynams
