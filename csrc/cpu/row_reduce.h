// Passes over a stretch of a row: its two largest, whether it holds a NaN, its sums of exponentials, where a value is.
//
// The first two keep a result for each lane of a vector. Of one row they are then combined; where every lane is a row
// of its own (see short_rows.h) they are the answer.
#pragma once

#include "../common/kinds.h"
#include "row_source.h"
#include "simd_math.h"

namespace dynams::DYNAMS_ISA {
namespace {

// The two largest and the NaNs among the values of each lane: three vector operations a vector, and a comparison.
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
inline TopTwoLanes<T> top_two_lanes(const R& row, int64_t begin, int64_t end, NanSeen<T>& nan) {
  constexpr int kWidth = kLanes<T>;
  TopTwoLanes<T> even, odd;
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
  return even;
}

template <class T>
struct TopTwo {
  T largest, second;
  bool has_nan;
};

template <class T, class R>
inline TopTwo<T> top_two(const R& row, int64_t begin, int64_t end) {
  NanSeen<T> nan;
  TopTwoLanes<T> lanes = top_two_lanes<T>(row, begin, end, nan);
  lanes.merge_lanes();
  return {lanes.largest[0], lanes.second[0], nan.any()};
}

// Of d = z - largest where that is below 0, by lane: sums of exp(d), of its square, of exp(d) d. The largest itself is
// left out: 1 - p keeps its precision where p is nearly 1.
template <class T>
struct ExpSumLanes {
  Vec<T> sum{}, squares{}, shifted{};

  template <bool kSquares, bool kShifted>
  void add(Vec<T> x, Vec<T> largest) {
    const Vec<T> d = maximum<T>(x - largest, broadcast<T>(ExpConstants<T>::kLeast));
    const Vec<T> e = exp_negative<T>(d);
    sum += e;
    if constexpr (kSquares) squares = multiply_add<T>(e, e, squares);
    if constexpr (kShifted) shifted = multiply_add<T>(e, d, shifted);
  }
};

template <class T, bool kSquares, bool kShifted, class R>
inline ExpSumLanes<T> add_exp_lanes(const R& row, int64_t begin, int64_t end, Vec<T> largest) {
  constexpr int kWidth = kLanes<T>;
  ExpSumLanes<T> even, odd;
  int64_t place = begin;
  for (; place + 2 * kWidth <= end; place += 2 * kWidth) {
    even.template add<kSquares, kShifted>(row.whole(place), largest);
    odd.template add<kSquares, kShifted>(row.whole(place + kWidth), largest);
  }
  for (; place + kWidth <= end; place += kWidth) even.template add<kSquares, kShifted>(row.whole(place), largest);
  if (place < end) odd.template add<kSquares, kShifted>(row.partial(end, static_cast<int>(end - place)), largest);
  return {even.sum + odd.sum, even.squares + odd.squares, even.shifted + odd.shifted};
}

template <class T, class R>
inline ExpSumLanes<T> exp_sum_lanes(uint32_t kinds, const R& row, int64_t begin, int64_t end, Vec<T> largest) {
  const bool squares = kinds & kEl2n, shifted = kinds & kEntropy;
  if (squares && shifted) return add_exp_lanes<T, true, true>(row, begin, end, largest);
  if (squares) return add_exp_lanes<T, true, false>(row, begin, end, largest);
  if (shifted) return add_exp_lanes<T, false, true>(row, begin, end, largest);
  return add_exp_lanes<T, false, false>(row, begin, end, largest);
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

}  // namespace
}  // namespace dynams::DYNAMS_ISA
