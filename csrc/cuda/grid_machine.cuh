// The GPU as the machine that the block algorithms of csrc/common run on.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../common/smallest_k_block.h"

namespace dynams {

// The widest accesses that make up a T.
template <class T>
using VectorsOf = std::conditional_t<sizeof(T) == 4, uint32_t, std::conditional_t<sizeof(T) == 8, uint2, uint4>>;

class GridMachine {
 public:
  static constexpr int kWarp = 32;

  __device__ __forceinline__ uint32_t thread() const { return threadIdx.x; }
  __device__ __forceinline__ uint32_t block() const { return blockIdx.x; }
  __device__ __forceinline__ uint32_t blocks() const { return gridDim.x; }

  // The same value, of which the compiler knows nothing.
  __device__ __forceinline__ void renew(uint32_t* value) const { asm volatile("" : "+r"(*value)); }

  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ void sync_warp() const { __syncwarp(); }

  // The two halves of the grid's barrier, each the block's barrier too. Whatever a block wrote before it arrived is
  // seen by all after they waited. The driver keeps the count, at zero between launches; a grid of one block, launched
  // plainly, has none.
  __device__ __forceinline__ void arrive() {
    if (gridDim.x > 1) token_ = cooperative_groups::this_grid().barrier_arrive();
    else __syncthreads();
  }
  __device__ __forceinline__ void wait() {
    if (gridDim.x > 1) cooperative_groups::this_grid().barrier_wait(static_cast<unsigned>(token_));
    else __syncthreads();
  }
  // Both halves by a count of our own, zero before and for this once: nobody waits for what the count was.
  template <class T>
  __device__ __forceinline__ void meet(T* count) const {
    __syncthreads();
    if (gridDim.x == 1) return;
    if (threadIdx.x == 0) {
      auto* const word = reinterpret_cast<uint32_t*>(count);  // of a little-endian number the lower half
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(word) : "memory");
      uint32_t arrived;
      do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(word) : "memory");
      while (arrived != gridDim.x);
    }
    __syncthreads();
  }

  __device__ __forceinline__ uint32_t ballot(bool vote) const { return __ballot_sync(kAll, vote); }
  template <class T>
  __device__ __forceinline__ T shuffle(T value, uint32_t lane) const {
    return __shfl_sync(kAll, value, lane);
  }
  template <class T>
  __device__ __forceinline__ T shuffle_up(T value, uint32_t distance) const {
    return __shfl_up_sync(kAll, value, distance);
  }
  __device__ __forceinline__ uint32_t warp_sum(uint32_t value) const { return __reduce_add_sync(kAll, value); }

  __device__ __forceinline__ uint32_t count_bits(uint32_t bits) const { return __popc(bits); }
  __device__ __forceinline__ uint32_t lowest_bit(uint32_t bits) const { return __ffs(bits) - 1; }
  __device__ __forceinline__ int bit_length(uint64_t value) const { return 64 - __clzll(value); }

  __device__ __forceinline__ uint32_t add_shared(uint32_t* word, uint32_t value) const {
    return atomicAdd(word, value);
  }
  template <class T>
  __device__ __forceinline__ void add_global(T* word, T value) const {
    atomicAdd(word, value);
  }

  // Adds to two numbers next to each other, of which the first does not overflow: where both are one word, at once.
  template <class T>
  __device__ __forceinline__ void add_two_global(T* words, uint32_t first, uint32_t second) const {
    if constexpr (sizeof(T) == 4) {
      const unsigned long long both = static_cast<unsigned long long>(second) << 32 | first;
      atomicAdd(reinterpret_cast<unsigned long long*>(words), both);
    } else {
      if (first != 0) atomicAdd(words, static_cast<T>(first));
      if (second != 0) atomicAdd(words + 1, static_cast<T>(second));
    }
  }

  // Of the input, which nothing writes while the kernel runs.
  template <class T>
  __device__ __forceinline__ T read(const T* from) const {
    return __ldg(from);
  }
  template <class T>
  __device__ __forceinline__ Quad<T> read(const Quad<T>* from) const {
    using Words = VectorsOf<Quad<T>>;
    Quad<T> out;
    Words words[sizeof(Quad<T>) / sizeof(Words)];
#pragma unroll
    for (size_t i = 0; i < sizeof(words) / sizeof(Words); ++i)
      words[i] = __ldg(reinterpret_cast<const Words*>(from) + i);
    memcpy(&out, words, sizeof(out));
    return out;
  }
  // From global to shared memory, with no register on the way; to be read once every thread has waited for the copies
  // it started, and the block has met.
  template <class T>
  __device__ __forceinline__ void start_copy(Quad<T>* to, const Quad<T>* from) const {
    const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    if constexpr (sizeof(Quad<T>) == 8) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(from) : "memory");
    } else {
#pragma unroll
      for (uint32_t i = 0; i < sizeof(Quad<T>); i += 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared + i),
                     "l"(reinterpret_cast<const char*>(from) + i)
                     : "memory");
    }
  }
  __device__ __forceinline__ void finish_copies() const { asm volatile("cp.async.wait_all;" ::: "memory"); }

  // Of what other blocks wrote: past the first-level cache, which does not hear of their writes, and in its place among
  // the barriers.
  __device__ __forceinline__ uint32_t fresh(const uint32_t* from) const {
    uint32_t value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
  }
  template <class T>
  __device__ __forceinline__ T fresh(const T* from) const {
    static_assert(sizeof(T) == 8);
    T value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
    return value;
  }
  template <class T, int kCount>
  __device__ __forceinline__ void fresh(const T* from, T (&out)[kCount]) const {
    static_assert(kCount == 1 || kCount % 2 == 0);
    if constexpr (kCount == 1) out[0] = fresh(from);
#pragma unroll
    for (int i = 0; i + 1 < kCount; i += 2) {
      if constexpr (sizeof(T) == 4)
        asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
                     : "=r"(out[i]), "=r"(out[i + 1])
                     : "l"(from + i)
                     : "memory");
      else
        asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                     : "=l"(out[i]), "=l"(out[i + 1])
                     : "l"(from + i)
                     : "memory");
    }
  }
  // What other blocks will read.
  template <class T>
  __device__ __forceinline__ void leave(Pair<T>* to, const Pair<T>& values) const {
    write_words(to, values);
  }
  // Of the answer.
  template <class T>
  __device__ __forceinline__ void write(T* to, T value) const {
    *to = value;
  }

  template <class T>
  __device__ __forceinline__ void write(Quad<T>* to, const Quad<T>& values) const {
    write_words(to, values);
  }
  template <class T>
  __device__ __forceinline__ void write(Pair<T>* to, const Pair<T>& values) const {
    write_words(to, values);
  }

  __device__ __forceinline__ void note(SelectionEvent) const {}

 private:
  template <class T>
  static __device__ __forceinline__ void write_words(T* to, const T& values) {
    using Words = VectorsOf<T>;
    Words words[sizeof(T) / sizeof(Words)];
    memcpy(words, &values, sizeof(values));
#pragma unroll
    for (size_t i = 0; i < sizeof(words) / sizeof(Words); ++i) store(reinterpret_cast<Words*>(to) + i, words[i]);
  }

  // Left to itself the compiler takes vectors apart again.
  static __device__ __forceinline__ void store(uint4* to, uint4 words) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.x), "r"(words.y), "r"(words.z),
                 "r"(words.w)
                 : "memory");
  }
  static __device__ __forceinline__ void store(uint2* to, uint2 words) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(words.x), "r"(words.y) : "memory");
  }
  static __device__ __forceinline__ void store(uint32_t* to, uint32_t word) { *to = word; }

  static constexpr unsigned kAll = 0xffffffffu;

  unsigned token_ = 0;
};

}  // namespace dynams
