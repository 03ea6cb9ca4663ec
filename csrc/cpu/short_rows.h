// Rows of few classes, a vector of rows at a time.
//
// The rows are transposed in registers into a block of first-level cache where a vector holds one class of all of them.
// That block is read as a single row would be (row_reduce.h), only that its lanes are never combined: each is a row. So
// no vector is partly empty, and nothing but the look-up of its label is done for one row alone.
#pragma once

#include "row_finish.h"
#include "row_reduce.h"
#include "row_state.h"

namespace dynams::DYNAMS_ISA {
namespace {

// Up to so many classes, transposing rows costs less than combining the lanes of each, where sums of exponentials are
// wanted. Where only the two largest are, it pays for rows that do not fill a vector.
constexpr int64_t kShortClasses = 64;

// Transposes classes [place, place + lanes) of the `count` rows from `index` on, or all classes where a row has fewer;
// past the rows' end, the last is repeated.
template <class T, class R>
inline void transpose_classes(const R& rows, int64_t index, int count, int64_t place, int64_t classes, T* to) {
  Vec<T> square[kLanes<T>];
  // Where rows are adjacent these are the lines two vectors of rows ahead, in the order they lie in: read across rows,
  // memory is not foreseen by the hardware. They may lie past the end, where a prefetch does nothing.
  const auto* ahead = rows[index + 2 * kLanes<T>].logits + place * kLanes<T>;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    const auto row = rows[index + (lane < count ? lane : count - 1)];
    __builtin_prefetch(ahead + lane * kLanes<T>);
    square[lane] = classes >= kLanes<T> ? row.whole(place) : row.partial(classes, static_cast<int>(classes));
  }
  transpose<T>(square);
  std::memcpy(to, square, sizeof(square));
}

// Writes to[class][row], with room for as many classes as a vector has lanes.
template <class T, class R>
inline void transpose_rows(const R& rows, int64_t index, int count, int64_t classes, T* to) {
  constexpr int kWidth = kLanes<T>;
  int64_t place = 0;
  for (; place + kWidth <= classes; place += kWidth)
    transpose_classes<T>(rows, index, count, place, classes, to + place * kWidth);
  if (place == classes) return;
  // What is left, together with the classes before that make it a whole vector.
  const int64_t from = classes < kWidth ? 0 : classes - kWidth;
  transpose_classes<T>(rows, index, count, from, classes, to + from * kWidth);
}

// How many classes have the largest logit, by row.
template <class T, class R>
inline Vec<T> count_ties(const R& block, int64_t end, Vec<T> largest) {
  Mask<T> ties{};
  for (int64_t place = 0; place < end; place += kLanes<T>) ties -= block.whole(place) == largest;
  return __builtin_convertvector(ties, Vec<T>);
}

// Reads `count` whole rows, at most as many as a vector has lanes.
template <class T, class R>
inline RowLanes<T> read_short_rows(const R& rows, const RowScoresTask& task, int64_t index, int count) {
  alignas(kVectorBytes) T logits[kShortClasses * kLanes<T>];
  transpose_rows<T>(rows, index, count, task.classes, logits);
  const Row<T, T, false> block{logits, nullptr};
  const int64_t end = task.classes * kLanes<T>;
  NanSeen<T> nan;
  const TopTwoLanes<T> top = top_two_lanes<T>(block, 0, end, nan);
  RowLanes<T> out;
  out.largest = top.largest;
  out.second = top.second;
  out.is_nan = nan.lanes();
  if (task.kinds & kLabelledKinds)
    for (int lane = 0; lane < count; ++lane) {
      const int64_t label = label_place(task, index + lane);
      if (label >= 0) out.own[lane] = logits[label * kLanes<T> + lane];
    }
  if (!(task.kinds & kSoftmaxKinds)) return out;
  const ExpSumLanes<T> sums = exp_sum_lanes<T>(task.kinds, block, 0, end, top.largest);
  // Beside an infinite logit the others weigh nothing, in the limit.
  const Mask<T> is_finite = (top.largest - top.largest) == Vec<T>{};
  out.others = is_finite ? sums.sum : Vec<T>{};
  out.squares = is_finite ? sums.squares : Vec<T>{};
  out.shifted = is_finite ? sums.shifted : Vec<T>{};
  if (any<T>(top.largest == top.second)) {
    const Vec<T> other_ties = count_ties<T>(block, end, top.largest) - T(1);
    out.others += other_ties;
    out.squares += other_ties;
  }
  return out;
}

}  // namespace
}  // namespace dynams::DYNAMS_ISA
