// Operations of the Hopper kernels that CUDA C++ has no name for; their memory orders are written out.
#pragma once

#include "../device.cuh"

#ifdef __CUDACC__

namespace dynams {

// The product clamped to [0, 1]; 0 for NaN.
__device__ __forceinline__ float saturated_product(float a, float b) {
  float out;
  asm("mul.sat.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}

// A barrier of that number of the block's, for some of its warps: a thread comes and waits for the others, or comes and
// goes on. Those that waited see what all did before.
__device__ __forceinline__ void meet(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void announce(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Makes a word of device memory at least `value`; what it was before.
__device__ __forceinline__ uint32_t raise(uint32_t* word, uint32_t value) { return atomicMax(word, value); }

// Counts an arrival; how many there were before. With see_arrivals() after it the thread sees what those that arrived,
// and the lanes they had met, did before.
__device__ __forceinline__ uint32_t arrive(uint32_t* count) {
  uint32_t before;
  asm volatile("atom.add.release.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(count) : "memory");
  return before;
}

// Not part of `arrive`, as it empties the first-level cache.
__device__ __forceinline__ void see_arrivals() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// A word that other blocks write: past the first-level cache, which does not hear of it.
__device__ __forceinline__ uint32_t fresh(const uint32_t* word) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}

// Lets the launch after this one in the stream begin, if that is to be early (programmatic dependent launch): once
// every block of this one has come here or ended. What this one writes is seen by those that wait.
__device__ __forceinline__ void let_next_launch_begin() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Waits until the launch before this one in the stream has ended and its writes are seen; not at all where this one was
// not launched early.
__device__ __forceinline__ void wait_for_launch_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

}  // namespace dynams

#else
#include "hopper_on_host.h"  // the same names for a CPU, by which the tests run the reductions
#endif
