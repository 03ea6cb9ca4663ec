// Scores of several rows at once, a row a lane, from what was learnt of them: the logarithms, exponentials and roots at
// the end of a row cost more than reading a hundred classes, one row at a time.
#pragma once

#include <limits>

#include "kernels.h"
#include "simd_math.h"

namespace dynams::DYNAMS_ISA {
namespace {

// What the scores of a vector of rows are made of.
template <class T>
struct RowLanes {
  Vec<T> largest{}, second{};  // the two largest logits
  Vec<T> own{};                // the label's logit
  // Sums over all classes but one of the largest, relative to the largest: of e = exp(z - largest), of e^2, and of
  // e * (z - largest).
  Vec<T> others{}, squares{}, shifted{};
  Vec<T> distance{};  // the score of that kind, found with the row at hand
  Mask<T> is_nan{};
  Mask<T> has_label{};  // whether the label is a class

  void set(int lane, const RowState& state) {
    largest[lane] = static_cast<T>(state.largest);
    second[lane] = static_cast<T>(state.second);
    own[lane] = static_cast<T>(state.own);
    others[lane] = static_cast<T>(state.sum + (state.ties - 1));
    squares[lane] = static_cast<T>(state.sum_squares + (state.ties - 1));
    shifted[lane] = static_cast<T>(state.sum_shifted);
    is_nan[lane] = state.has_nan ? -1 : 0;
  }
};

// a - b, where equal values (infinities too) differ by zero.
template <class T>
inline Vec<T> difference(Vec<T> a, Vec<T> b) {
  return a == b ? Vec<T>{} : a - b;
}

// Writes the scores of the first `count` rows, one kind after the other.
template <class T>
class ScoreWriter {
 public:
  ScoreWriter(const RowScoresTask& task, int64_t index, int count)
      : to_(static_cast<T*>(task.scores) + index), stride_(task.scores_stride), count_(count) {}

  void next(Vec<T> scores, Mask<T> is_known) {
    const Vec<T> value = is_known ? scores : broadcast<T>(std::numeric_limits<T>::quiet_NaN());
    if (count_ == kLanes<T>) std::memcpy(to_, &value, sizeof(value));
    else
      for (int lane = 0; lane < count_; ++lane) to_[lane] = value[lane];
    to_ += stride_;
  }

 private:
  T* to_;
  int64_t stride_;
  int count_;
};

// ||p - y||, y the label: its square is the sum of p_c^2 over the others plus (1 - p_y)^2, and 1 - p_y is the others'
// sum. Taking the label out cancels nothing: either it is the largest, which the sums leave out, or the largest
// outweighs it.
template <class T>
inline Vec<T> error_norm(const RowLanes<T>& rows, Vec<T> total, Vec<T> own_shifted) {
  const Vec<T> own = exp_negative<T>(maximum<T>(own_shifted, broadcast<T>(ExpConstants<T>::kLeast)));
  const Mask<T> is_largest = own_shifted == Vec<T>{};
  const Vec<T> others = is_largest ? rows.others : total - own;
  const Vec<T> squares = is_largest ? rows.squares : (rows.squares + T(1)) - own * own;
  return square_root<T>(squares + others * others) / total;
}

// The scores of `count` rows from row `index` on, of every kind asked for.
template <class T>
inline void finish_rows(const RowLanes<T>& rows, const RowScoresTask& task, int64_t index, int count) {
  const uint32_t kinds = task.kinds;
  ScoreWriter<T> writer(task, index, count);
  const Mask<T> known = ~rows.is_nan, known_label = known & rows.has_label;
  const Vec<T> gap = difference<T>(rows.largest, rows.second);
  const Vec<T> total = rows.others + T(1);
  const Vec<T> log_total = kinds & (kLoss | kEntropy | kLogsumexp) ? log_one_plus<T>(rows.others) : Vec<T>{};
  const Vec<T> own_shifted = difference<T>(rows.own, rows.largest);
  // In the order of the kinds' bits.
  if (kinds & kGap) writer.next(gap, known);
  if (kinds & kProbability) writer.next(one_minus_exp<T>(-gap) / total, known);
  if (kinds & kDistance) writer.next(rows.distance, known);
  if (kinds & kLabel)
    writer.next(difference<T>(rows.own, rows.own == rows.largest ? rows.second : rows.largest), known_label);
  if (kinds & kLoss) writer.next(log_total - own_shifted, known_label);
  if (kinds & kEl2n) writer.next(error_norm<T>(rows, total, own_shifted), known_label);
  if (kinds & kEntropy) {
    const Vec<T> entropy = log_total - rows.shifted / total;
    writer.next(entropy > 0 ? entropy : Vec<T>{}, known);
  }
  if (kinds & kConfidence) writer.next(rows.others / total, known);
  if (kinds & kLogsumexp) writer.next(rows.largest + log_total, known);
}

}  // namespace
}  // namespace dynams::DYNAMS_ISA
