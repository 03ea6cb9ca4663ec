// Scores of a linear head on Hopper: from a request to its launches.
//
// The gap alone: one launch, after its 8 bytes a row are zeroed. All else: launches over as many rows as the states of
// bounded scratch serve, each followed by the merge of their states. The second of two launches is early: it is brought
// up while the first runs, and waits for what that leaves.
#include <cuda_runtime.h>

#include <algorithm>

#include "../row_plan.h"
#include "gap.cuh"
#include "head_kernels.h"
#include "linear_head.h"
#include "merge_states.cuh"

namespace dynams {

extern template struct HeadKernels<BFloat, GapTask>;
extern template struct HeadKernels<BFloat, StatesTask>;
extern template struct HeadKernels<Half, GapTask>;
extern template struct HeadKernels<Half, StatesTask>;

namespace {

constexpr int64_t kMostWarps = 8;  // of those that share a tile

int64_t class_tiles_of(const HopperHead& head) {
  return quotient_above(head.classes, kHeadTileClasses[static_cast<int>(head.tile)]);
}

// In whole vectors, as they are zeroed.
int64_t gap_vectors(const HopperHead& head) {
  constexpr int64_t kWords = sizeof(Vector) / sizeof(uint32_t);
  return quotient_above(2 * head.rows + kMostWarps * quotient_above(head.rows, kHeadTileRows), kWords);
}

// Bytes of a row's states, and of its label's logit.
int64_t bytes_of_row(const HopperHead& head) {
  return (floats_of_state(head.kinds) * class_tiles_of(head) + 1) * static_cast<int64_t>(sizeof(float));
}

// Whole swizzles of 16 row tiles, if they fit, as the scheduler computes whole ones; else whole clusters of two.
int64_t rows_at_once(const HopperHead& head) {
  constexpr int64_t kSwizzle = 16 * kHeadTileRows, kCluster = 2 * kHeadTileRows;
  const int64_t fitting = kMostStateBytes / bytes_of_row(head);
  const int64_t unit = fitting >= kSwizzle ? kSwizzle : kCluster;
  return std::min(head.rows, std::max(fitting / unit, int64_t(1)) * unit);
}

template <class Task>
cudaError_t launch(const HopperHead& head, const Task& task, int multiprocessors, cudaStream_t stream, bool early) {
  if (head.dtype == DType::kFloat16) return HeadKernels<Half, Task>::launch(head, task, multiprocessors, stream, early);
  return HeadKernels<BFloat, Task>::launch(head, task, multiprocessors, stream, early);
}

// Whether launches that may begin early can be captured in a graph: by drivers for CUDA 12.3 and newer.
bool may_launch_early() {
  static const bool may = [] {
    int driver = 0;
    return cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12030;
  }();
  return may;
}

constexpr int kZeroThreads = 256;

// Not launched early itself: the scratch may be another's until all before it has ended. So what follows it early finds
// nothing else under way.
__global__ void __launch_bounds__(kZeroThreads) zero_vectors(Vector* vectors, int64_t count) {
  let_next_launch_begin();
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kZeroThreads + threadIdx.x;
  if (place < count) vectors[place] = Vector{};
}

cudaError_t launch_zeroing(Vector* vectors, int64_t count, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(quotient_above(count, kZeroThreads)));
  config.blockDim = dim3(kZeroThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, zero_vectors, vectors, count);
}

cudaError_t score_gap(const HopperHead& head, int multiprocessors, cudaStream_t stream) {
  const cudaError_t error = launch_zeroing(static_cast<Vector*>(head.scratch), gap_vectors(head), stream);
  if (error != cudaSuccess) return error;
  const auto words = static_cast<uint32_t*>(head.scratch);
  const GapTask task{words, words + head.rows, words + 2 * head.rows, head.scores,
                     static_cast<uint32_t>(class_tiles_of(head))};
  return launch(head, task, multiprocessors, stream, may_launch_early());
}

cudaError_t launch_merge(const StatesTask& task, cudaStream_t stream) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(quotient_above(task.rows, kWarpLanes)));
  config.blockDim = dim3(kMergeWarps * kWarpLanes);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = may_launch_early() ? 1 : 0;
  return cudaLaunchKernelEx(&config, merge_states, task);
}

cudaError_t score_by_states(const HopperHead& head, int multiprocessors, cudaStream_t stream) {
  const int64_t at_once = rows_at_once(head);
  for (int64_t begin = 0; begin < head.rows; begin += at_once) {
    HopperHead part = head;
    part.rows = std::min(at_once, head.rows - begin);
    part.features = static_cast<const uint16_t*>(head.features) + begin * head.features_stride;
    StatesTask task{};
    task.labels = head.labels == nullptr ? nullptr : head.labels + begin;
    task.own = static_cast<float*>(head.scratch);
    task.states = task.own + at_once;
    task.kinds = head.kinds;
    task.rows = part.rows;
    task.classes = head.classes;
    task.class_tiles = class_tiles_of(head);
    task.scores = head.scores + begin;
    task.scores_stride = head.scores_stride;
    // Not early: what the states overwrite may still be read.
    cudaError_t error = launch(part, task, multiprocessors, stream, false);
    if (error == cudaSuccess) error = launch_merge(task, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

int64_t hopper_head_scratch(const HopperHead& head) {
  if (head.kinds == kGap) return gap_vectors(head) * static_cast<int64_t>(sizeof(Vector));
  return rows_at_once(head) * bytes_of_row(head);
}

cudaError_t hopper_head(const HopperHead& head, int multiprocessors, cudaStream_t stream) {
  return head.kinds == kGap ? score_gap(head, multiprocessors, stream) : score_by_states(head, multiprocessors, stream);
}

cudaError_t preload_hopper_head() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, zero_vectors);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, merge_states);
  if (error == cudaSuccess) error = HeadKernels<BFloat, GapTask>::preload();
  if (error == cudaSuccess) error = HeadKernels<BFloat, StatesTask>::preload();
  if (error == cudaSuccess) error = HeadKernels<Half, GapTask>::preload();
  if (error == cudaSuccess) error = HeadKernels<Half, StatesTask>::preload();
  return error;
}

}  // namespace dynams
