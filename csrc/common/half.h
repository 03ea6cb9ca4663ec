// Half-precision numbers as the bits they are stored in, and their exact values as float.
#pragma once

#include <cstdint>
#include <cstring>

#include "portable.h"

namespace dynams {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

static inline DYNAMS_HD float float_of_bits(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

// The bits of the float of the same value; NaN stays NaN.
static inline DYNAMS_HD uint32_t float_bits(BFloat value) { return static_cast<uint32_t>(value.bits) << 16; }

static inline DYNAMS_HD uint32_t float_bits(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  uint32_t exponent = (value.bits >> 10) & 31u;
  uint32_t mantissa = value.bits & 1023u;
  if (exponent == 31) return sign | 0x7f800000u | (mantissa << 13);
  if (exponent == 0) {
    if (mantissa == 0) return sign;
    // A subnormal: shift its leading bit into place, as a float has room to be normal.
    exponent = 1;
    while (!(mantissa & 1024u)) {
      mantissa <<= 1;
      --exponent;  // wraps below zero; the bias added next brings it back
    }
    mantissa &= 1023u;
  }
  return sign | ((exponent + 112u) << 23) | (mantissa << 13);
}

// The exact value; on a GPU the hardware's own conversion.
static inline DYNAMS_HD float value_of(BFloat value) { return float_of_bits(float_bits(value)); }

static inline DYNAMS_HD float value_of(Half value) {
#if defined(__CUDA_ARCH__)
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(value.bits));
  return out;
#else
  return float_of_bits(float_bits(value));
#endif
}

}  // namespace dynams
