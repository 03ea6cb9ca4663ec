// The sums of exponentials of a row, made relative to another logit: what is shared by kernels of every instruction
// set.
#pragma once

#include <cmath>

#include "kernels.h"

namespace dynams {
// Each object file keeps its own copy: one of a wider instruction set must not stand in for the others'.
namespace {

// Makes the sums relative to a larger logit: what was largest joins them.
inline void rescale_sums(RowState& state, double largest) {
  if (state.ties == 0) return;  // nothing has been summed
  const double shift = state.largest - largest;
  const double scale = std::exp(shift);
  const double sum = state.sum + state.ties;
  state.sum = scale * sum;
  state.sum_squares = scale * scale * (state.sum_squares + state.ties);
  // From -inf, or to +inf, nothing of the old sums is left: 0, not 0 * inf.
  state.sum_shifted = scale == 0 ? 0 : scale * (state.sum_shifted + shift * sum);
  state.ties = 0;
}

}  // namespace
}  // namespace dynams
