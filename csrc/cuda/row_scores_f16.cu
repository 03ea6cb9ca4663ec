// The row scores' kernels for Half logits: one unit an element type, so that they compile side by side.
#include "row_launch.cuh"

namespace dynams {

template struct RowScoresOf<Half>;

}  // namespace dynams
