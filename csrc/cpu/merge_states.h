// What is known of the same rows from several runs of classes, made one.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace dynams {

// Merges into each of the rows' states of the first run of classes those of the other runs, each `run_stride` states
// further and `run_classes` classes on, in the order of their classes. `labels`: one a row, or null.
void merge_row_states(RowState* states, int64_t rows, int64_t runs, int64_t run_stride, int64_t run_classes,
                      const int64_t* labels);

}  // namespace dynams
