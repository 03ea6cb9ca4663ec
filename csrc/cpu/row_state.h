// What is known of a row after some of its classes, in chunks and in blocks: merged in index order, so that a row's
// scores do not depend on threads or on how rows are dealt to them.
#pragma once

#include <cmath>

#include "kernels.h"
#include "row_reduce.h"
#include "row_sums.h"

namespace dynams::DYNAMS_ISA {
namespace {

inline RowState unread_row() {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  return RowState{kNone, kNone, kNone, 0, 0, 0, 0, -1, -1, false};
}

// The place of the row's label among the block's classes, -1 where it is in another block or no class at all.
inline int64_t label_place(const RowScoresTask& task, int64_t index) {
  if (task.labels == nullptr) return -1;
  const int64_t label = task.labels[index];
  const bool is_here = label >= task.class_offset && label < task.class_offset + task.classes;
  return is_here ? label - task.class_offset : -1;
}

// Takes the two largest of a chunk into the row's, with their classes; what came earlier wins ties.
template <class T, class R>
inline void merge_classes(RowState& state, const R& row, int64_t begin, int64_t end, const TopTwo<T>& top,
                          int64_t offset) {
  const bool empty = state.first_class < 0;
  if (!empty && top.largest <= state.largest) {
    if (state.second_class >= 0 && top.largest <= state.second) return;
    const int64_t found = find_value<T>(row, begin, end, top.largest, -1);
    if (found >= 0) state.second_class = offset + found;
    return;
  }
  const int64_t first = find_value<T>(row, begin, end, top.largest, -1);
  if (first < 0) return;  // only a NaN hides the largest: the row has no margin
  if (empty || top.second > state.largest) {
    const int64_t second = find_value<T>(row, begin, end, top.second, first);
    state.second_class = second < 0 ? state.first_class : offset + second;
  } else {
    state.second_class = state.first_class;
  }
  state.first_class = offset + first;
}

template <class T, class R>
inline void add_chunk_sums(RowState& state, const R& row, int64_t begin, int64_t end, const TopTwo<T>& top,
                           double largest, uint32_t kinds) {
  if (largest > state.largest) rescale_sums(state, largest);
  if (top.largest == largest)
    state.ties += top.second < top.largest ? 1 : static_cast<double>(count_equal<T>(row, begin, end, top.largest));
  // Beside an infinite logit the others weigh nothing, in the limit.
  if (std::isinf(largest)) return;
  const ExpSumLanes<T> sums = exp_sum_lanes<T>(kinds, row, begin, end, broadcast<T>(static_cast<T>(largest)));
  state.sum += lane_sum<T>(sums.sum);
  if (kinds & kEl2n) state.sum_squares += lane_sum<T>(sums.squares);
  if (kinds & kEntropy) state.sum_shifted += lane_sum<T>(sums.shifted);
}

// Reads classes [begin, end) of a block into the row's state; `label` counts from the block's first class.
template <class T, class R>
inline void read_chunk(RowState& state, const R& row, int64_t begin, int64_t end, const RowScoresTask& task,
                       int64_t label) {
  const TopTwo<T> top = top_two<T>(row, begin, end);
  state.has_nan |= top.has_nan;
  if (task.pairs) merge_classes<T>(state, row, begin, end, top, task.class_offset);
  const double largest = top.largest > state.largest ? top.largest : state.largest;
  const double lesser = top.largest > state.largest ? state.largest : top.largest;
  const double second = top.second > state.second ? top.second : state.second;
  if (label >= begin && label < end) state.own = row.at(label);
  if (task.kinds & kSoftmaxKinds) add_chunk_sums<T>(state, row, begin, end, top, largest, task.kinds);
  state.largest = largest;
  state.second = lesser > second ? lesser : second;
}

// Reads a block of a row, in chunks that stay in the first-level cache between the two passes over them.
template <class T, class R>
inline void read_block(RowState& state, const R& row, const RowScoresTask& task, int64_t index) {
  constexpr int64_t kChunk = 4096;  // 16 KB of float: half a first-level cache
  const int64_t label = label_place(task, index);
  for (int64_t place = 0; place < task.classes; place += kChunk) {
    const int64_t stop = place + kChunk < task.classes ? place + kChunk : task.classes;
    read_chunk<T>(state, row, place, stop, task, label);
  }
}

}  // namespace
}  // namespace dynams::DYNAMS_ISA
