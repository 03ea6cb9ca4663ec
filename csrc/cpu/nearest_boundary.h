// The nearest decision boundary of a row that can be read again, and the two classes whose difference is its margin.
#pragma once

#include "kernels.h"
#include "row_reduce.h"

namespace dynams::DYNAMS_ISA {
namespace {

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
inline T nearest_boundary(const R& row, const RowScoresTask& task, int64_t first) {
  const float* distances = task.class_distances + first * task.distances_stride;
  QuotientLanes<T> lanes{broadcast<T>(row.at(first))};
  add_quotients<T>(lanes, row, distances, 0, first);
  add_quotients<T>(lanes, row, distances, first + 1, task.classes);
  if (lanes.nan.any()) return std::numeric_limits<T>::quiet_NaN();
  return lane_minimum<T>(lanes.least);
}

// The lowest class that attains the minimum of `nearest_boundary`.
template <class T, class R>
inline int64_t nearest_class(const R& row, const RowScoresTask& task, int64_t first, T least) {
  const float* distances = task.class_distances + first * task.distances_stride;
  const T own = row.at(first);
  for (int64_t other = 0; other < task.classes; ++other) {
    if (other == first) continue;
    const T quotient = row.at(other) == own ? T(0) : (own - row.at(other)) / static_cast<T>(distances[other]);
    if (quotient == least) return other;
  }
  return first == 0 ? 1 : 0;
}

// Two classes, -1 while unknown.
struct ClassPair {
  int64_t first = -1, second = -1;
};

// Writes the classes of a row's margin, given where its two largest logits stand. Of several kinds asked for, the last
// of gap, distance, label decides.
inline void write_pair(const RowScoresTask& task, int64_t index, ClassPair pair, bool has_label) {
  if ((task.kinds & kLabel) && has_label) {
    const int64_t label = task.labels[index];
    pair = {label, pair.first == label ? pair.second : pair.first};
  }
  // A row without a margin still needs two classes that exist: its gradient is NaN whichever they are.
  task.pairs[2 * index] = pair.first < 0 ? 0 : pair.first;
  task.pairs[2 * index + 1] = pair.second < 0 ? 1 : pair.second;
}

}  // namespace
}  // namespace dynams::DYNAMS_ISA
