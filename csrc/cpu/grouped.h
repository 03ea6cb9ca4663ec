// Exact selection of the k[g] smallest of every group g, in the order of order_key.h.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace dynams {

// How many of each group: `each` of group_count numbers, or where that is null max(1, floor(fraction n + 0.5)) of the n
// of a group that has any.
struct GroupQuotas {
  int64_t group_count;
  const int64_t* each;
  double fraction;
};

// Fewer values than this, so that places are 32 bits.
constexpr int64_t kMostGrouped = int64_t(1) << 32;

// Sets bit i % 64 of words[i / 64] exactly where value i is selected, and returns how many are; -1 where a group is
// outside [0, group_count) or a quota outside [0, its group's size].
int64_t mark_smallest(const Kernels& kernels, DType dtype, const void* values, const int64_t* groups, int64_t count,
                      const GroupQuotas& quotas, uint64_t* words, int threads);

// Writes the `marked` values whose bits are set and their indices, in index order, or sorted by (value, index).
void write_marked(const Kernels& kernels, DType dtype, const void* values, int64_t count, const uint64_t* words,
                  int64_t marked, bool by_value, void* out_values, int64_t* out_indices, int threads);

}  // namespace dynams
