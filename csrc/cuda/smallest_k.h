// Exact selection of the k smallest on the GPU: what is asked, and the launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../common/kinds.h"

namespace dynams {

// For tests: what a plan leaves to luck, made certain. Zero: as planned; capacities are only ever lowered.
struct SelectionForce {
  int32_t sample_low = 0, sample_high = 0;  // ranks in the sample; set where the second is not zero
  uint32_t place_capacity = 0, list_capacity = 0;
};

struct CudaSmallestK {
  const void* values;  // contiguous
  DType dtype;
  int64_t count, k;
  void* out_values;  // k, or null where only the mask is wanted
  int64_t* out_indices;
  bool* out_mask;  // `count` bytes, or null
  void* scratch;   // smallest_k_scratch() bytes, 256-byte aligned, undefined contents
  const SelectionForce* force = nullptr;
};

int64_t smallest_k_scratch(DType dtype, int64_t count, int multiprocessors);

// Launches on the current device; the result is that of the launch.
cudaError_t smallest_k(const CudaSmallestK& task, int multiprocessors, cudaStream_t stream);

// Loads every kernel and sets its limits on the current device, as neither may fall inside a graph's capture.
cudaError_t preload_smallest_k();

}  // namespace dynams
