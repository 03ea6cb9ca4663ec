// The two passes over memory that a selection needs: compiled once per instruction set.
//
// `collect` reads all values once, counts those certainly selected and keeps the few keys that are in question;
// `write_selected` reads them once more and writes the selected in index order. Both compare keys (see order_key.h), a
// vector at a time: no branch depends on the data except where a vector holds something to keep.
#include <cstddef>

#include "../common/order_key.h"
#include "kernels.h"

#if defined(__x86_64__) && (defined(__AVX2__) || defined(__AVX512F__))
#include <immintrin.h>
#endif

namespace dynams::DYNAMS_ISA {
namespace {

template <class ElementBits, class KeyBits, class Order>
struct Element {
  using Bits = ElementBits;
  using Key = KeyBits;
  // 16-bit keys are widened: one set of loops serves them and float32.
  static Key key(Bits bits) { return Order::key(bits); }
};
using Float32 = Element<uint32_t, uint32_t, Float32Order>;
using Float64 = Element<uint64_t, uint64_t, Float64Order>;
using Float16 = Element<uint16_t, uint32_t, Float16Order>;
using BFloat16 = Element<uint16_t, uint32_t, BFloat16Order>;

// One value at a time, without branches: the fallback, and the end of every vector loop.
template <class E>
KeyCounts collect_scalar(const typename E::Bits* values, int64_t count, typename E::Key low, typename E::Key high,
                         typename E::Key* keys) {
  KeyCounts counts{0, 0};
  for (int64_t i = 0; i < count; ++i) {
    const typename E::Key key = E::key(values[i]);
    counts.below += key < low;
    keys[counts.collected] = key;
    counts.collected += (key >= low) & (key <= high);
  }
  return counts;
}

template <class E>
KeyCounts count_scalar(const typename E::Bits* values, int64_t count, typename E::Key low) {
  KeyCounts counts{0, 0};
  for (int64_t i = 0; i < count; ++i) {
    const typename E::Key key = E::key(values[i]);
    counts.below += key < low;
    counts.collected += key == low;
  }
  return counts;
}

struct Written {
  int64_t count, ties;
};

template <class E>
void write_scalar(const typename E::Bits* values, int64_t begin, int64_t count, typename E::Key threshold,
                  const WriteTask& task, Written written, typename E::Bits* out_values, int64_t* out_indices) {
  for (int64_t i = begin; i < count && written.count < task.capacity; ++i) {
    const typename E::Key key = E::key(values[i]);
    const bool tie = key == threshold && written.ties < task.threshold_ties;
    out_values[written.count] = values[i];
    out_indices[written.count] = task.first_index + i;
    written.ties += tie;
    written.count += tie | (key < threshold);
  }
}

#if defined(__AVX512F__)

template <class E>
struct Vector;

template <class E>
struct Vector32 {  // sixteen 32-bit keys
  static constexpr int kLanes = 16;
  using Mask = __mmask16;
  static Mask less(__m512i a, __m512i b) { return _mm512_cmplt_epu32_mask(a, b); }
  static Mask equal(__m512i a, __m512i b) { return _mm512_cmpeq_epi32_mask(a, b); }
  static __m512i broadcast(uint32_t key) { return _mm512_set1_epi32(static_cast<int>(key)); }
  static void store_selected(uint32_t* to, Mask mask, __m512i keys) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(mask, keys));
  }
  // Keys of `bits` whose sign bit and infinity are given, in the low part of each lane.
  static __m512i keys_of(__m512i bits, uint32_t sign, uint32_t infinity, uint32_t last) {
    const __m512i sign_bit = _mm512_set1_epi32(static_cast<int>(sign));
    const __m512i all_bits = _mm512_set1_epi32(static_cast<int>(last));
    const __m512i magnitude = _mm512_andnot_si512(sign_bit, bits);
    const Mask negative = _mm512_test_epi32_mask(bits, sign_bit);
    const Mask zero = _mm512_testn_epi32_mask(magnitude, magnitude);
    const Mask nan = _mm512_cmpgt_epu32_mask(magnitude, _mm512_set1_epi32(static_cast<int>(infinity)));
    __m512i keys = _mm512_or_si512(bits, sign_bit);
    keys = _mm512_mask_xor_epi32(keys, negative, bits, all_bits);
    keys = _mm512_mask_mov_epi32(keys, zero, sign_bit);
    return _mm512_mask_mov_epi32(keys, nan, all_bits);
  }
};

template <>
struct Vector<Float32> : Vector32<Float32> {
  static __m512i load_keys(const uint32_t* from) {
    return keys_of(_mm512_loadu_si512(from), Float32Order::kSign, 0x7f800000u, Float32Order::kLast);
  }
};
template <>
struct Vector<Float16> : Vector32<Float16> {
  static __m512i load_keys(const uint16_t* from) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return keys_of(bits, Float16Order::kSign, 0x7c00u, Float16Order::kLast);
  }
};
template <>
struct Vector<BFloat16> : Vector32<BFloat16> {
  static __m512i load_keys(const uint16_t* from) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return keys_of(bits, BFloat16Order::kSign, 0x7f80u, BFloat16Order::kLast);
  }
};
template <>
struct Vector<Float64> {  // eight 64-bit keys
  static constexpr int kLanes = 8;
  using Mask = __mmask8;
  static Mask less(__m512i a, __m512i b) { return _mm512_cmplt_epu64_mask(a, b); }
  static Mask equal(__m512i a, __m512i b) { return _mm512_cmpeq_epi64_mask(a, b); }
  static __m512i broadcast(uint64_t key) { return _mm512_set1_epi64(static_cast<long long>(key)); }
  static void store_selected(uint64_t* to, Mask mask, __m512i keys) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(mask, keys));
  }
  static __m512i load_keys(const uint64_t* from) {
    const __m512i bits = _mm512_loadu_si512(from);
    const __m512i sign_bit = broadcast(Float64Order::kSign), all_bits = broadcast(Float64Order::kLast);
    const __m512i magnitude = _mm512_andnot_si512(sign_bit, bits);
    const Mask negative = _mm512_movepi64_mask(bits);
    const Mask zero = _mm512_testn_epi64_mask(magnitude, magnitude);
    const Mask nan = _mm512_cmpgt_epu64_mask(magnitude, broadcast(0x7ff0000000000000ull));
    __m512i keys = _mm512_or_si512(bits, sign_bit);
    keys = _mm512_mask_xor_epi64(keys, negative, bits, all_bits);
    keys = _mm512_mask_mov_epi64(keys, zero, sign_bit);
    return _mm512_mask_mov_epi64(keys, nan, all_bits);
  }
};

template <class E>
KeyCounts collect_vector(const typename E::Bits* values, int64_t count, typename E::Key low, typename E::Key high,
                         typename E::Key* keys) {
  using V = Vector<E>;
  const __m512i low_keys = V::broadcast(low), high_keys = V::broadcast(high);
  int64_t below = 0, collected = 0, i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) {
    const __m512i found = V::load_keys(values + i);
    const auto less = V::less(found, low_keys);
    const auto kept = static_cast<typename V::Mask>(~(less | V::less(high_keys, found)));
    below += __builtin_popcount(less);
    if (kept) {
      V::store_selected(keys + collected, kept, found);
      collected += __builtin_popcount(kept);
    }
  }
  const KeyCounts rest = collect_scalar<E>(values + i, count - i, low, high, keys + collected);
  return {below + rest.below, collected + rest.collected};
}

template <class E>
KeyCounts count_vector(const typename E::Bits* values, int64_t count, typename E::Key low) {
  using V = Vector<E>;
  const __m512i low_keys = V::broadcast(low);
  int64_t below = 0, equal = 0, i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) {
    const __m512i found = V::load_keys(values + i);
    below += __builtin_popcount(V::less(found, low_keys));
    equal += __builtin_popcount(V::equal(found, low_keys));
  }
  const KeyCounts rest = count_scalar<E>(values + i, count - i, low);
  return {below + rest.below, equal + rest.collected};
}

inline void compress_values(uint32_t* to, uint32_t mask, const uint32_t* from) {
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), _mm512_loadu_si512(from)));
}
inline void compress_values(uint64_t* to, uint32_t mask, const uint64_t* from) {
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(static_cast<__mmask8>(mask), _mm512_loadu_si512(from)));
}
inline void compress_values(uint16_t* to, uint32_t mask, const uint16_t* from) {
  // Sixteen-bit compression needs AVX-512 VBMI2: widened to 32 bits here, which every AVX-512 CPU has.
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  const __m512i packed = _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), wide);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(packed));
}

template <int kLanes>
inline void compress_indices(int64_t* to, uint32_t mask, int64_t first) {
  const __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i index = _mm512_add_epi64(_mm512_set1_epi64(first), lane);
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(static_cast<__mmask8>(mask), index));
  if constexpr (kLanes == 16) {
    const __m512i upper = _mm512_add_epi64(index, _mm512_set1_epi64(8));
    to += __builtin_popcount(mask & 255u);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(static_cast<__mmask8>(mask >> 8), upper));
  }
}

template <class E>
void write_vector(const typename E::Bits* values, int64_t count, typename E::Key threshold, const WriteTask& task,
                  typename E::Bits* out_values, int64_t* out_indices) {
  using V = Vector<E>;
  const __m512i bound = V::broadcast(threshold);
  Written written{0, 0};
  int64_t i = 0;
  // Stores are whole vectors: they stop while everything they touch still belongs to this chunk.
  for (; i + V::kLanes <= count && written.count + 2 * V::kLanes <= task.capacity; i += V::kLanes) {
    const __m512i keys = V::load_keys(values + i);
    uint32_t selected = V::less(keys, bound);
    if (written.ties < task.threshold_ties) {
      uint32_t ties = V::equal(keys, bound);
      while (written.ties + __builtin_popcount(ties) > task.threshold_ties)
        ties &= ~(0x80000000u >> __builtin_clz(ties));  // drop the highest index
      written.ties += __builtin_popcount(ties);
      selected |= ties;
    }
    compress_values(out_values + written.count, selected, values + i);
    compress_indices<V::kLanes>(out_indices + written.count, selected, task.first_index + i);
    written.count += __builtin_popcount(selected);
  }
  write_scalar<E>(values, i, count, threshold, task, written, out_values, out_indices);
}

#else

template <class E>
KeyCounts collect_vector(const typename E::Bits* values, int64_t count, typename E::Key low, typename E::Key high,
                         typename E::Key* keys) {
  return collect_scalar<E>(values, count, low, high, keys);
}

template <class E>
KeyCounts count_vector(const typename E::Bits* values, int64_t count, typename E::Key low) {
  return count_scalar<E>(values, count, low);
}

template <class E>
void write_vector(const typename E::Bits* values, int64_t count, typename E::Key threshold, const WriteTask& task,
                  typename E::Bits* out_values, int64_t* out_indices) {
  write_scalar<E>(values, 0, count, threshold, task, {0, 0}, out_values, out_indices);
}

#endif

template <class E>
KeyCounts collect_as(const void* values, int64_t count, uint64_t low, uint64_t high, void* keys) {
  using Key = typename E::Key;
  return collect_vector<E>(static_cast<const typename E::Bits*>(values), count, static_cast<Key>(low),
                           static_cast<Key>(high), static_cast<Key*>(keys));
}

template <class E>
KeyCounts count_as(const void* values, int64_t count, uint64_t low) {
  return count_vector<E>(static_cast<const typename E::Bits*>(values), count, static_cast<typename E::Key>(low));
}

template <class E>
void write_as(const void* values, int64_t count, uint64_t threshold, const WriteTask& task, void* out_values,
              int64_t* out_indices) {
  write_vector<E>(static_cast<const typename E::Bits*>(values), count, static_cast<typename E::Key>(threshold), task,
                  static_cast<typename E::Bits*>(out_values), out_indices);
}

}  // namespace

KeyCounts collect(DType dtype, const void* values, int64_t count, uint64_t low, uint64_t high, void* keys) {
  switch (dtype) {
    case DType::kFloat64: return collect_as<Float64>(values, count, low, high, keys);
    case DType::kFloat16: return collect_as<Float16>(values, count, low, high, keys);
    case DType::kBFloat16: return collect_as<BFloat16>(values, count, low, high, keys);
    default: return collect_as<Float32>(values, count, low, high, keys);
  }
}

KeyCounts count(DType dtype, const void* values, int64_t count, uint64_t low) {
  switch (dtype) {
    case DType::kFloat64: return count_as<Float64>(values, count, low);
    case DType::kFloat16: return count_as<Float16>(values, count, low);
    case DType::kBFloat16: return count_as<BFloat16>(values, count, low);
    default: return count_as<Float32>(values, count, low);
  }
}

void write_selected(DType dtype, const void* values, int64_t count, uint64_t threshold, const WriteTask& task,
                    void* out_values, int64_t* out_indices) {
  switch (dtype) {
    case DType::kFloat64: return write_as<Float64>(values, count, threshold, task, out_values, out_indices);
    case DType::kFloat16: return write_as<Float16>(values, count, threshold, task, out_values, out_indices);
    case DType::kBFloat16: return write_as<BFloat16>(values, count, threshold, task, out_values, out_indices);
    default: return write_as<Float32>(values, count, threshold, task, out_values, out_indices);
  }
}

}  // namespace dynams::DYNAMS_ISA
