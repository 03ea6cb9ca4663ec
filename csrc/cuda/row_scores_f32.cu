// The row scores' kernels for float logits: one unit an element type, so that they compile side by side.
#include "row_launch.cuh"

namespace dynams {

template struct RowScoresOf<float>;

}  // namespace dynams
