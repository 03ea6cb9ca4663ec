// A row of logits of any element type as vectors of float or double, with an optional bias added.
#pragma once

#include <limits>

#include "../common/kinds.h"
#include "simd.h"

namespace dynams::DYNAMS_ISA {
namespace {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

inline float to_float(float value) { return value; }
inline double to_float(double value) { return value; }
inline float to_float(BFloat value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}
inline float to_float(Half value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#elif defined(__aarch64__)
  __fp16 half;
  std::memcpy(&half, &value.bits, sizeof(half));
  return static_cast<float>(half);
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 31u;
  const uint32_t mantissa = value.bits & 1023u;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in float
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t bits = sign | ((exponent == 31 ? 255u : exponent + 112u) << 23) | (mantissa << 13);
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
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
  float out[kLanes<float>];
  for (int lane = 0; lane < kLanes<float>; ++lane) out[lane] = to_float(from[lane]);
  return load<float>(out);
#endif
}

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
  // The `count` < lanes elements that end at `end`, read as a whole vector where the row has one before `end`.
  Vec<T> partial(int64_t end, int count) const {
    if (end >= kLanes<T>) return keep_last<T>(whole(end - kLanes<T>), count, kNothing<T>);
    T buffer[kLanes<T>];
    for (int lane = 0; lane < kLanes<T>; ++lane) buffer[lane] = lane < count ? at(end - count + lane) : kNothing<T>;
    return load<T>(buffer);
  }
};

}  // namespace
}  // namespace dynams::DYNAMS_ISA
