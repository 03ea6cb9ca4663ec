// Exact selection of the k smallest on the GPU: what is asked, and the launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../common/kinds.h"

namespace dynams {

struct CudaSmallestK {
  const void* values;  // contiguous
  DType dtype;
  int64_t count, k;
  void* out_values;  // k, or null where only the mask is wanted
  int64_t* out_indices;
  bool* out_mask;  // `count` bytes, or null
  void* scratch;   // smallest_k_scratch() bytes, 256-byte aligned, undefined contents
};

int64_t smallest_k_scratch(DType dtype, int64_t count, int64_t k, int multiprocessors);

// Launches on the current device; the result is that of the launch.
cudaError_t smallest_k(const CudaSmallestK& task, int multiprocessors, cudaStream_t stream);

// Loads every kernel, as lazy loading must not fall inside a graph's capture.
cudaError_t preload_smallest_k();

}  // namespace dynams
