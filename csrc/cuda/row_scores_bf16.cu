// The row scores' kernels for BFloat logits: one unit an element type, so that they compile side by side.
#include "row_launch.cuh"

namespace dynams {

template struct RowScoresOf<BFloat>;

}  // namespace dynams
