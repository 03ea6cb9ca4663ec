// A stable sort of (key, index) pairs by unsigned key: least-significant-digit radix sort, digits that are all equal
// skipped.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace dynams {

template <class Key>
struct KeyedIndex {
  Key key;
  int64_t index;
};

template <class Key>
void sort_by_key(std::vector<KeyedIndex<Key>>& pairs) {
  constexpr int kBits = 11;
  constexpr int kPasses = (static_cast<int>(sizeof(Key)) * 8 + kBits - 1) / kBits;
  constexpr size_t kDigits = size_t(1) << kBits;
  std::vector<std::array<size_t, kDigits>> counts(kPasses);
  for (auto& histogram : counts) histogram.fill(0);
  for (const KeyedIndex<Key>& pair : pairs)
    for (int pass = 0; pass < kPasses; ++pass)
      ++counts[static_cast<size_t>(pass)][(pair.key >> (pass * kBits)) & (kDigits - 1)];

  std::vector<KeyedIndex<Key>> sorted(pairs.size());
  for (int pass = 0; pass < kPasses; ++pass) {
    std::array<size_t, kDigits>& places = counts[static_cast<size_t>(pass)];
    const int shift = pass * kBits;
    if (!pairs.empty() && places[(pairs[0].key >> shift) & (kDigits - 1)] == pairs.size()) continue;
    size_t total = 0;
    for (size_t& place : places) {
      const size_t here = place;
      place = total;
      total += here;
    }
    for (const KeyedIndex<Key>& pair : pairs) sorted[places[(pair.key >> shift) & (kDigits - 1)]++] = pair;
    pairs.swap(sorted);
  }
}

}  // namespace dynams
