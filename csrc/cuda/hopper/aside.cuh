// The gap of tiles that two warpgroups share, whose end nothing hides: the warpgroups do arithmetic alone, and a warp
// of those that load does aside what waits for memory.
//
// That warp places the bias of a tile's classes in shared memory before the tile's end. The warpgroups leave there two
// keys a row, and go on to the next tile; meanwhile the warp takes the keys further as gap.cuh has it.
//
// The warpgroups end their tiles one after the other, so that the other has the tensor cores to itself: put off once,
// at the first tile, they stay apart by the length of an end, as far as shared memory holds operands for both.
#pragma once

#include "gap.cuh"

namespace dynams {

struct RowKeys {
  uint32_t first, second;
};

// In shared memory. It is whole patterns of the operands' swizzle, as what lies behind it starts with one.
template <class Shape>
struct alignas(1024) Aside {
  float bias[Shape::kColumns];
  RowKeys keys[Shape::kTileRows];
};

struct alignas(8) TwoFloats {
  float low, high;
};

// Barriers of a block, past CUTLASS's own. The first two: by warpgroup, between it and the warp aside; the bias is
// placed, and the keys of the tile before are taken; the keys are left. The last: one warpgroup has ended.
constexpr int kPlacedBarrier = 8, kLeftBarrier = 10, kApartBarrier = 12;
constexpr int kGroupThreads = 128, kGroupAndWarp = kGroupThreads + kWarpLanes;

// The two largest in both rows of a quad, of columns [kBegin, kBegin + kCount). In whole tiles without a branch, so
// that the additions find room between the comparisons, of which only every second cycle starts one.
template <int kBegin, int kCount, bool kWhole, class Shape, class Logits>
__device__ __forceinline__ void add_columns(const Logits& logits, const TilePlace<Shape>& place, const float* bias,
                                            int classes, TopTwo<float> (&tops)[2]) {
  if (!kWhole && classes < kBegin + kCount) {
    if (classes <= kBegin) return;
#pragma unroll
    for (int value = kBegin / 4; value < (kBegin + kCount) / 4; ++value) {
      const bool is_class = place.column(value) < classes;
#pragma unroll
      for (int row = 0; row < 2; ++row) logits.at(row, value) = is_class ? logits.at(row, value) : -infinity<float>();
    }
  }
#pragma unroll
  for (int value = kBegin / 4; value < (kBegin + kCount) / 4; value += 2) {
    const TwoFloats two = *reinterpret_cast<const TwoFloats*>(bias + place.column(value));
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      tops[row].add(logits.at(row, value) + two.low);
      tops[row].add(logits.at(row, value + 1) + two.high);
    }
  }
}

__device__ __forceinline__ void add_from_lane(TopTwo<float>& own, TopTwo<float> other, int offset) {
  other.first = __shfl_xor_sync(kWholeWarp, other.first, offset);
  other.second = __shfl_xor_sync(kWholeWarp, other.second, offset);
  own.second = greater(greater(own.second, other.second), lesser(own.first, other.first));
  own.first = max_nan(own.first, other.first);
}

// A warpgroup's end of a tile. `apart`: whether its ends come after the other's from here on.
template <class Shape, class Logits>
__device__ __forceinline__ void leave_keys(const Logits& logits, int classes, int thread, bool apart,
                                           Aside<Shape>& aside) {
  static_assert(Shape::kRows == 2 && Shape::kGroups == 2 && Shape::kColumns == 256,
                "two rows of a quad; four quarters");
  const TilePlace<Shape> place(thread);
  const int group = thread / kGroupThreads;
  if (apart && group == 1) meet(kApartBarrier, 2 * kGroupThreads);
  meet(kPlacedBarrier + group, kGroupAndWarp);
  TopTwo<float> tops[2];
  if (classes >= Shape::kColumns) {
    add_columns<0, 256, true>(logits, place, aside.bias, classes, tops);
  } else {
    add_columns<0, 64, false>(logits, place, aside.bias, classes, tops);
    add_columns<64, 64, false>(logits, place, aside.bias, classes, tops);
    add_columns<128, 64, false>(logits, place, aside.bias, classes, tops);
    add_columns<192, 64, false>(logits, place, aside.bias, classes, tops);
  }
  // Of two neighbouring lanes each gives one row away.
  const bool odd = place.lane % 2 != 0;
  TopTwo<float> own = odd ? tops[1] : tops[0];
  add_from_lane(own, odd ? tops[0] : tops[1], 1);
  add_from_lane(own, own, 2);
  if (place.quad_lane() < 2) aside.keys[place.row(place.quad_lane())] = {key_of(own.first), key_of(own.second)};
  announce(kLeftBarrier + group, kGroupAndWarp);
  if (apart && group == 0) announce(kApartBarrier, 2 * kGroupThreads);
}

// What the warp aside does about a tile. `rows` and `classes`: in range, from the tile's first on. `bias`: of the
// tile's first class, or null.
template <class Shape, class Element>
__device__ __forceinline__ void merge_keys(int64_t first_row, int rows, int classes, const Element* bias, int lane,
                                           Aside<Shape>& aside, const GapTask& task) {
#pragma unroll
  for (int column = lane; column < Shape::kColumns; column += kWarpLanes)
    aside.bias[column] = bias != nullptr && column < classes ? widen(bias[column]) : 0.0f;
  __syncwarp();
  announce(kPlacedBarrier, kGroupAndWarp);
  announce(kPlacedBarrier + 1, kGroupAndWarp);
  wait_for_launch_before();  // it zeroes the words
  constexpr int kGroupRows = Shape::kTileRows / 2, kParts = kGroupRows / kWarpLanes;
#pragma unroll 1
  for (int group = 0; group < 2; ++group) {
    meet(kLeftBarrier + group, kGroupAndWarp);
    RowKeys keys[kParts];
    uint32_t before[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int row = kGroupRows * group + kWarpLanes * part + lane;
      keys[part] = aside.keys[row];
      before[part] = row < rows ? raise(task.first + first_row + row, keys[part].first) : 0;
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int row = kGroupRows * group + kWarpLanes * part + lane;
      const uint32_t loser = before[part] < keys[part].first ? before[part] : keys[part].first;
      if (row < rows) raise(task.second + first_row + row, loser > keys[part].second ? loser : keys[part].second);
    }
  }
  __syncwarp();
  uint32_t earlier = 0;
  if (lane == 0) earlier = arrive(task.arrivals + first_row / Shape::kTileRows);
  if (__shfl_sync(kWholeWarp, earlier, 0) + 1 != task.class_tiles) return;
  see_arrivals();
  __syncwarp();  // as in merge_gap()
  for (int row = lane; row < Shape::kTileRows && row < rows; row += kWarpLanes)
    task.scores[first_row + row] =
        gap_of_keys(fresh(task.first + first_row + row), fresh(task.second + first_row + row));
}

}  // namespace dynams
