// One vector type over float or double for each instruction set this file is compiled for.
//
// Included only by files that are compiled once per instruction set; everything here is in a namespace of that set's
// name and has no other linkage, so that the linker can never put one set's code into another's.
#pragma once

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

// Remembers whether any lane seen was NaN.
template <class T>
struct NanSeen {
#if defined(__AVX512F__)
  uint32_t mask = 0;
  void note(Vec<T> a, Vec<T> b) {
    if constexpr (sizeof(T) == 4) mask |= _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q);
    else mask |= _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_UNORD_Q);
  }
  bool any() const { return mask != 0; }
#else
  Mask<T> mask{};
  void note(Vec<T> a, Vec<T> b) { mask |= (a != a) | (b != b); }
  bool any() const;
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

// exp(d) for kLeast <= d < 0, and 0 for d >= 0. Range reduction d = n ln 2 + r with |r| <= ln(2)/2, a polynomial in r,
// and n added to the exponent.
template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kLeast = -87.0f;  // the result stays a normal number
  static constexpr float kLog2e = 1.44269504088896341f;
  // The error of this ln 2, 1.9e-9, enters as n * 1.9e-9: below a float's rounding where exp(d) matters to a sum
  // with 1.
  static constexpr float kLn2 = 0.693147180559945309f, kLn2Rest = 0;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int kMantissaBits = 23;
  // The polynomial of least relative error with constant term 1: 9.5e-8.
  static constexpr float kCoefficients[] = {0.008290314f, 0.04189793f, 0.16667636f, 0.4999915f, 0.9999997f, 1.0f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kLeast = -708.0;
  static constexpr double kLog2e = 1.4426950408889634074;
  // The first part has 21 trailing zero bits: n times it is exact.
  static constexpr double kLn2 = 6.93147180369123816490e-01, kLn2Rest = 1.90821492927058770002e-10;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissaBits = 52;
  // 1/n! down to r^13: truncation below 4.2e-18 relative.
  static constexpr double kCoefficients[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
};

template <class T>
inline Vec<T> exp_negative(Vec<T> d) {
  using C = ExpConstants<T>;
  const Vec<T> shifted = multiply_add<T>(d, broadcast<T>(C::kLog2e), broadcast<T>(C::kRound));
  const Vec<T> n = shifted - C::kRound;
  Vec<T> r = multiply_add<T>(n, broadcast<T>(-C::kLn2), d);
  if constexpr (C::kLn2Rest != 0) r = multiply_add<T>(n, broadcast<T>(-C::kLn2Rest), r);
  Vec<T> sum = broadcast<T>(C::kCoefficients[0]);
  constexpr int kTerms = sizeof(C::kCoefficients) / sizeof(T);
  for (int term = 1; term < kTerms; ++term) sum = multiply_add<T>(sum, r, broadcast<T>(C::kCoefficients[term]));
  // The low bits of `shifted` hold n: moved up they add to the exponent of the sum.
  const Mask<T> exponent = (Mask<T>)shifted << C::kMantissaBits;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    const __mmask16 negative = _mm512_cmp_ps_mask((__m512)d, _mm512_setzero_ps(), _CMP_LT_OQ);
    return (Vec<T>)_mm512_maskz_add_epi32(negative, (__m512i)sum, (__m512i)exponent);
  } else {
    const __mmask8 negative = _mm512_cmp_pd_mask((__m512d)d, _mm512_setzero_pd(), _CMP_LT_OQ);
    return (Vec<T>)_mm512_maskz_add_epi64(negative, (__m512i)sum, (__m512i)exponent);
  }
#else
  return (Vec<T>)((d < Vec<T>{}) & ((Mask<T>)sum + exponent));
#endif
}

}  // namespace
}  // namespace dynams::DYNAMS_ISA
