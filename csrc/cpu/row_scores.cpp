// Scores of rows of logits: compiled once per instruction set.
//
// A row is read from memory once, in chunks that stay in the first-level cache. Of each chunk the first pass keeps the
// two largest (three vector operations a vector) and whether it holds a NaN; where a softmax is asked for, the second
// pass, from cache, sums exponentials relative to the largest so far, leaving out the largest itself: 1 - p keeps its
// precision where p is nearly 1. Chunks are merged in index order, so a row's scores do not depend on threads or on how
// rows are dealt to them.
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
    second = maximum<T>(second, maximum<T>(low, minimum<T>(largest, high)));
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
    const Vec<T> d = maximum<T>(x - largest, broadcast<T>(ExpConstants<T>::kLeast));
    const Vec<T> e = exp_negative<T>(d);
    sum += e;
    if constexpr (kSquares) squares = multiply_add<T>(e, e, squares);
    if constexpr (kShifted) shifted = multiply_add<T>(e, d, shifted);
  }
};

template <class T, bool kSquares, bool kShifted, class R>
inline ExpSums exp_sums(const R& row, int64_t begin, int64_t end, T largest) {
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
  ExpSums sums;
  sums.sum = lane_sum<T>(even.sum + odd.sum);
  if constexpr (kSquares) sums.squares = lane_sum<T>(even.squares + odd.squares);
  if constexpr (kShifted) sums.shifted = lane_sum<T>(even.shifted + odd.shifted);
  return sums;
}

template <class T, class R>
inline ExpSums exp_sums_for(uint32_t kinds, const R& row, int64_t begin, int64_t end, T largest) {
  const bool squares = kinds & kEl2n, shifted = kinds & kEntropy;
  if (squares && shifted) return exp_sums<T, true, true>(row, begin, end, largest);
  if (squares) return exp_sums<T, true, false>(row, begin, end, largest);
  if (shifted) return exp_sums<T, false, true>(row, begin, end, largest);
  return exp_sums<T, false, false>(row, begin, end, largest);
}

template <class T, class R>
inline int64_t count_equal(const R& row, int64_t begin, int64_t end, T value) {
  int64_t count = 0;
  for (int64_t place = begin; place < end; ++place) count += row.at(place) == value;
  return count;
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

// Makes the sums relative to a larger logit: what was largest joins them.
inline void rescale_sums(RowState& state, double largest) {
  const double shift = state.largest - largest;
  const double scale = std::exp(shift);
  const double sum = state.sum + state.ties;
  state.sum = scale * sum;
  state.sum_squares = scale * scale * (state.sum_squares + state.ties);
  // From -inf, or to +inf, nothing of the old sums is left: 0, not 0 * inf.
  state.sum_shifted = scale == 0 ? 0 : scale * (state.sum_shifted + shift * sum);
  state.ties = 0;
}

template <class T, class R>
inline void add_chunk_sums(RowState& state, const R& row, int64_t begin, int64_t end, const TopTwo<T>& top,
                           double largest, uint32_t kinds) {
  if (largest > state.largest) rescale_sums(state, largest);
  if (top.largest == largest)
    state.ties += top.second < top.largest ? 1 : static_cast<double>(count_equal<T>(row, begin, end, top.largest));
  // Beside an infinite logit the others weigh nothing, in the limit.
  if (std::isinf(largest)) return;
  const ExpSums sums = exp_sums_for<T>(kinds, row, begin, end, static_cast<T>(largest));
  state.sum += sums.sum;
  state.sum_squares += sums.squares;
  state.sum_shifted += sums.shifted;
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

template <class T>
inline T difference(T larger, T smaller) {
  return larger == smaller ? T(0) : larger - smaller;
}

template <class T>
inline Vec<T> load_distances(const float* from, int count) {
  if constexpr (sizeof(T) == 4) {
    if (count == kLanes<T>) return load<float>(from);
    return load_first(from, count, 1.0f);
  } else {
    T wide[kLanes<T>];
    for (int lane = 0; lane < kLanes<T>; ++lane) wide[lane] = lane < count ? from[lane] : 1.0f;
    return load<T>(wide);
  }
}

// The least of (own - z_c) / distance(c) over lanes, as `nearest_boundary` takes it.
template <class T>
struct QuotientLanes {
  const Vec<T> own;
  Vec<T> least = broadcast<T>(-kNothing<T>);
  NanSeen<T> nan{};

  void add(Vec<T> other, Vec<T> distance) {
    const Vec<T> quotient = other == own ? Vec<T>{} : (own - other) / distance;
    nan.note(quotient, quotient);
    least = minimum<T>(quotient, least);
  }
};

template <class T, class R>
inline void add_quotients(QuotientLanes<T>& lanes, const R& row, const float* distances, int64_t begin, int64_t end) {
  constexpr int kWidth = kLanes<T>;
  int64_t place = begin;
  for (; place + kWidth <= end; place += kWidth)
    lanes.add(row.whole(place), load_distances<T>(distances + place, kWidth));
  if (place == end) return;
  T logits[kWidth];
  const int count = static_cast<int>(end - place);
  for (int lane = 0; lane < kWidth; ++lane) logits[lane] = lane < count ? row.at(place + lane) : kNothing<T>;
  lanes.add(load<T>(logits), load_distances<T>(distances + place, count));
}

// min over c != first of (z_first - z_c) / distance(first, c).
template <class T, class R>
inline double nearest_boundary(const R& row, const RowScoresTask& task, int64_t first) {
  const float* distances = task.class_distances + first * task.distances_stride;
  QuotientLanes<T> lanes{broadcast<T>(row.at(first))};
  add_quotients<T>(lanes, row, distances, 0, first);
  add_quotients<T>(lanes, row, distances, first + 1, task.classes);
  if (lanes.nan.any()) return std::numeric_limits<double>::quiet_NaN();
  return lane_minimum<T>(lanes.least);
}

// The lowest class that attains the minimum of `nearest_boundary`.
template <class T, class R>
inline int64_t nearest_class(const R& row, const RowScoresTask& task, int64_t first, double least) {
  const float* distances = task.class_distances + first * task.distances_stride;
  const T own = row.at(first);
  for (int64_t other = 0; other < task.classes; ++other) {
    if (other == first) continue;
    const T quotient = row.at(other) == own ? T(0) : (own - row.at(other)) / static_cast<T>(distances[other]);
    if (quotient == least) return other;
  }
  return first == 0 ? 1 : 0;
}

template <class T>
struct SoftmaxScores {
  T probability, loss, el2n, entropy, confidence;
};

template <class T>
inline SoftmaxScores<T> softmax_scores(const RowState& state, bool has_label, uint32_t kinds) {
  SoftmaxScores<T> out{};
  const T total = static_cast<T>(state.sum + state.ties);
  const T not_one_largest = static_cast<T>(state.sum + (state.ties - 1));
  const T log_total = !(kinds & (kLoss | kEntropy)) ? 0
                      : state.ties == 1             ? std::log1p(not_one_largest)
                                                    : std::log(total);
  // 1 - exp(-gap) = -expm1(-gap): no cancellation where the two largest are close.
  if (kinds & kProbability)
    out.probability = -std::expm1(-static_cast<T>(difference(state.largest, state.second))) / total;
  if (kinds & kConfidence) out.confidence = not_one_largest / total;
  if (kinds & kEntropy) {
    const T entropy = log_total - static_cast<T>(state.sum_shifted) / total;
    out.entropy = entropy > 0 ? entropy : 0;
  }
  if (!has_label) return out;
  const T own_shifted = static_cast<T>(difference(state.own, state.largest));
  if (kinds & kLoss) out.loss = log_total - own_shifted;
  if (kinds & kEl2n) {
    // ||p - y||^2 = sum of p_c^2 over the others + (1 - p_y)^2, and 1 - p_y is the others' sum. Taking the label out
    // cancels nothing: either it is the largest, which the sums leave out, or the largest outweighs it.
    const T own = std::exp(own_shifted);
    const T others = state.own == state.largest ? not_one_largest : total - own;
    const T squares = static_cast<T>(state.sum_squares + state.ties) - own * own;
    const T exact = state.own == state.largest ? static_cast<T>(state.sum_squares + (state.ties - 1)) : squares;
    out.el2n = std::sqrt(exact + others * others) / total;
  }
  return out;
}

template <class T, class R>
inline void finish_row(const RowState& state, const R& row, const RowScoresTask& task, int64_t index) {
  T* scores = static_cast<T*>(task.scores) + index;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const uint32_t kinds = task.kinds;
  int64_t first = state.first_class, second = state.second_class;
  SoftmaxScores<T> softmax{};
  if ((kinds & kSoftmaxKinds) && !state.has_nan) softmax = softmax_scores<T>(state, task.labels != nullptr, kinds);
  for (uint32_t kind = 1; kind <= kinds; kind <<= 1) {
    if (!(kinds & kind)) continue;
    double score = nan;
    if (!state.has_nan) switch (kind) {
        case kGap:
          score = difference(state.largest, state.second);
          break;
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
          score = nearest_boundary<T>(row, task, first);
          if (task.pairs) second = nearest_class<T>(row, task, first, score);
          break;
        }
        case kProbability:
          score = softmax.probability;
          break;
        case kLoss:
          score = softmax.loss;
          break;
        case kEl2n:
          score = softmax.el2n;
          break;
        case kEntropy:
          score = softmax.entropy;
          break;
        case kConfidence:
          score = softmax.confidence;
          break;
      }
    *scores = static_cast<T>(score);
    scores += task.scores_stride;
  }
  if (!task.pairs) return;
  // A row without a margin still needs two classes that exist: its gradient is NaN whichever they are.
  task.pairs[2 * index] = first < 0 ? 0 : first;
  task.pairs[2 * index + 1] = second < 0 ? 1 : second;
}

// The gap alone, of whole rows: nothing to remember but the two largest.
template <class Element, class T, bool kBias>
void gap_of_rows(const RowScoresTask& task, int64_t begin, int64_t end) {
  T* scores = static_cast<T*>(task.scores);
  for (int64_t index = begin; index < end; ++index) {
    const Element* logits = static_cast<const Element*>(task.logits) + index * task.row_stride;
    const Row<Element, T, kBias> row{logits, static_cast<const T*>(task.bias)};
    const TopTwo<T> top = top_two<T>(row, 0, task.classes);
    scores[index] = top.has_nan ? std::numeric_limits<T>::quiet_NaN() : difference(top.largest, top.second);
  }
}

template <class Element, class T, bool kBias>
void score_rows(const RowScoresTask& task, int64_t begin, int64_t end) {
  if (task.kinds == kGap && !task.states && !task.pairs) return gap_of_rows<Element, T, kBias>(task, begin, end);
  const double nothing = -std::numeric_limits<double>::infinity();
  for (int64_t index = begin; index < end; ++index) {
    const Element* logits = static_cast<const Element*>(task.logits) + index * task.row_stride;
    const Row<Element, T, kBias> row{logits, static_cast<const T*>(task.bias)};
    RowState local;
    RowState& state = task.states ? task.states[index] : local;
    if (task.is_first) state = RowState{nothing, nothing, nothing, 0, 0, 0, 0, -1, -1, false};
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
