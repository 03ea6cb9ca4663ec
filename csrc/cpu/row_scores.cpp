// Scores of rows of logits: compiled once per instruction set.
//
// A row is read from memory once, in chunks that stay in the first-level cache. Of each chunk the first pass keeps the
// two largest and whether it holds a NaN; where a softmax is asked for, the second pass, from cache, sums exponentials
// relative to the largest so far. Rows of few classes are read a vector of rows at a time, and all rows are finished
// so. What shares its vector with a row changes none of its scores' bits.
#include "kernels.h"
#include "nearest_boundary.h"
#include "row_finish.h"
#include "row_state.h"
#include "short_rows.h"

namespace dynams::DYNAMS_ISA {
namespace {

template <class T>
struct VectorOfRows {
  RowLanes<T> lanes;
  ClassPair pairs[kLanes<T>];
};

// The gap alone, of whole rows: nothing to remember but the two largest.
template <class T, class R>
void gap_of_rows(const R& rows, const RowScoresTask& task, int64_t begin, int64_t end) {
  T* scores = static_cast<T*>(task.scores);
  for (int64_t index = begin; index < end; ++index) {
    const TopTwo<T> top = top_two<T>(rows[index], 0, task.classes);
    scores[index] = top.has_nan                 ? std::numeric_limits<T>::quiet_NaN()
                    : top.largest == top.second ? T(0)
                                                : top.largest - top.second;
  }
}

// Reads a block of each of `count` rows; gives what is known of them after their last block.
template <class T, class R>
inline void read_rows(VectorOfRows<T>& vector, const R& rows, const RowScoresTask& task, int64_t index, int count) {
  for (int lane = 0; lane < count; ++lane) {
    RowState local;
    RowState& state = task.states ? task.states[index + lane] : local;
    if (task.is_first) state = unread_row();
    read_block<T>(state, rows[index + lane], task, index + lane);
    vector.lanes.set(lane, state);
    vector.pairs[lane] = {state.first_class, state.second_class};
  }
}

// What scores of the kind `distance` and the pairs of classes need of each row itself.
template <class T, class R>
inline void find_classes(VectorOfRows<T>& vector, const R& rows, const RowScoresTask& task, int64_t index, int count) {
  for (int lane = 0; lane < count; ++lane) {
    if (vector.lanes.is_nan[lane]) continue;
    const auto row = rows[index + lane];
    ClassPair& pair = vector.pairs[lane];
    if (pair.first < 0) pair.first = find_value<T>(row, 0, task.classes, vector.lanes.largest[lane], -1);
    if (task.kinds & kDistance) {
      vector.lanes.distance[lane] = nearest_boundary<T>(row, task, pair.first);
      if (task.pairs) pair.second = nearest_class<T>(row, task, pair.first, vector.lanes.distance[lane]);
    } else if (pair.second < 0) {
      pair.second = find_value<T>(row, 0, task.classes, vector.lanes.second[lane], pair.first);
    }
  }
}

template <class T>
inline void finish_vector(VectorOfRows<T>& vector, const RowScoresTask& task, int64_t index, int count) {
  if (task.labels) {
    const int64_t classes = task.class_offset + task.classes;
    for (int lane = 0; lane < count; ++lane) {
      const int64_t label = task.labels[index + lane];
      vector.lanes.has_label[lane] = label >= 0 && label < classes ? -1 : 0;
    }
  }
  finish_rows<T>(vector.lanes, task, index, count);
  if (!task.pairs) return;
  const Mask<T> label_decides = ~vector.lanes.is_nan & vector.lanes.has_label;
  for (int lane = 0; lane < count; ++lane) write_pair(task, index + lane, vector.pairs[lane], label_decides[lane] != 0);
}

template <class Element, class T, bool kBias>
void score_rows(const RowScoresTask& task, int64_t begin, int64_t end) {
  const Rows<Element, T, kBias> rows{static_cast<const Element*>(task.logits), task.row_stride,
                                     static_cast<const T*>(task.bias)};
  const bool is_whole = task.is_first && task.is_last;
  const bool is_gap = task.kinds == kGap && !task.pairs;
  const bool is_short = is_whole && task.classes <= (is_gap ? kLanes<T> - 1 : kShortClasses);
  if (!is_short && is_whole && is_gap) return gap_of_rows<T>(rows, task, begin, end);
  for (int64_t index = begin; index < end; index += kLanes<T>) {
    const int count = static_cast<int>(end - index < kLanes<T> ? end - index : kLanes<T>);
    VectorOfRows<T> vector;
    if (is_short) vector.lanes = read_short_rows<T>(rows, task, index, count);
    else read_rows<T>(vector, rows, task, index, count);
    if (!task.is_last) continue;
    if (is_whole && (task.pairs || (task.kinds & kDistance))) find_classes<T>(vector, rows, task, index, count);
    finish_vector<T>(vector, task, index, count);
  }
}

}  // namespace

void row_scores(const RowScoresTask& task, int64_t begin, int64_t end) {
  switch (task.dtype) {
    case DType::kFloat32:
      return task.bias ? score_rows<float, float, true>(task, begin, end)
                       : score_rows<float, float, false>(task, begin, end);
    case DType::kFloat64:
      return task.bias ? score_rows<double, double, true>(task, begin, end)
                       : score_rows<double, double, false>(task, begin, end);
    case DType::kFloat16:
      return score_rows<Half, float, false>(task, begin, end);
    case DType::kBFloat16:
      return score_rows<BFloat, float, false>(task, begin, end);
  }
}

}  // namespace dynams::DYNAMS_ISA
