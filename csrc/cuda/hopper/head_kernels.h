// The kernels of one element type and reduction, in all tilings: declared without CUTLASS, which head_kernels.cu takes.
#pragma once

#include <cuda_runtime_api.h>

#include "linear_head.h"

namespace dynams {

template <class Element, class Task>
struct HeadKernels {
  // Launches the product of `head` with `task` as the end of its tiles. `early`: before the launch before it has ended,
  // which the loads and the gap's words wait for; states do not.
  static cudaError_t launch(const HopperHead& head, const Task& task, int multiprocessors, cudaStream_t stream,
                            bool early);
  static cudaError_t preload();
};

}  // namespace dynams
