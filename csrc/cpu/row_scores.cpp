// Scores of rows of logits: compiled once per instruction set.
//
// A row is read from memory once, in chunks that stay in the first-level cache. Of each chunk the first pass keeps the
// two largest (three vector operations a vector) and whether it holds a NaN; where a softmax is asked for, the second
// pass, from cache, sums exponentials relative to the largest so far. Chunks are merged in index order, so a row's scores
// do not depend on threads or on how rows are dealt to them.
#include <cmath>

#include "kernels.h"
#include "row_source.h"

namespace dynams::DYNAMS_ISA {
namespace {

constexpr int64_t kChunk = 4096;  // 16 KB of float: half a first-level cache

template <class T>
struct TopTwo {
  T largest, second;
  bool has_nan;
};

template <class T>
struct TopTwoLanes {
  Vec<T> largest = broadcast<T>(kNothing<T>), second = broadcast<T>(kNothing<T>);

  void add(Vec<T> x) {
    second = maximum<T>(second, minimum<T>(largest, x));
    largest = maximum<T>(largest, x);
  }
  void add(Vec<T> x, Vec<T> y) {
    const Vec<T> high = maximum<T>(x, y), low = minimum<T>(x, y);
    second = maximum<T>(maximum<T>(second, low), minimum<T>(largest, high));
    largest = maximum<T>(largest, high);
  }
  void merge(const TopTwoLanes& other) {
    second = maximum<T>(maximum<T>(second, other.second), minimum<T>(largest, other.largest));
    largest = maximum<T>(largest, other.largest);
  }
  template <int kStep = kLanes<T> / 2>
  void merge_lanes() {
    if constexpr (kStep > 0) {
      merge(TopTwoLanes{exchange<T, kStep>(largest), exchange<T, kStep>(second)});
      merge_lanes<kStep / 2>();
    }
  }
};

template <class T, class R>
inline TopTwo<T> top_two(const R& row, int64_t begin, int64_t end) {
  constexpr int kWidth = kLanes<T>;
  TopTwoLanes<T> even, odd;
  NanSeen<T> nan;
  int64_t place = begin;
  for (; place + 4 * kWidth <= end; place += 4 * kWidth) {
    const Vec<T> a = row.whole(place), b = row.whole(place + kWidth);
    const Vec<T> c = row.whole(place + 2 * kWidth), d = row.whole(place + 3 * kWidth);
    nan.note(a, b);
    nan.note(c, d);
    even.add(a, b);
    odd.add(c, d);
  }
  for (; place + kWidth <= end; place += kWidth) {
    const Vec<T> x = row.whole(place);
    nan.note(x, x);
    even.add(x);
  }
  if (place < end) {
    const Vec<T> x = row.partial(end, static_cast<int>(end - place));
    nan.note(x, x);
    odd.add(x);
  }
  even.merge(odd);
  even.merge_lanes();
  return {even.largest[0], even.second[0], nan.any()};
}

struct ExpSums {
  double sum = 0, squares = 0, shifted = 0;
};

template <class T, bool kSquares, bool kShifted>
struct ExpSumLanes {
  Vec<T> sum{}, squares{}, shifted{};

  void add(Vec<T> x, Vec<T> largest) {
    const Vec<T> d = x - largest;
    const Vec<T> e = exp_nonpositive<T>(d);
    sum += e;
    if constexpr (kSquares) squares = multiply_add<T>(e, e, squares);
    // A -inf logit has e = 0 and must add 0, not 0 * inf.
    if constexpr (kShifted) shifted = multiply_add<T>(e, maximum<T>(d, broadcast<T>(ExpConstants<T>::kLeast)), shifted);
  }
};

template <class T, bool kSquares, bool kShifted, class R>
inline void add_exp_sums(const R& row, int64_t begin, int64_t end, T largest, ExpSums& sums) {
  constexpr int kWidth = kLanes<T>;
  const Vec<T> offset = broadcast<T>(largest);
  ExpSumLanes<T, kSquares, kShifted> even, odd;
  int64_t place = begin;
  for (; place + 2 * kWidth <= end; place += 2 * kWidth) {
    even.add(row.whole(place), offset);
    odd.add(row.whole(place + kWidth), offset);
  }
  for (; place + kWidth <= end; place += kWidth) even.add(row.whole(place), offset);
  if (place < end) odd.add(row.partial(end, static_cast<int>(end - place)), offset);
  sums.sum += lane_sum<T>(even.sum + odd.sum);
  if constexpr (kSquares) sums.squares += lane_sum<T>(even.squares + odd.squares);
  if constexpr (kShifted) sums.shifted += lane_sum<T>(even.shifted + odd.shifted);
}

// The limit of the exponentials where the largest is infinite: 1 where a logit equals it, 0 elsewhere.
template <class T, class R>
inline void add_equal_counts(const R& row, int64_t begin, int64_t end, T largest, ExpSums& sums) {
  for (int64_t place = begin; place < end; ++place) {
    if (row.at(place) != largest) continue;
    sums.sum += 1;
    sums.squares += 1;
  }
}

template <class T, class R>
inline void add_segment(const R& row, int64_t begin, int64_t end, T largest, uint32_t kinds, ExpSums& sums) {
  if (begin >= end) return;
  if (std::isinf(largest)) return add_equal_counts<T>(row, begin, end, largest, sums);
  const bool squares = kinds & kEl2n, shifted = kinds & kEntropy;
  if (squares && shifted) add_exp_sums<T, true, true>(row, begin, end, largest, sums);
  else if (squares) add_exp_sums<T, true, false>(row, begin, end, largest, sums);
  else if (shifted) add_exp_sums<T, false, true>(row, begin, end, largest, sums);
  else add_exp_sums<T, false, false>(row, begin, end, largest, sums);
}

// The lowest place in [begin, end) except `skip` that holds `value`, -1 where none does.
template <class T, class R>
inline int64_t find_value(const R& row, int64_t begin, int64_t end, T value, int64_t skip) {
  int64_t place = begin;
  const Vec<T> wanted = broadcast<T>(value);
  for (; place + kLanes<T> <= end; place += kLanes<T>) {
    if (!any<T>(row.whole(place) == wanted)) continue;
    for (int64_t at = place; at < place + kLanes<T>; ++at)
      if (at != skip && row.at(at) == value) return at;
  }
  for (; place < end; ++place)
    if (place != skip && row.at(place) == value) return place;
  return -1;
}

// Takes the two largest of a chunk into the row's, with their classes; what came earlier wins ties.
template <class T, class R>
inline void merge_classes(RowState& state, const R& row, int64_t begin, int64_t end, const TopTwo<T>& top, int64_t offset) {
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

inline void rescale_sums(RowState& state, double largest) {
  if (state.largest == largest) return;
  if (std::isinf(state.largest) || std::isinf(largest)) {
    state.sum = state.sum_squares = state.sum_shifted = 0;
    return;
  }
  const double shift = state.largest - largest;
  const double scale = std::exp(shift);
  state.sum_shifted = scale * (state.sum_shifted + shift * state.sum);
  state.sum_squares *= scale * scale;
  state.sum *= scale;
}

// Reads classes [begin, end) of a block into the row's state; `label` counts from the block's first class.
template <class T, class R>
inline void read_chunk(RowState& state, const R& row, int64_t begin, int64_t end, const RowScoresTask& task, int64_t label) {
  const TopTwo<T> top = top_two<T>(row, begin, end);
  state.has_nan |= top.has_nan;
  if (task.pairs) merge_classes<T>(state, row, begin, end, top, task.class_offset);
  const double largest = top.largest > state.largest ? top.largest : state.largest;
  const double lesser = top.largest > state.largest ? state.largest : top.largest;
  const double second = top.second > state.second ? top.second : state.second;
  const bool labelled = label >= begin && label < end;
  if (labelled) state.own = row.at(label);
  if (task.kinds & kSoftmaxKinds) {
    rescale_sums(state, largest);
    ExpSums sums;
    const T offset = static_cast<T>(largest);
    if (labelled) {
      add_segment<T>(row, begin, label, offset, task.kinds, sums);
      add_segment<T>(row, label + 1, end, offset, task.kinds, sums);
    } else {
      add_segment<T>(row, begin, end, offset, task.kinds, sums);
    }
    state.sum += sums.sum;
    state.sum_squares += sums.squares;
    state.sum_shifted += sums.shifted;
  }
  state.largest = largest;
  state.second = lesser > second ? lesser : second;
}

inline double difference(double larger, double smaller) { return larger == smaller ? 0.0 : larger - smaller; }

// min over c != first of (z_first - z_c) / distance(first, c), and the lowest c that attains it.
template <class T, class R>
inline double nearest_boundary(const R& row, const RowScoresTask& task, int64_t first, int64_t* nearest) {
  const T own = row.at(first);
  const float* distances = task.class_distances + first * task.distances_stride;
  T least = -kNothing<T>;
  bool has_nan = false;
  *nearest = first == 0 ? 1 : 0;
  // Sixteen quotients at a time keep the division units busy without a vector form for each type pair.
  constexpr int kBlock = 16;
  for (int64_t begin = 0; begin < task.classes; begin += kBlock) {
    const int count = static_cast<int>(task.classes - begin < kBlock ? task.classes - begin : kBlock);
    T quotients[kBlock];
    for (int lane = 0; lane < count; ++lane) {
      const T other = row.at(begin + lane);
      const T quotient = (own - other) / static_cast<T>(distances[begin + lane]);
      quotients[lane] = own == other ? T(0) : quotient;
    }
    for (int lane = 0; lane < count; ++lane) {
      if (begin + lane == first) continue;
      has_nan |= quotients[lane] != quotients[lane];
      if (quotients[lane] < least) {
        least = quotients[lane];
        *nearest = begin + lane;
      }
    }
  }
  return has_nan ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(least);
}

// The scores of a finished row that need a softmax, in double: they are a few operations a row.
struct SoftmaxScores {
  double probability, loss, el2n, entropy, confidence;
};

inline SoftmaxScores softmax_scores(const RowState& state, bool has_label, uint32_t kinds) {
  SoftmaxScores out{};
  const bool own_is_largest = state.own == state.largest;
  const double own_shifted = has_label ? difference(state.own, state.largest) : 0;
  const double own_exp = !has_label ? 0 : own_is_largest ? 1 : std::exp(own_shifted);
  const double total = state.sum + own_exp;
  if (kinds & kProbability) out.probability = -std::expm1(-difference(state.largest, state.second)) / total;
  if (kinds & kConfidence) out.confidence = (has_label && own_is_largest ? state.sum : total - 1) / total;
  const double log_total = (kinds & (kLoss | kEntropy)) == 0      ? 0
                           : has_label && own_is_largest ? std::log1p(state.sum)
                                                                  : std::log(total);
  if (kinds & kLoss) out.loss = log_total - own_shifted;
  if (kinds & kEl2n) out.el2n = std::sqrt(state.sum_squares + state.sum * state.sum) / total;
  if (kinds & kEntropy) {
    const double own_term = own_exp > 0 ? own_exp * own_shifted : 0;
    const double entropy = log_total - (state.sum_shifted + own_term) / total;
    out.entropy = entropy > 0 ? entropy : 0;
  }
  return out;
}

template <class T, class R>
inline void finish_row(const RowState& state, const R& row, const RowScoresTask& task, int64_t index) {
  T* scores = static_cast<T*>(task.scores) + index;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const uint32_t kinds = task.kinds;
  int64_t first = state.first_class, second = state.second_class;
  SoftmaxScores softmax{};
  if ((kinds & kSoftmaxKinds) && !state.has_nan) softmax = softmax_scores(state, task.labels != nullptr, kinds);
  for (uint32_t kind = 1; kind <= kinds; kind <<= 1) {
    if (!(kinds & kind)) continue;
    double score = nan;
    if (!state.has_nan) switch (kind) {
        case kGap: score = difference(state.largest, state.second); break;
        case kLabel: {
          const double others = state.own == state.largest ? state.second : state.largest;
          score = difference(state.own, others);
          if (task.pairs) {
            second = first == task.labels[index] ? second : first;
            first = task.labels[index];
          }
          break;
        }
        case kDistance: {
          first = find_value<T>(row, 0, task.classes, static_cast<T>(state.largest), -1);
          score = nearest_boundary<T>(row, task, first, &second);
          break;
        }
        case kProbability: score = softmax.probability; break;
        case kLoss: score = softmax.loss; break;
        case kEl2n: score = softmax.el2n; break;
        case kEntropy: score = softmax.entropy; break;
        case kConfidence: score = softmax.confidence; break;
      }
    *scores = static_cast<T>(score);
    scores += task.scores_stride;
  }
  if (!task.pairs) return;
  // A row without a margin still needs two classes that exist: its gradient is NaN whichever they are.
  task.pairs[2 * index] = first < 0 ? 0 : first;
  task.pairs[2 * index + 1] = second < 0 ? 1 : second;
}

template <class Element, class T, bool kBias>
void score_rows(const RowScoresTask& task, int64_t begin, int64_t end) {
  const double nothing = -std::numeric_limits<double>::infinity();
  for (int64_t index = begin; index < end; ++index) {
    const Element* logits = static_cast<const Element*>(task.logits) + index * task.row_stride;
    const Row<Element, T, kBias> row{logits, static_cast<const T*>(task.bias)};
    RowState fresh{nothing, nothing, nothing, 0, 0, 0, -1, -1, false};
    RowState& state = task.states ? task.states[index] : fresh;
    if (task.is_first) state = fresh;
    const int64_t label = task.labels ? task.labels[index] - task.class_offset : -1;
    for (int64_t place = 0; place < task.classes; place += kChunk) {
      const int64_t stop = place + kChunk < task.classes ? place + kChunk : task.classes;
      read_chunk<T>(state, row, place, stop, task, label);
    }
    if (task.is_last) finish_row<T>(state, row, task, index);
  }
}

}  // namespace

void row_scores(const RowScoresTask& task, int64_t begin, int64_t end) {
  switch (task.dtype) {
    case DType::kFloat32:
      return task.bias ? score_rows<float, float, true>(task, begin, end) : score_rows<float, float, false>(task, begin, end);
    case DType::kFloat64:
      return task.bias ? score_rows<double, double, true>(task, begin, end)
                       : score_rows<double, double, false>(task, begin, end);
    case DType::kFloat16: return score_rows<Half, float, false>(task, begin, end);
    case DType::kBFloat16: return score_rows<BFloat, float, false>(task, begin, end);
  }
}

}  // namespace dynams::DYNAMS_ISA
