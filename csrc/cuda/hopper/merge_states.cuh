// The second launch: the states that the tiles left of each row become its scores.
#pragma once

#include "states.cuh"

namespace dynams {

__device__ __forceinline__ RowState<float> state_of_tile(const StatesTask& task, int64_t row, int64_t class_tile) {
  const float* from = task.states + class_tile * task.rows + row;
  const int64_t step = task.class_tiles * task.rows;
  RowState<float> state{*from, *(from + step), 1, 0, 0, 0};
  from += step;
  if (task.kinds & kSoftmaxKinds) state.mass = *(from += step);
  if (task.kinds & kEl2n) state.mass_squares = *(from += step);
  if (task.kinds & kEntropy) state.mass_shifted = *(from += step);
  return state;
}

// A block merges the states of 32 rows: each warp those of every eighth tile, then one warp the eight results.
constexpr int kMergeWarps = 8;

struct MergedByWarps {
  RowState<float> states[kMergeWarps][kWarpLanes];
};

__global__ void __launch_bounds__(kMergeWarps* kWarpLanes) merge_states(StatesTask task) {
  wait_for_launch_before();
  MergedByWarps& merged = in_shared_memory<MergedByWarps>();
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes, warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarpLanes + lane;
  RowState<float> state = no_logits<float>();
  if (row < task.rows) {
#pragma unroll 4
    for (int64_t tile = warp; tile < task.class_tiles; tile += kMergeWarps)
      state = merge<kAllSums>(state, state_of_tile(task, row, tile));
  }
  merged.states[warp][lane] = state;
  __syncthreads();
  if (warp != 0 || row >= task.rows) return;
  for (int other = 1; other < kMergeWarps; ++other) state = merge<kAllSums>(state, merged.states[other][lane]);
  const int64_t label = task.labels == nullptr ? -1 : task.labels[row];
  RowFacts<float> facts{0, label >= 0 && label < task.classes, 0, task.classes};
  if (facts.labelled) facts.own = task.own[row];
  write_scores<kAllSums, kLinearKinds>(state, facts, task.kinds, task.scores + row, task.scores_stride);
}

}  // namespace dynams
