// The values of a selection, whatever their type: where they stand, and the keys they are ordered by.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../common/kinds.h"
#include "../common/order_key.h"
#include "sort_pairs.h"

namespace dynams {

constexpr int64_t element_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

inline const void* advance(DType dtype, const void* values, int64_t count) {
  return static_cast<const char*>(values) + count * element_size(dtype);
}

// Keys are 64 bits for doubles, else 32.
template <class Key>
Key key_at(DType dtype, const void* values, int64_t place) {
  switch (dtype) {
    case DType::kFloat64:
      return static_cast<Key>(key_of(static_cast<const double*>(values)[place]));
    case DType::kFloat16:
      return static_cast<Key>(key_of(static_cast<const Half*>(values)[place]));
    case DType::kBFloat16:
      return static_cast<Key>(key_of(static_cast<const BFloat*>(values)[place]));
    default:
      return static_cast<Key>(key_of(static_cast<const float*>(values)[place]));
  }
}

// Keys of about 4 sqrt(count) values, one from each of as many equal strides.
template <class Key>
std::vector<Key> sampled_keys(DType dtype, const void* values, int64_t count) {
  const int64_t size =
      std::min(count, std::min<int64_t>(65536, static_cast<int64_t>(4 * std::sqrt(static_cast<double>(count)))));
  std::vector<Key> sample(static_cast<size_t>(size));
  const int64_t stride = count / std::max<int64_t>(size, 1);
  uint64_t state = 0x9e3779b97f4a7c15ull;  // a fixed seed: places jittered within their stride, the same at every run
  for (int64_t i = 0; i < size; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const int64_t jitter = static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(stride));
    sample[static_cast<size_t>(i)] = key_at<Key>(dtype, values, i * stride + jitter);
  }
  return sample;
}

// Reorders a selection in index order by (value, index). `values` are those selected from.
template <class Key>
void order_by_value(DType dtype, const void* values, int64_t k, void* out_values, int64_t* out_indices) {
  // Keys are taken from the selection, which is in index order: a stable sort by key leaves ties by index.
  std::vector<KeyedIndex<Key>> pairs(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) pairs[static_cast<size_t>(i)] = {key_at<Key>(dtype, out_values, i), out_indices[i]};
  sort_by_key(pairs);
  const int64_t size = element_size(dtype);
  for (int64_t i = 0; i < k; ++i) {
    const int64_t index = pairs[static_cast<size_t>(i)].index;
    out_indices[i] = index;
    std::copy_n(static_cast<const char*>(values) + index * size, size, static_cast<char*>(out_values) + i * size);
  }
}

}  // namespace dynams
