// Scores of rows of logits on the GPU: what is asked, and the launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../common/kinds.h"

namespace dynams {

struct CudaRowScores {
  const void* logits;  // rows of `classes` adjacent elements, `row_stride` elements apart
  DType dtype;
  int64_t rows, classes, row_stride;
  const int64_t* labels;         // or null
  const float* class_distances;  // (classes, classes), rows `distances_stride` apart, or null
  int64_t distances_stride;
  uint32_t kinds;  // request mask
  void* scores;    // one row of `scores_stride` elements for each kind, float (double for float64 logits)
  int64_t scores_stride;
  void* scratch;  // row_scores_scratch() bytes, 16-byte aligned, undefined contents
};

// Bytes of scratch: none but where rows are split over several blocks.
int64_t row_scores_scratch(DType dtype, int64_t rows, int64_t classes, uint32_t kinds, int multiprocessors);

// Launches on the current device; the result is that of the launch.
cudaError_t row_scores(const CudaRowScores& task, int multiprocessors, cudaStream_t stream);

// Loads every kernel, as lazy loading must not fall inside a graph's capture.
cudaError_t preload_row_scores();

}  // namespace dynams
