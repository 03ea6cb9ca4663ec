// The two passes over memory that a selection needs: compiled once per instruction set.
//
// `collect` reads all values once, counts those certainly selected and keeps the few in question; `write_selected`
// reads them once more and writes the selected in index order. Both compare numbers as they are, a vector at a time,
// without a branch on the data; only where NaN itself bounds the selection do they go by keys (see order_key.h), one by
// one.
#include "../common/order_key.h"
#include "kernels.h"
#include "row_source.h"
#include "simd_select.h"

namespace dynams::DYNAMS_ISA {
namespace {

// What the bits of an element are, and the type it is compared and ordered in.
template <class E>
struct Compared {
  using Type = float;
  using Keys = FloatKeys;
};
template <>
struct Compared<double> {
  using Type = double;
  using Keys = DoubleKeys;
};

template <class E>
using KeyOf = typename Compared<E>::Keys::Key;

template <class E>
inline typename Compared<E>::Type number_of(KeyOf<E> key) {
  const KeyOf<E> bits = Compared<E>::Keys::bits(key);
  typename Compared<E>::Type number;
  std::memcpy(&number, &bits, sizeof(number));
  return number;
}

template <class E>
constexpr KeyOf<E> kNan = Compared<E>::Keys::kLast;

template <class E>
KeyCounts collect_scalar(const E* values, int64_t count, KeyOf<E> low, KeyOf<E> high, KeyOf<E>* keys) {
  KeyCounts counts{0, 0};
  for (int64_t i = 0; i < count; ++i) {
    const KeyOf<E> key = key_of(values[i]);
    counts.below += key < low;
    keys[counts.collected] = key;
    counts.collected += (key >= low) & (key <= high);
  }
  return counts;
}

template <class E>
KeyCounts count_scalar(const E* values, int64_t count, KeyOf<E> low) {
  KeyCounts counts{0, 0};
  for (int64_t i = 0; i < count; ++i) {
    const KeyOf<E> key = key_of(values[i]);
    counts.below += key < low;
    counts.collected += key == low;
  }
  return counts;
}

template <class E>
struct Writer {
  const WriteTask& task;
  KeyOf<E> threshold;
  E* values;
  int64_t* indices;
  int64_t written = 0, ties = 0;

  void scalar(const E* from, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && written < task.capacity; ++i) {
      const KeyOf<E> key = key_of(from[i]);
      const bool tie = key == threshold && ties < task.threshold_ties;
      values[written] = from[i];
      indices[written] = task.first_index + i;
      ties += tie;
      written += tie | (key < threshold);
    }
  }

#ifdef DYNAMS_PACKED_STORES
  static constexpr int kWidth = kLanes<typename Compared<E>::Type>;

  uint32_t selected(const E* from, Vec<typename Compared<E>::Type> bound) {
    const auto found = load_vector(from);
    uint32_t mask = less(found, bound);
    if (ties < task.threshold_ties) {
      uint32_t tied = equal(found, bound);
      while (ties + __builtin_popcount(tied) > task.threshold_ties)
        tied &= ~(0x80000000u >> __builtin_clz(tied));  // drop the highest index
      ties += __builtin_popcount(tied);
      mask |= tied;
    }
    return mask;
  }

  void store(const E* from, int64_t place, uint32_t mask) {
    if constexpr (sizeof(E) == 2)
      store_packed(reinterpret_cast<uint16_t*>(values + written), mask,
                   reinterpret_cast<const uint16_t*>(from + place));
    else store_packed(values + written, mask, load_vector(from + place));
    store_packed_indices<kWidth>(indices + written, mask, task.first_index + place);
    written += __builtin_popcount(mask);
  }

  void vectors(const E* from, int64_t count) {
    const auto bound = broadcast<typename Compared<E>::Type>(number_of<E>(threshold));
    int64_t i = 0;
    // Whole vectors are stored while all they touch is this chunk's to write.
    for (; i + kWidth <= count && written + 2 * kWidth <= task.capacity; i += kWidth)
      store(from, i, selected(from + i, bound));
    for (; i + kWidth <= count && written < task.capacity; i += kWidth) {
      const int64_t ties_before = ties;
      if (selected(from + i, bound) == 0) continue;
      ties = ties_before;
      scalar(from, i, i + kWidth);
    }
    scalar(from, i, count);
  }
#endif

  void marked(const E* from, int64_t count, const uint64_t* words) {
    int64_t i = 0;
#ifdef DYNAMS_PACKED_STORES
    static_assert(64 % kWidth == 0);
    for (; i + kWidth <= count && written + 2 * kWidth <= task.capacity; i += kWidth)
      store(from, i, static_cast<uint32_t>(words[i / 64] >> (i % 64)) & ((1u << kWidth) - 1));
#endif
    for (; i < count && written < task.capacity; ++i) {
      values[written] = from[i];
      indices[written] = task.first_index + i;
      written += words[i / 64] >> (i % 64) & 1;
    }
  }
};

#ifdef DYNAMS_PACKED_STORES

template <class E>
KeyCounts collect_vectors(const E* values, int64_t count, KeyOf<E> low, KeyOf<E> high, KeyOf<E>* keys) {
  using T = typename Compared<E>::Type;
  constexpr int kWidth = kLanes<T>;
  const Vec<T> low_bound = broadcast<T>(number_of<E>(low));
  const bool bounded = high != kNan<E>;  // unbounded above: NaN is in question too
  const Vec<T> high_bound = broadcast<T>(bounded ? number_of<E>(high) : T(0));
  T* numbers = reinterpret_cast<T*>(keys);
  constexpr uint32_t kAll = (1u << kWidth) - 1;
  int64_t below = 0, collected = 0, i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Vec<T> found = load_vector(values + i);
    const uint32_t lesser = less(found, low_bound);
    const uint32_t kept = (bounded ? not_above(found, high_bound) : kAll) & ~lesser;
    below += __builtin_popcount(lesser);
    store_packed(numbers + collected, kept, found);
    collected += __builtin_popcount(kept);
  }
  for (int64_t place = 0; place < collected; ++place) {
    KeyOf<E> bits;
    std::memcpy(&bits, numbers + place, sizeof(bits));
    bits = Compared<E>::Keys::key(bits);
    std::memcpy(numbers + place, &bits, sizeof(bits));
  }
  const KeyCounts rest = collect_scalar(values + i, count - i, low, high, keys + collected);
  return {below + rest.below, collected + rest.collected};
}

template <class E>
KeyCounts count_vectors(const E* values, int64_t count, KeyOf<E> low) {
  using T = typename Compared<E>::Type;
  constexpr int kWidth = kLanes<T>;
  const Vec<T> bound = broadcast<T>(number_of<E>(low));
  int64_t below = 0, same = 0, i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Vec<T> found = load_vector(values + i);
    below += __builtin_popcount(less(found, bound));
    same += __builtin_popcount(equal(found, bound));
  }
  const KeyCounts rest = count_scalar(values + i, count - i, low);
  return {below + rest.below, same + rest.collected};
}

#endif

template <class E>
KeyCounts collect_as(const void* from, int64_t count, uint64_t low, uint64_t high, void* keys) {
  const E* values = static_cast<const E*>(from);
  const KeyOf<E> low_key = static_cast<KeyOf<E>>(low), high_key = static_cast<KeyOf<E>>(high);
#ifdef DYNAMS_PACKED_STORES
  if (low_key != kNan<E>) return collect_vectors(values, count, low_key, high_key, static_cast<KeyOf<E>*>(keys));
#endif
  return collect_scalar(values, count, low_key, high_key, static_cast<KeyOf<E>*>(keys));
}

template <class E>
KeyCounts count_as(const void* from, int64_t count, uint64_t low) {
  const E* values = static_cast<const E*>(from);
  const KeyOf<E> low_key = static_cast<KeyOf<E>>(low);
#ifdef DYNAMS_PACKED_STORES
  if (low_key != kNan<E>) return count_vectors(values, count, low_key);
#endif
  return count_scalar(values, count, low_key);
}

template <class E>
void write_as(const void* from, int64_t count, uint64_t threshold, const WriteTask& task, void* out_values,
              int64_t* out_indices) {
  const E* values = static_cast<const E*>(from);
  Writer<E> writer{task, static_cast<KeyOf<E>>(threshold), static_cast<E*>(out_values), out_indices};
#ifdef DYNAMS_PACKED_STORES
  if (writer.threshold != kNan<E>) return writer.vectors(values, count);
#endif
  writer.scalar(values, 0, count);
}

template <class E>
void write_marked_as(const void* from, int64_t count, const uint64_t* words, const WriteTask& task, void* out_values,
                     int64_t* out_indices) {
  Writer<E> writer{task, 0, static_cast<E*>(out_values), out_indices};
  writer.marked(static_cast<const E*>(from), count, words);
}

}  // namespace

KeyCounts collect(DType dtype, const void* values, int64_t count, uint64_t low, uint64_t high, void* keys) {
  const ExactSubnormals exact;
  switch (dtype) {
    case DType::kFloat64:
      return collect_as<double>(values, count, low, high, keys);
    case DType::kFloat16:
      return collect_as<Half>(values, count, low, high, keys);
    case DType::kBFloat16:
      return collect_as<BFloat>(values, count, low, high, keys);
    default:
      return collect_as<float>(values, count, low, high, keys);
  }
}

KeyCounts count(DType dtype, const void* values, int64_t count, uint64_t low) {
  const ExactSubnormals exact;
  switch (dtype) {
    case DType::kFloat64:
      return count_as<double>(values, count, low);
    case DType::kFloat16:
      return count_as<Half>(values, count, low);
    case DType::kBFloat16:
      return count_as<BFloat>(values, count, low);
    default:
      return count_as<float>(values, count, low);
  }
}

void write_selected(DType dtype, const void* values, int64_t count, uint64_t threshold, const WriteTask& task,
                    void* out_values, int64_t* out_indices) {
  const ExactSubnormals exact;
  switch (dtype) {
    case DType::kFloat64:
      return write_as<double>(values, count, threshold, task, out_values, out_indices);
    case DType::kFloat16:
      return write_as<Half>(values, count, threshold, task, out_values, out_indices);
    case DType::kBFloat16:
      return write_as<BFloat>(values, count, threshold, task, out_values, out_indices);
    default:
      return write_as<float>(values, count, threshold, task, out_values, out_indices);
  }
}

void write_marked(DType dtype, const void* values, int64_t count, const uint64_t* words, const WriteTask& task,
                  void* out_values, int64_t* out_indices) {
  switch (dtype) {
    case DType::kFloat64:
      return write_marked_as<double>(values, count, words, task, out_values, out_indices);
    case DType::kFloat16:
      return write_marked_as<Half>(values, count, words, task, out_values, out_indices);
    case DType::kBFloat16:
      return write_marked_as<BFloat>(values, count, words, task, out_values, out_indices);
    default:
      return write_marked_as<float>(values, count, words, task, out_values, out_indices);
  }
}

}  // namespace dynams::DYNAMS_ISA
