#include "merge_states.h"

#include "row_sums.h"

namespace dynams {
namespace {

// The classes of the two largest; the earlier class wins ties.
void merge_classes(RowState& state, const RowState& later) {
  if (later.first_class < 0) return;
  if (state.first_class < 0 || later.largest > state.largest) {
    const bool has_both = later.second_class >= 0 && (state.first_class < 0 || later.second > state.largest);
    state.second_class = has_both ? later.second_class : state.first_class;
    state.first_class = later.first_class;
  } else if (state.second_class < 0 || later.largest > state.second) {
    state.second_class = later.first_class;
  }
}

void merge(RowState& state, RowState later, bool has_label) {
  merge_classes(state, later);
  state.has_nan |= later.has_nan;
  if (has_label) state.own = later.own;
  const double lesser = later.largest > state.largest ? state.largest : later.largest;
  if (later.largest > state.largest) {
    rescale_sums(state, later.largest);
    state.largest = later.largest;
  } else if (later.largest < state.largest) {
    rescale_sums(later, state.largest);
  }
  const double second = later.second > state.second ? later.second : state.second;
  state.second = lesser > second ? lesser : second;
  state.sum += later.sum;
  state.sum_squares += later.sum_squares;
  state.sum_shifted += later.sum_shifted;
  state.ties += later.ties;
}

}  // namespace

void merge_row_states(RowState* states, int64_t rows, int64_t runs, int64_t run_stride, int64_t run_classes,
                      const int64_t* labels) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t label = labels == nullptr || labels[row] < 0 ? -1 : labels[row] / run_classes;
    for (int64_t run = 1; run < runs; ++run) merge(states[row], states[run * run_stride + row], run == label);
  }
}

}  // namespace dynams
