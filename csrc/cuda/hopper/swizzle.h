// The order in which the persistent kernel takes the tiles.
#pragma once

#include <cstdint>

#include "../../common/portable.h"

namespace dynams {

static inline DYNAMS_HD int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Row tiles that go together through the classes, so that they share the weight in the second-level cache: 8, 4, 2 or 1
// pairs (a cluster has two). CUTLASS's scheduler rounds both counts of tiles up to whole swizzles and computes the
// tiles that this adds in full: the largest swizzle that adds less than a hundredth.
static inline int swizzle_of(int64_t row_tiles, int64_t class_tiles) {
  constexpr int kCluster = 2;
  const int64_t needed = rounded_up(row_tiles, kCluster) * class_tiles;
  int swizzle = 8;
  for (; swizzle > 1; swizzle /= 2) {
    const int64_t taken = rounded_up(row_tiles, kCluster * swizzle) * rounded_up(class_tiles, swizzle);
    if ((taken - needed) * 100 < needed) break;
  }
  return swizzle;
}

}  // namespace dynams
