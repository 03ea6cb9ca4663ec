// A tile of logits as wgmma leaves it in registers, and what a warp learns of its rows there: no logit is stored.
//
// A warpgroup's products are 64 rows high. Of each, a warp has 16 rows, and a row is spread over four neighbouring
// lanes (a quad): of every 8 columns a lane holds 2 neighbours, in two rows that are 8 apart ("Register Fragments for
// wgmma.mma_async.m64nNk16" in the PTX manual). A tile of 128 rows is two such products of one warpgroup, or one of
// each of two. So a quad has four rows or two, and after a reduction over its lanes each lane takes one of them
// further.
#pragma once

#include <type_traits>

#include "../row_accumulator.cuh"
#include "device.cuh"
#include "linear_head.h"

namespace dynams {

// The tile's shape: 64-row products of a warpgroup, warpgroups that share the tile, columns.
template <int kProducts_, int kGroups_, int kColumns_>
struct TileShape {
  static constexpr int kProducts = kProducts_, kGroups = kGroups_, kColumns = kColumns_;
  static constexpr int kTileRows = 64 * kProducts * kGroups;
  static constexpr int kWarps = 4 * kGroups;
  static constexpr int kRows = 2 * kProducts;   // of a quad
  static constexpr int kValues = kColumns / 4;  // of a row, in a lane
  static constexpr int kWarpRows = 8 * kRows;   // of a warp
  static_assert(kRows <= 4 && kColumns % 8 == 0, "a row for a lane");
};

// Ping-pong: two products of one warpgroup; cooperative: one of each of two.
template <HeadTile kTile>
using ShapeOf = TileShape<kTile == HeadTile::k128x256 ? 1 : 2, kTile == HeadTile::k128x256 ? 2 : 1,
                          kHeadTileClasses[static_cast<int>(kTile)]>;

// Calls `work` with the tiling of that number, as a constant.
template <class Work>
auto for_tile(HeadTile tile, Work work) {
  switch (tile) {
    case HeadTile::k128x144:
      return work(std::integral_constant<HeadTile, HeadTile::k128x144>{});
    case HeadTile::k128x192:
      return work(std::integral_constant<HeadTile, HeadTile::k128x192>{});
    default:
      return work(std::integral_constant<HeadTile, HeadTile::k128x256>{});
  }
}

// Where a thread of those that share a tile is, and where what it holds belongs.
template <class Shape>
struct TilePlace {
  int lane, warp;

  __device__ __forceinline__ explicit TilePlace(int thread) : lane(thread % kWarpLanes), warp(thread / kWarpLanes) {}

  // The lane's number in its quad; the row of the quad that is this lane's to take further.
  __device__ __forceinline__ int quad_lane() const { return lane % 4; }
  // The tile's row of the quad's row of that number, and of the warp's.
  __device__ __forceinline__ int row(int number) const { return place_of(number, lane / 4); }
  __device__ __forceinline__ int warp_row(int number) const { return place_of(number / 8, number % 8); }
  // The tile's column of the lane's value of that number, in any row.
  __device__ __forceinline__ int column(int value) const { return 8 * (value / 2) + 2 * quad_lane() + value % 2; }

 private:
  __device__ __forceinline__ int place_of(int number, int quad) const {
    const int product = number / 2 * Shape::kGroups + warp / 4;
    return 64 * product + 16 * (warp % 4) + 8 * (number % 2) + quad;
  }
};

// What is known of the tile beside its logits. `classes` and `rows`: how many of its columns and rows are in range.
template <class Element>
struct TileRange {
  int rows, classes;
  const Element* bias;  // of the tile's first class, or null
};

// Two neighbours of the bias, the first at an even place.
template <class Element>
__device__ __forceinline__ void load_pair(const Element* from, float& low, float& high) {
  const uint32_t word = *reinterpret_cast<const uint32_t*>(from);
  low = widen(Element{static_cast<uint16_t>(word & 0xffffu)});
  high = widen(Element{static_cast<uint16_t>(word >> 16)});
}

template <class Shape, bool kWhole, class Element, class Logits>
__device__ __forceinline__ void add_bias(const Logits& logits, const TileRange<Element>& range,
                                         const TilePlace<Shape>& place) {
#pragma unroll
  for (int value = 0; value < Shape::kValues; value += 2) {
    float low, high;
    const int column = place.column(value);
    if constexpr (kWhole) {
      load_pair(range.bias + column, low, high);
    } else {
      // Past the end the last class's again, not a branch, which would wait for each load by itself.
      const int last = range.classes - 1;
      low = widen(range.bias[column < last ? column : last]);
      high = widen(range.bias[column + 1 < last ? column + 1 : last]);
    }
#pragma unroll
    for (int row = 0; row < Shape::kRows; ++row) {
      logits.at(row, value) += low;
      logits.at(row, value + 1) += high;
    }
  }
}

// Adds the bias, and makes columns past the last class -inf, which loses to every logit. (Added, -inf would make a NaN
// of what zeros times an infinite feature left there.)
template <class Shape, class Element, class Logits>
__device__ __forceinline__ void complete(const Logits& logits, const TileRange<Element>& range,
                                         const TilePlace<Shape>& place) {
  if (range.classes >= Shape::kColumns) {
    if (range.bias != nullptr) add_bias<Shape, true>(logits, range, place);
    return;
  }
  if (range.bias != nullptr) add_bias<Shape, false>(logits, range, place);
#pragma unroll
  for (int value = 0; value < Shape::kValues; ++value) {
    const bool is_class = place.column(value) < range.classes;
#pragma unroll
    for (int row = 0; row < Shape::kRows; ++row)
      logits.at(row, value) = is_class ? logits.at(row, value) : -infinity<float>();
  }
}

// The two largest of a row of the quad, the same in its four lanes. 3 operations a logit.
template <class Shape, class Logits>
__device__ __forceinline__ TopTwo<float> top_two(const Logits& logits, int row) {
  TopTwo<float> top;
#pragma unroll
  for (int value = 0; value < Shape::kValues; ++value) top.add(logits.at(row, value));
#pragma unroll
  for (int offset = 1; offset < 4; offset *= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, top.first, offset);
    top.second =
        greater(greater(top.second, __shfl_xor_sync(kWholeWarp, top.second, offset)), lesser(top.first, other));
    top.first = max_nan(top.first, other);
  }
  return top;
}

// The lane's value of a number known only at run time: a tree of selections, a level for each bit of the number.
template <int kCount, class Logits>
__device__ __forceinline__ float pick(const Logits& logits, int row, int number, int begin = 0) {
  if constexpr (kCount == 1) {
    return logits.at(row, begin);
  } else {
    constexpr int kHalf = kCount > 32 ? 32 : kCount > 16 ? 16 : kCount > 8 ? 8 : kCount > 4 ? 4 : kCount > 2 ? 2 : 1;
    const float low = pick<kHalf>(logits, row, number, begin);
    const float high = pick<kCount - kHalf>(logits, row, number, begin + kHalf);
    return number & kHalf ? high : low;
  }
}

}  // namespace dynams
