// Rows of logits of any element type as vectors of float or double, with an optional bias added.
#pragma once

#include <limits>

#include "../common/half.h"
#include "simd.h"

namespace dynams::DYNAMS_ISA {
namespace {

inline float to_float(float value) { return value; }
inline double to_float(double value) { return value; }
inline float to_float(BFloat value) { return float_of_bits(float_bits(value)); }
inline float to_float(Half value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#else
  return float_of_bits(float_bits(value));
#endif
}

inline Vec<float> load_vector(const float* from) { return load<float>(from); }
inline Vec<double> load_vector(const double* from) { return load<double>(from); }
inline Vec<float> load_vector(const BFloat* from) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return (Vec<float>)_mm512_slli_epi32(wide, 16);
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return (Vec<float>)_mm256_slli_epi32(wide, 16);
#else
  float out[kLanes<float>];
  for (int lane = 0; lane < kLanes<float>; ++lane) out[lane] = to_float(from[lane]);
  return load<float>(out);
#endif
}
inline Vec<float> load_vector(const Half* from) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__) && defined(__F16C__)
  return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  // Without an instruction for it: a normal number moves to its place and is rebiased; a subnormal is made the end of a
  // number in [0.5, 1), whose last bit is worth the same 2^-24, and 0.5 taken off again.
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  Bits half;
  for (int lane = 0; lane < kLanes<float>; ++lane) half[lane] = from[lane].bits;
  const Bits magnitude = half & 0x7fffu;
  const Bits normal = (magnitude << 13) + (112u << 23);
  const Bits special = normal + (112u << 23);
  const Bits subnormal = (Bits)((Vec<float>)(magnitude | 0x3f000000u) - 0.5f);
  const Bits value = magnitude >= 0x7c00u ? special : magnitude < 0x400u ? subnormal : normal;
  return (Vec<float>)(value | ((half & 0x8000u) << 16));
#endif
}

// The first `count` < lanes elements from `from`, `fill` in the other lanes.
#if defined(__AVX512F__)
inline Vec<float> load_first(const float* from, int count, float fill) {
  return (Vec<float>)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1u << count) - 1), from);
}
inline Vec<double> load_first(const double* from, int count, double fill) {
  return (Vec<double>)_mm512_mask_loadu_pd(_mm512_set1_pd(fill), static_cast<__mmask8>((1u << count) - 1), from);
}
inline Vec<float> load_first(const BFloat* from, int count, float fill) {
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  return (Vec<float>)_mm512_mask_mov_ps(_mm512_set1_ps(fill), mask, (__m512)_mm512_slli_epi32(wide, 16));
}
inline Vec<float> load_first(const Half* from, int count, float fill) {
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  return (Vec<float>)_mm512_mask_cvtph_ps(_mm512_set1_ps(fill), mask, _mm256_maskz_loadu_epi16(mask, from));
}
#else
template <class Element, class T>
inline auto load_first(const Element* from, int count, T fill) {
  T buffer[kLanes<T>];
  for (int lane = 0; lane < kLanes<T>; ++lane) buffer[lane] = lane < count ? to_float(from[lane]) : fill;
  return load<T>(buffer);
}
#endif

// Where a partial vector has nothing, it has the value that changes neither a maximum nor a sum of exponentials.
template <class T>
constexpr T kNothing = -std::numeric_limits<T>::infinity();

template <class Element, class T, bool kBias>
struct Row {
  const Element* logits;
  const T* bias;

  T at(int64_t place) const {
    const T value = to_float(logits[place]);
    return kBias ? value + bias[place] : value;
  }
  Vec<T> whole(int64_t place) const {
    const Vec<T> value = load_vector(logits + place);
    if constexpr (kBias) return value + load<T>(bias + place);
    else return value;
  }
  // The `count` < lanes elements that end at `end`.
  Vec<T> partial(int64_t end, int count) const {
#if !defined(__AVX512F__)
    // Without masked loads: the whole vector that ends there, where the row has one, and its last lanes.
    if (end >= kLanes<T>) return keep_last<T>(whole(end - kLanes<T>), count, kNothing<T>);
#endif
    const Vec<T> value = load_first(logits + end - count, count, kNothing<T>);
    if constexpr (kBias) return value + load_first(bias + end - count, count, T(0));
    else return value;
  }
};

template <class Element, class T, bool kBias>
struct Rows {
  const Element* logits;
  int64_t stride;
  const T* bias;

  Row<Element, T, kBias> operator[](int64_t index) const { return {logits + index * stride, bias}; }
};

}  // namespace
}  // namespace dynams::DYNAMS_ISA
