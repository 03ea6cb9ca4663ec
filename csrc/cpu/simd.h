// One vector type over float or double for each instruction set this file is compiled for.
//
// Included only by files that are compiled once per instruction set; everything here is in a namespace of that set's
// name and has no other linkage, so that the linker can never put one set's code into another's.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__) && (defined(__AVX2__) || defined(__AVX512F__))
#include <immintrin.h>
#endif

#ifndef DYNAMS_ISA
#error "compile with -DDYNAMS_ISA=<namespace>"
#endif

namespace dynams::DYNAMS_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  using Int = int32_t;
  typedef float Vec __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Mask __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Lanes<double> {
  using Int = int64_t;
  typedef double Vec __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Mask __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using Vec = typename Lanes<T>::Vec;
template <class T>
using Mask = typename Lanes<T>::Mask;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // subtracting +0.0 keeps every value, -0.0 too
}

template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}

// max/min as the x86 instructions: the second operand where either is NaN.
template <class T>
inline Vec<T> maximum(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_max_ps((__m512)a, (__m512)b);
  else return (Vec<T>)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_max_ps((__m256)a, (__m256)b);
  else return (Vec<T>)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
  return a > b ? a : b;
#endif
}

template <class T>
inline Vec<T> minimum(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_min_ps((__m512)a, (__m512)b);
  else return (Vec<T>)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_min_ps((__m256)a, (__m256)b);
  else return (Vec<T>)_mm256_min_pd((__m256d)a, (__m256d)b);
#else
  return a < b ? a : b;
#endif
}

// a * b + c, fused where the instruction set can.
template <class T>
inline Vec<T> multiply_add(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  else return (Vec<T>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  else return (Vec<T>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

template <class T>
inline Vec<T> square_root(Vec<T> value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_sqrt_ps((__m512)value);
  else return (Vec<T>)_mm512_sqrt_pd((__m512d)value);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_sqrt_ps((__m256)value);
  else return (Vec<T>)_mm256_sqrt_pd((__m256d)value);
#else
  for (int lane = 0; lane < kLanes<T>; ++lane) value[lane] = std::sqrt(value[lane]);
  return value;
#endif
}

// Remembers which lanes have seen a NaN.
template <class T>
struct NanSeen {
#if defined(__AVX512F__)
  uint32_t mask = 0;
  void note(Vec<T> a, Vec<T> b) {
    if constexpr (sizeof(T) == 4) mask |= _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q);
    else mask |= _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_UNORD_Q);
  }
  bool any() const { return mask != 0; }
  Mask<T> lanes() const {
    if constexpr (sizeof(T) == 4) return (Mask<T>)_mm512_movm_epi32(static_cast<__mmask16>(mask));
    else return (Mask<T>)_mm512_movm_epi64(static_cast<__mmask8>(mask));
  }
#else
  Mask<T> mask{};
  void note(Vec<T> a, Vec<T> b) { mask |= (a != a) | (b != b); }
  bool any() const;
  Mask<T> lanes() const { return mask; }
#endif
};

// The vector with lane i and lane i ^ kStep exchanged: log2(lanes) of these combine all lanes.
template <class T, int kStep, int... kLane>
inline Vec<T> exchange_lanes(Vec<T> value, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(value, value, (kLane ^ kStep)...);
#else
  return __builtin_shuffle(value, Mask<T>{(kLane ^ kStep)...});
#endif
}

template <class T, int kStep>
inline Vec<T> exchange(Vec<T> value) {
  return exchange_lanes<T, kStep>(value, std::make_integer_sequence<int, kLanes<T>>{});
}

// Exchanges the lanes of `low` whose number has bit kStep with those of `high`, kStep lower, that have not.
template <class T, int kStep, int... kLane>
inline void exchange_halves(Vec<T>& low, Vec<T>& high, std::integer_sequence<int, kLane...>) {
  const Vec<T> a = low, b = high;
#if defined(__clang__)
  low = __builtin_shufflevector(a, b, ((kLane & kStep) ? kLanes<T> + (kLane ^ kStep) : kLane)...);
  high = __builtin_shufflevector(a, b, ((kLane & kStep) ? kLanes<T> + kLane : (kLane ^ kStep))...);
#else
  low = __builtin_shuffle(a, b, Mask<T>{((kLane & kStep) ? kLanes<T> + (kLane ^ kStep) : kLane)...});
  high = __builtin_shuffle(a, b, Mask<T>{((kLane & kStep) ? kLanes<T> + kLane : (kLane ^ kStep))...});
#endif
}

// Lane j of vector i becomes lane i of vector j: blocks of kStep lanes change places, then those within them.
template <class T, int kStep = kLanes<T> / 2>
inline void transpose(Vec<T> (&square)[kLanes<T>]) {
  if constexpr (kStep > 0) {
    constexpr auto kEach = std::make_integer_sequence<int, kLanes<T>>{};
    for (int i = 0; i < kLanes<T>; ++i)
      if (!(i & kStep)) exchange_halves<T, kStep>(square[i], square[i + kStep], kEach);
    transpose<T, kStep / 2>(square);
  }
}

template <class T, int kStep = kLanes<T> / 2>
inline T lane_sum(Vec<T> value) {
  if constexpr (kStep == 0) return value[0];
  else return lane_sum<T, kStep / 2>(value + exchange<T, kStep>(value));
}

template <class T, int kStep = kLanes<T> / 2>
inline T lane_minimum(Vec<T> value) {
  if constexpr (kStep == 0) return value[0];
  else return lane_minimum<T, kStep / 2>(minimum<T>(value, exchange<T, kStep>(value)));
}

template <class T>
inline bool any(Mask<T> mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
  typename Lanes<T>::Int found = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) found |= mask[lane];
  return found != 0;
#endif
}

#if !defined(__AVX512F__)
template <class T>
inline bool NanSeen<T>::any() const {
  return DYNAMS_ISA::any<T>(mask);
}
#endif

template <class T, int... kLane>
inline Mask<T> lane_numbers(std::integer_sequence<int, kLane...>) {
  return Mask<T>{kLane...};
}

// The last `count` lanes of the value, `fill` before them.
template <class T>
inline Vec<T> keep_last(Vec<T> value, int count, T fill) {
  const Mask<T> lane = lane_numbers<T>(std::make_integer_sequence<int, kLanes<T>>{});
  const Mask<T> kept = lane >= static_cast<typename Lanes<T>::Int>(kLanes<T> - count);
  return kept ? value : broadcast<T>(fill);
}

}  // namespace
}  // namespace dynams::DYNAMS_ISA
