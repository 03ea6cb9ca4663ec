// csrc/cuda/device.cuh's operations on a CPU, by their definitions in the PTX manual.
#pragma once

#include <cstdint>
#include <cstring>

#include "../../../csrc/common/half.h"

namespace dynams {

inline Vector load_once(const void* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(Vector) != 0) host_cuda::problem = "a misaligned load";
  Vector out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}

// Arrives as late as it may: what reads before the wait, or another thread's copy before a barrier, reads old bytes.
inline void start_copy(void* shared, const void* global) {
  host_cuda::Untracked untracked;
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16 != 0)
    host_cuda::problem = "a misaligned copy";
  host_cuda::thread_now().copies.push_back({shared, global});
}
inline void wait_for_copies() {
  std::vector<host_cuda::Copy> copies;
  {
    host_cuda::Untracked untracked;
    copies.swap(host_cuda::thread_now().copies);
  }
  for (const host_cuda::Copy& copy : copies) std::memcpy(copy.to, copy.from, 16);
}

template <class T>
inline T& in_shared_memory() {
  static_assert(std::is_trivially_default_constructible<T>::value && alignof(T) <= 16, "as on the GPU");
  static char type;  // its address is the type's name
  return *static_cast<T*>(host_cuda::shared_object(&type, sizeof(T)));
}

template <class T>
inline bool is_nan(T value) {
  return value != value;
}
inline float max_nan(float a, float b) { return is_nan(a) || is_nan(b) ? NAN : a > b ? a : b; }
inline float min_nan(float a, float b) { return is_nan(a) || is_nan(b) ? NAN : a < b ? a : b; }

inline float fma_saturated(float a, float b, float c) {
  const float sum = fmaf(a, b, c);
  return sum > 0.0f ? sum < 1.0f ? sum : 1.0f : 0.0f;  // 0 for NaN too
}

inline float float_from_bits(uint32_t bits) { return float_of_bits(bits); }
inline double double_from_words(uint32_t low, uint32_t high) {
  const uint64_t bits = static_cast<uint64_t>(high) << 32 | low;
  double out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}
inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline uint64_t bits_of(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline uint32_t low_word(double value) { return static_cast<uint32_t>(bits_of(value)); }
inline uint32_t high_word(double value) { return static_cast<uint32_t>(bits_of(value) >> 32); }

template <class Element>
struct Packed {
  template <class Choose>
  static uint32_t each(uint32_t a, uint32_t b, Choose choose) {
    uint32_t out = 0;
    for (int shift = 0; shift < 32; shift += 16) {
      const Element x{static_cast<uint16_t>(a >> shift)}, y{static_cast<uint16_t>(b >> shift)};
      out |= static_cast<uint32_t>(choose(x, y).bits) << shift;
    }
    return out;
  }
  static float value(Element x) { return float_of_bits(float_bits(x)); }
  static uint32_t max_nan(uint32_t a, uint32_t b) {
    return each(a, b, [](Element x, Element y) {
      if (is_nan(value(x)) || is_nan(value(y))) return Element{0x7fff};
      return value(x) > value(y) ? x : y;
    });
  }
  static uint32_t greater(uint32_t a, uint32_t b) {
    return each(a, b, [](Element x, Element y) {
      return is_nan(value(x)) ? y : is_nan(value(y)) ? x : value(x) > value(y) ? x : y;
    });
  }
  static uint32_t lesser(uint32_t a, uint32_t b) {
    return each(a, b, [](Element x, Element y) {
      return is_nan(value(x)) ? y : is_nan(value(y)) ? x : value(x) < value(y) ? x : y;
    });
  }
};

// The result is spoilt by up to the error the hardware may have, and flushed below the normal numbers.
inline float exp2_fast(float x) {
  const float power = static_cast<float>(exp2(static_cast<double>(x)));
  if (power < 1.1754944e-38f) return 0.0f;
  if (x == 0.0f) return 1.0f;
  return float_from_bits(bits_of(power) + bits_of(x) % 5 - 2);
}

inline float times(float a, float b) { return a * b; }
inline double times(double a, double b) { return a * b; }

}  // namespace dynams
