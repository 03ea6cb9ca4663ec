// The linear head's kernels on Hopper for float16.
#include "head_kernel.cuh"

namespace dynams {

template struct HeadKernels<Half, GapTask>;
template struct HeadKernels<Half, StatesTask>;

}  // namespace dynams
