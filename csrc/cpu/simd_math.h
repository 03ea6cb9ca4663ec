// Exponentials and logarithms of vectors, to a few units in the last place.
#pragma once

#include "simd.h"

namespace dynams::DYNAMS_ISA {
namespace {

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

// d = n ln 2 + rest with |rest| <= ln(2)/2; n stands where it adds to a number's exponent.
template <class T>
struct Reduced {
  Vec<T> rest;
  Mask<T> exponent;
};

template <class T>
inline Reduced<T> reduce_exponent(Vec<T> d) {
  using C = ExpConstants<T>;
  const Vec<T> shifted = multiply_add<T>(d, broadcast<T>(C::kLog2e), broadcast<T>(C::kRound));
  const Vec<T> n = shifted - C::kRound;
  Vec<T> r = multiply_add<T>(n, broadcast<T>(-C::kLn2), d);
  if constexpr (C::kLn2Rest != 0) r = multiply_add<T>(n, broadcast<T>(-C::kLn2Rest), r);
  // The low bits of `shifted` hold n.
  return {r, (Mask<T>)shifted << C::kMantissaBits};
}

// exp(d) for kLeast <= d < 0, and 0 for d >= 0: a polynomial in the rest, and n added to the exponent.
template <class T>
inline Vec<T> exp_negative(Vec<T> d) {
  using C = ExpConstants<T>;
  const auto [r, exponent] = reduce_exponent<T>(d);
  Vec<T> sum = broadcast<T>(C::kCoefficients[0]);
  constexpr int kTerms = sizeof(C::kCoefficients) / sizeof(T);
  for (int term = 1; term < kTerms; ++term) sum = multiply_add<T>(sum, r, broadcast<T>(C::kCoefficients[term]));
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

// 1 - exp(d) for d <= 0, -inf too, without cancellation where d is small: exp(d) = 2^n (1 + p) with p = exp(r) - 1.
template <class T>
inline Vec<T> one_minus_exp(Vec<T> d) {
  using C = ExpConstants<T>;
  // 1/n! from the last needed down to 1/2!: truncation below a unit in the last place.
  constexpr T kFactorials[] = {T(1.0 / 6227020800), T(1.0 / 479001600), T(1.0 / 39916800), T(1.0 / 3628800),
                               T(1.0 / 362880),     T(1.0 / 40320),     T(1.0 / 5040),     T(1.0 / 720),
                               T(1.0 / 120),        T(1.0 / 24),        T(1.0 / 6),        T(0.5)};
  constexpr int kFirst = sizeof(T) == 4 ? 6 : 0;
  d = maximum<T>(d, broadcast<T>(C::kLeast));
  const Reduced<T> reduced = reduce_exponent<T>(d);
  const Vec<T> r = reduced.rest;
  Vec<T> sum = broadcast<T>(kFactorials[kFirst]);
  for (int term = kFirst + 1; term < 12; ++term) sum = multiply_add<T>(sum, r, broadcast<T>(kFactorials[term]));
  const Vec<T> p = multiply_add<T>(r * r, sum, r);
  const Vec<T> scale = (Vec<T>)((Mask<T>)broadcast<T>(1) + reduced.exponent);
  return (broadcast<T>(1) - scale) - scale * p;
}

// log(1 + x) for finite x >= 0: 1 + x = 2^n (1 + f) with 1 + f about 1, f = x exactly where n is 0, and log(1 + f) as a
// series in s = f / (2 + f), twice the inverse hyperbolic tangent of s.
template <class T>
inline Vec<T> log_one_plus(Vec<T> x) {
  // 2/3 z + 2/5 z^2 + ... with z = s^2 < 0.0295: truncation below a unit in the last place.
  constexpr T kSeries[] = {T(2.0 / 21), T(2.0 / 19), T(2.0 / 17), T(2.0 / 15), T(2.0 / 13),
                           T(2.0 / 11), T(2.0 / 9),  T(2.0 / 7),  T(2.0 / 5),  T(2.0 / 3)};
  constexpr int kFirst = sizeof(T) == 4 ? 6 : 0;
  using C = ExpConstants<T>;
  const Vec<T> one = broadcast<T>(1);
  const Vec<T> total = one + x;
  const Mask<T> exponent = ((Mask<T>)total - (Mask<T>)broadcast<T>(T(0.70710678118654752))) >> C::kMantissaBits;
  const Vec<T> scaled = (Vec<T>)((Mask<T>)total - (exponent << C::kMantissaBits));
  const Vec<T> f = exponent == 0 ? x : scaled - one;
  const Vec<T> s = f / (f + T(2)), z = s * s;
  Vec<T> series = broadcast<T>(kSeries[kFirst]);
  for (int term = kFirst + 1; term < 10; ++term) series = multiply_add<T>(series, z, broadcast<T>(kSeries[term]));
  // log(1 + f) = 2 s + s z series, where 2 s = f - s f: f itself has no rounding.
  const Vec<T> log_f = f - s * (f - z * series);
  const Vec<T> n = __builtin_convertvector(exponent, Vec<T>);
  return multiply_add<T>(n, broadcast<T>(C::kLn2), multiply_add<T>(n, broadcast<T>(C::kLn2Rest), log_f));
}

}  // namespace
}  // namespace dynams::DYNAMS_ISA
