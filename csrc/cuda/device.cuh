// The hardware's own operations that CUDA C++ has no name for, and exchanges between the lanes of a warp.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../common/half.h"

namespace dynams {

constexpr int kWarpLanes = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// What one lane loads at once; the widest access there is on every architecture served.
struct alignas(16) Vector {
  uint32_t words[4];
};

}  // namespace dynams

#ifdef __CUDACC__

namespace dynams {

// A load of what is read once: it passes by the first-level cache, and nothing may write there while the kernel runs.
__device__ __forceinline__ Vector load_once(const void* from) {
  Vector out;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(out.words[0]), "=r"(out.words[1]), "=r"(out.words[2]), "=r"(out.words[3])
      : "l"(from));
  return out;
}

// Starts a copy of 16 bytes, both ends aligned, from global to shared memory; no register holds them on the way.
__device__ __forceinline__ void start_copy(void* shared, const void* global) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}

// Waits for the copies that this thread started; the other threads' need a barrier after it.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// The block's one object of this type in shared memory, undefined at first.
template <class T>
__device__ __forceinline__ T& in_shared_memory() {
  __shared__ T object;
  return object;
}

// NaN if either is, so that a row's NaN stays in its maximum at no cost.
__device__ __forceinline__ float max_nan(float a, float b) {
  float out;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}
__device__ __forceinline__ float min_nan(float a, float b) {
  float out;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}

// Two numbers a register; `lesser` and `greater` return the number where the other is NaN.
template <class Element>
struct Packed;

template <>
struct Packed<Half> {
  static __device__ __forceinline__ uint32_t max_nan(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
  }
  static __device__ __forceinline__ uint32_t greater(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("max.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
  }
  static __device__ __forceinline__ uint32_t lesser(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("min.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
  }
};

template <>
struct Packed<BFloat> {
  static __device__ __forceinline__ uint32_t max_nan(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
  }
  static __device__ __forceinline__ uint32_t greater(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
  }
  static __device__ __forceinline__ uint32_t lesser(uint32_t a, uint32_t b) {
    uint32_t out;
    asm("min.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
  }
};

// 2^x within 2 units in the last place; below the normal numbers it is 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

// a * b + c, rounded once, clamped to [0, 1]; 0 for NaN.
__device__ __forceinline__ float fma_saturated(float a, float b, float c) {
  float out;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(out) : "f"(a), "f"(b), "f"(c));
  return out;
}

__device__ __forceinline__ float float_from_bits(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ double double_from_words(uint32_t low, uint32_t high) {
  return __hiloint2double(static_cast<int>(high), static_cast<int>(low));
}
__device__ __forceinline__ uint32_t bits_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ uint32_t low_word(double value) { return static_cast<uint32_t>(__double2loint(value)); }
__device__ __forceinline__ uint32_t high_word(double value) { return static_cast<uint32_t>(__double2hiint(value)); }

// One rounding each, never fused: a score has the same bits in whatever company the compiler meets it.
__device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double times(double a, double b) { return __dmul_rn(a, b); }

}  // namespace dynams

#else
#include "device_on_host.h"  // the same names for a CPU, by which the tests run the kernels
#endif

namespace dynams {

__device__ __forceinline__ double max_nan(double a, double b) { return a != a || a > b ? a : b; }
__device__ __forceinline__ double min_nan(double a, double b) { return a != a || a < b ? a : b; }

__device__ __forceinline__ float greater(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ float lesser(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double greater(double a, double b) { return a > b ? a : b; }
__device__ __forceinline__ double lesser(double a, double b) { return a < b ? a : b; }

__device__ __forceinline__ float widen(Half value) { return value_of(value); }
__device__ __forceinline__ float widen(BFloat value) { return value_of(value); }
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }

}  // namespace dynams
