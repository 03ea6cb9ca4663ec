// The two passes over memory that tell what a selection by groups takes: compiled once per instruction set.
//
// `count_groups` counts each group's values by bins of their keys; `mark_groups`, told the bin in which each group's
// last selected value lies, marks what is before it and lists what is in it. Neither branches on the data, but for the
// few listed.
#include "../common/order_key.h"
#include "kernels.h"
#include "simd_select.h"

namespace dynams::DYNAMS_ISA {
namespace {

template <class E>
struct KeyOf {
  using Type = uint32_t;
};
template <>
struct KeyOf<double> {
  using Type = uint64_t;
};
template <class E>
using Key = typename KeyOf<E>::Type;

// Values whose keys are worked out at once, a vector at a time, into the first-level cache.
constexpr int64_t kChunk = 512;

inline void add_one(uint32_t* count, bool shared) {
  if (shared) __atomic_fetch_add(count, 1u, __ATOMIC_RELAXED);
  else ++*count;
}

// The sign of one of the two is set exactly where a group is outside.
inline bool all_inside(const int64_t* groups, int64_t count, int64_t group_count) {
  const uint64_t last = static_cast<uint64_t>(group_count - 1);
  uint64_t signs = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t group = static_cast<uint64_t>(groups[i]);
    signs |= group | (last - group);
  }
  return signs >> 63 == 0;
}

template <class E>
bool count_as(const E* values, const int64_t* groups, int64_t count, int64_t group_count, const KeyBins& bins,
              uint32_t* counts, bool shared) {
  const Key<E> low = static_cast<Key<E>>(bins.low), high = static_cast<Key<E>>(bins.high);
  const uint16_t* const bin_of_cell = bins.bin_of_cell;
  const int shift = bins.shift;
  const uint32_t bin_count = static_cast<uint32_t>(bins.count);
  uint32_t cells[kChunk], first[kChunk];
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t size = count - begin < kChunk ? count - begin : kChunk;
    const int64_t* const group = groups + begin;
    if (!all_inside(group, size, group_count)) return false;
    if (bin_count == 1) {
      for (int64_t i = 0; i < size; ++i) add_one(counts + group[i], shared);
      continue;
    }
    for (int64_t i = 0; i < size; ++i) {
      Key<E> key = key_of(values[begin + i]);
      key = key < low ? low : key > high ? high : key;
      cells[i] = static_cast<uint32_t>(static_cast<Key<E>>(key - low) >> shift);
    }
    // Tables of several bins have fewer than 2^32 counts.
    for (int64_t i = 0; i < size; ++i) first[i] = static_cast<uint32_t>(group[i]) * bin_count;
    if (shared) {
      for (int64_t i = 0; i < size; ++i) add_one(counts + first[i] + bin_of_cell[cells[i]], true);
      continue;
    }
    // What comes next is fetched meanwhile: the hardware does not look past the pages of three streams.
    int64_t i = 0;
    for (; i + 16 <= size; i += 16) {
      __builtin_prefetch(group + kChunk + i);
      __builtin_prefetch(group + kChunk + i + 8);
      __builtin_prefetch(values + begin + kChunk + i);
#pragma GCC unroll 16
      for (int64_t j = i; j < i + 16; ++j) ++counts[first[j] + bin_of_cell[cells[j]]];
    }
    for (; i < size; ++i) ++counts[first[i] + bin_of_cell[cells[i]]];
  }
  return true;
}

#if defined(__AVX512F__)

// Bounds of eight groups at once, the low key in the lower half of each lane.
inline __m512i bounds_of(const int64_t* groups, const GroupBounds<uint32_t>* bounds) {
  return _mm512_i64gather_epi64(_mm512_loadu_si512(groups), bounds, 8);
}

// Sixteen values at once: which are certain, which in question.
inline void compare(const uint32_t* keys, const int64_t* groups, const GroupBounds<uint32_t>* bounds, uint64_t& below,
                    uint64_t& in_question) {
  const __m512i first = bounds_of(groups, bounds), second = bounds_of(groups + 8, bounds);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i low = _mm512_permutex2var_epi32(first, even, second);
  const __m512i span = _mm512_permutex2var_epi32(first, _mm512_add_epi32(even, _mm512_set1_epi32(1)), second);
  const __m512i key = _mm512_loadu_si512(keys);
  below = _mm512_cmplt_epu32_mask(key, low);
  in_question = _mm512_cmple_epu32_mask(_mm512_sub_epi32(key, low), span);
}

#endif

template <class E>
KeyCounts mark_as(const E* values, const int64_t* groups, int64_t count, const GroupBounds<Key<E>>* bounds,
                  uint64_t* words, uint32_t* places) {
  KeyCounts counts{0, 0};
  Key<E> keys[64];
  for (int64_t begin = 0; begin < count; begin += 64) {
    const int64_t size = count - begin < 64 ? count - begin : 64;
    const int64_t* const group = groups + begin;
    for (int64_t i = 0; i < size; ++i) keys[i] = key_of(values[begin + i]);
    uint64_t certain = 0, in_question = 0;
    int64_t i = 0;
#if defined(__AVX512F__)
    if constexpr (sizeof(Key<E>) == 4) {
      for (; i + 16 <= size; i += 16) {
        uint64_t below, open;
        compare(keys + i, group + i, bounds, below, open);
        certain |= below << i;
        in_question |= open << i;
      }
    }
#endif
    for (; i < size; ++i) {
      const GroupBounds<Key<E>> bound = bounds[group[i]];
      certain |= static_cast<uint64_t>(keys[i] < bound.low) << i;
      in_question |= static_cast<uint64_t>(static_cast<Key<E>>(keys[i] - bound.low) <= bound.span) << i;
    }
    words[begin / 64] = certain;
    counts.below += __builtin_popcountll(certain);
    for (; in_question != 0; in_question &= in_question - 1)
      places[counts.collected++] = static_cast<uint32_t>(begin + __builtin_ctzll(in_question));
  }
  return counts;
}

}  // namespace

bool count_groups(DType dtype, const void* values, const int64_t* groups, int64_t count, int64_t group_count,
                  const KeyBins& bins, uint32_t* counts, bool shared) {
  switch (dtype) {
    case DType::kFloat64:
      return count_as(static_cast<const double*>(values), groups, count, group_count, bins, counts, shared);
    case DType::kFloat16:
      return count_as(static_cast<const Half*>(values), groups, count, group_count, bins, counts, shared);
    case DType::kBFloat16:
      return count_as(static_cast<const BFloat*>(values), groups, count, group_count, bins, counts, shared);
    default:
      return count_as(static_cast<const float*>(values), groups, count, group_count, bins, counts, shared);
  }
}

KeyCounts mark_groups(DType dtype, const void* values, const int64_t* groups, int64_t count, const void* bounds,
                      uint64_t* words, uint32_t* places) {
  const auto* narrow = static_cast<const GroupBounds<uint32_t>*>(bounds);
  switch (dtype) {
    case DType::kFloat64:
      return mark_as(static_cast<const double*>(values), groups, count,
                     static_cast<const GroupBounds<uint64_t>*>(bounds), words, places);
    case DType::kFloat16:
      return mark_as(static_cast<const Half*>(values), groups, count, narrow, words, places);
    case DType::kBFloat16:
      return mark_as(static_cast<const BFloat*>(values), groups, count, narrow, words, places);
    default:
      return mark_as(static_cast<const float*>(values), groups, count, narrow, words, places);
  }
}

}  // namespace dynams::DYNAMS_ISA
