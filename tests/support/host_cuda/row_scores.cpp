// The GPU's row scores run on the host, with any plan: called by tests/kernels/test_cuda_row_scores.py.
#include <cuda_runtime.h>

#include <cstdlib>

// Orders memory among the lanes of a warp, as their exchanges do not.
inline void __syncwarp() {
  using namespace host_cuda;
  char* meeting;
  {
    Untracked untracked;
    meeting = &here->warp_meetings[current / kLanes];
  }
  publish(meeting);
  {
    Untracked untracked;
    meet_warp(Meeting::kSync, 0, 0, 0xffffffffu);
  }
  observe(meeting);
}

#include "../../../csrc/cuda/row_scores.cu"
#include "../../../csrc/cuda/row_scores_bf16.cu"
#include "../../../csrc/cuda/row_scores_f16.cu"
#include "../../../csrc/cuda/row_scores_f32.cu"
#include "../../../csrc/cuda/row_scores_f64.cu"
#include "guarded.h"

using dynams::CudaRowScores;
using dynams::DType;
using dynams::RowPlan;

extern "C" {

// null where all went well, else what did not. `plan` null: the one for the shape.
const char* host_row_scores(const CudaRowScores* request, int multiprocessors, const RowPlan* plan,
                            unsigned order_seed) {
  host_cuda::problem.clear();
  host_cuda::order_seed = order_seed;
  CudaRowScores task = *request;
  const auto scratch_bytes = [&] {
    if (plan == nullptr)
      return dynams::row_scores_scratch(task.dtype, task.rows, task.classes, task.kinds, multiprocessors);
    return dynams::for_dtype(task.dtype, [&](auto of, int) { return of.scratch(task.rows, plan->splits); });
  };
  Guarded scratch(scratch_bytes());
  task.scratch = scratch.data();
  const cudaError_t error =
      plan == nullptr ? dynams::row_scores(task, multiprocessors, nullptr)
                      : dynams::for_dtype(task.dtype, [&](auto of, int) { return of.score(task, *plan, nullptr); });
  if (scratch.is_overrun()) host_cuda::problem = "scratch is overrun";
  if (error != cudaSuccess && host_cuda::problem.empty()) host_cuda::problem = "the launch failed";
  return host_cuda::problem.empty() ? nullptr : host_cuda::problem.c_str();
}

void host_plan_rows(int64_t rows, int64_t classes, int64_t row_stride, int element_bytes, int multiprocessors,
                    RowPlan* plan) {
  *plan = dynams::plan_rows(rows, classes, row_stride, element_bytes, multiprocessors);
}

int64_t host_row_scores_scratch(int dtype, int64_t rows, int64_t classes, int multiprocessors) {
  return dynams::row_scores_scratch(static_cast<DType>(dtype), rows, classes, dynams::kAllKinds, multiprocessors);
}

int host_preload_row_scores() { return dynams::preload_row_scores(); }

float host_exp_of_shift(float shift) { return dynams::exp_of_shift(shift); }
}
