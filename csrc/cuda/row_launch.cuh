// Launches of the row scores' kernels for one element type; each row_scores_<dtype>.cu instantiates it.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "row_scores.cuh"
#include "row_scores_short.cuh"

namespace dynams {

template <class... Formal, class... Actual>
cudaError_t launch(void (*kernel)(Formal...), dim3 grid, int threads, cudaStream_t stream, Actual... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, Formal(arguments)...);
}

template <class T>
int64_t bytes_of_parts(int64_t rows, int64_t splits) {
  return splits == 1 ? 0 : rows * splits * static_cast<int64_t>(sizeof(PartOfRow<T>) + sizeof(T));
}

// The entry points of one element type.
template <class Element>
struct RowScoresOf {
  using T = ScoreOf<Element>;

  static int64_t scratch(int64_t rows, int64_t splits);
  static cudaError_t score(const CudaRowScores& task, const RowPlan& plan, cudaStream_t stream);
  static cudaError_t preload();

 private:
  template <int kSums>
  static cudaError_t score_with(const CudaRowScores& request, const RowPlan& plan, cudaStream_t stream);
};

template <class Element>
int64_t RowScoresOf<Element>::scratch(int64_t rows, int64_t splits) {
  return bytes_of_parts<T>(rows, splits);
}

template <class Element>
template <int kSums>
cudaError_t RowScoresOf<Element>::score_with(const CudaRowScores& request, const RowPlan& plan, cudaStream_t stream) {
  const RowsTask<Element> task{static_cast<const Element*>(request.logits),
                               request.rows,
                               request.classes,
                               request.row_stride,
                               request.labels,
                               request.class_distances,
                               request.distances_stride,
                               request.kinds,
                               static_cast<T*>(request.scores),
                               request.scores_stride};
  const auto blocks = [&](int64_t rows_each) {
    const int64_t needed = quotient_above(task.rows, rows_each);
    return static_cast<unsigned>(needed < plan.blocks ? needed : plan.blocks);
  };
  if (plan.tile_rows > 0) {
    const bool whole_vectors = task.classes * sizeof(Element) % sizeof(Vector) == 0 &&
                               reinterpret_cast<uintptr_t>(task.logits) % sizeof(Vector) == 0;
    const int64_t tiles = quotient_above(task.rows, plan.tile_rows);
    return launch(score_short_rows<Element, kSums>, dim3(static_cast<unsigned>(tiles)), kTileThreads, stream, task,
                  plan.tile_rows, whole_vectors);
  }
  PartsOfRows<T> split{nullptr, nullptr, plan.splits, plan.part_classes};
  if (plan.splits > 1) {
    split.parts = static_cast<PartOfRow<T>*>(request.scratch);
    split.nearest = reinterpret_cast<T*>(split.parts + task.rows * plan.splits);
  }
  // Without sums a score is a subtraction, and memory bound as it is.
  const int turns = kSums == kNoSums || plan.splits > 1 ? 1 : plan.turns;
  const int threads = plan.lanes <= kWarpLanes ? kBlockThreads<kWarpLanes> : kThreads;
  const dim3 grid(blocks(threads / plan.lanes * turns), static_cast<unsigned>(plan.splits));
  const auto kernel = plan.lanes == 8    ? score_rows<Element, kSums, 8>
                      : plan.lanes == 16 ? score_rows<Element, kSums, 16>
                      : plan.lanes == 32 ? score_rows<Element, kSums, 32>
                                         : score_rows<Element, kSums, kThreads>;
  cudaError_t error = launch(kernel, grid, threads, stream, task, turns, split);
  if (plan.splits == 1 || error != cudaSuccess) return error;
  if (task.kinds & kDistance) error = launch(measure_parts<Element>, grid, kThreads, stream, task, split);
  if (error != cudaSuccess) return error;
  return launch(merge_parts<Element>, dim3(blocks(kWarps)), kThreads, stream, task, split);
}

template <class Element>
cudaError_t RowScoresOf<Element>::score(const CudaRowScores& task, const RowPlan& plan, cudaStream_t stream) {
  if (task.kinds & (kEl2n | kEntropy)) return score_with<kAllSums>(task, plan, stream);
  if (task.kinds & kSoftmaxKinds) return score_with<kMassSum>(task, plan, stream);
  return score_with<kNoSums>(task, plan, stream);
}

template <class Element>
cudaError_t RowScoresOf<Element>::preload() {
  cudaFuncAttributes attributes;
  cudaError_t first = cudaSuccess;
  const auto load = [&](auto... kernels) {
    for (const cudaError_t error : {cudaFuncGetAttributes(&attributes, kernels)...})
      if (first == cudaSuccess) first = error;
  };
  const auto load_all = [&](auto sums) {
    constexpr int kSums = decltype(sums)::value;
    load(score_rows<Element, kSums, 8>, score_rows<Element, kSums, 16>, score_rows<Element, kSums, 32>,
         score_rows<Element, kSums, kThreads>, score_short_rows<Element, kSums>);
  };
  load_all(std::integral_constant<int, kNoSums>{});
  load_all(std::integral_constant<int, kMassSum>{});
  load_all(std::integral_constant<int, kAllSums>{});
  load(measure_parts<Element>, merge_parts<Element>);
  return first;
}

}  // namespace dynams
