// The linear head's kernels on Hopper for bfloat16.
#include "head_kernel.cuh"

namespace dynams {

template struct HeadKernels<BFloat, GapTask>;
template struct HeadKernels<BFloat, StatesTask>;

}  // namespace dynams
