// From what is known of a row to its scores.
#pragma once

#include "../common/kinds.h"
#include "row_accumulator.cuh"

namespace dynams {

// larger - smaller, 0 where they are equal: two equal infinities have no margin between them.
template <class T>
__device__ __forceinline__ T difference(T larger, T smaller) {
  return larger == smaller ? T(0) : larger - smaller;
}

// (z_p - z_c) / distance(p, c); classes that agree are at distance 0, also where their weights coincide (0 / 0).
template <class T>
__device__ __forceinline__ T boundary_distance(T own, T other, float class_distance) {
  const T rise = difference(own, other);
  return rise == T(0) ? T(0) : rise / static_cast<T>(class_distance);
}

// What a row's scores are made of beside its state.
template <class T>
struct RowFacts {
  T own;          // the label's logit
  bool labelled;  // whether the label is one of the classes
  T nearest;      // the distance to the nearest boundary
  int64_t classes;
};

template <class T>
struct RowScorer {
  RowState<T> state;
  RowFacts<T> facts;
  T total, not_largest, log_total;

  __device__ __forceinline__ RowScorer(const RowState<T>& of, const RowFacts<T>& with, uint32_t kinds)
      : state(of), facts(with), total(1), not_largest(0), log_total(0) {
    if (!(kinds & kSoftmaxKinds)) return;
    // Of nothing but -inf the sums count also the filling of lanes with nothing to read.
    if (state.largest == -infinity<T>()) {
      state.ties = static_cast<T>(facts.classes);
      state.mass = state.mass_squares = state.mass_shifted = 0;
    }
    total = state.mass + state.ties;
    not_largest = state.mass + (state.ties - T(1));
    if (kinds & (kLoss | kEntropy | kLogsumexp)) log_total = state.ties == T(1) ? log1p(not_largest) : log(total);
  }

  __device__ __forceinline__ T gap() const { return difference(state.largest, state.second); }

  __device__ __forceinline__ T label() const {
    return difference(facts.own, facts.own == state.largest ? state.second : state.largest);
  }

  // p1 - p2 = p1 (1 - exp(-gap)): no cancellation where the two largest are close.
  __device__ __forceinline__ T probability() const { return -expm1(-gap()) / total; }

  __device__ __forceinline__ T confidence() const { return not_largest / total; }

  __device__ __forceinline__ T entropy() const { return greater(log_total - state.mass_shifted / total, T(0)); }

  __device__ __forceinline__ T loss() const { return log_total - difference(facts.own, state.largest); }

  // ||p - y||^2 = sum of p_c^2 over the others + (1 - p_y)^2, and 1 - p_y is the others' sum. Taking the label out
  // cancels nothing: either it is the largest, which the sums leave out, or the largest outweighs it.
  __device__ __forceinline__ T el2n() const {
    T others = not_largest, squares = state.mass_squares + (state.ties - T(1));
    if (facts.own != state.largest) {
      const T weight = exp(difference(facts.own, state.largest));
      others = total - weight;
      squares = state.mass_squares + state.ties - times(weight, weight);
    }
    return sqrt(fma(others, others, squares)) / total;
  }

  __device__ __forceinline__ T score(uint32_t kind) const {
    switch (kind) {
      case kGap:
        return gap();
      case kProbability:
        return probability();
      case kDistance:
        return facts.nearest;
      case kLabel:
        return label();
      case kLoss:
        return loss();
      case kEl2n:
        return el2n();
      case kEntropy:
        return entropy();
      case kLogsumexp:
        return state.largest + log_total;
      default:
        return confidence();
    }
  }
};

// Writes a score for each kind asked for, `stride` elements apart: NaN where the row holds one, and for kinds that need
// a label where that is no class.
template <int kSums, uint32_t kKnown = kAllKinds, class T>
__device__ __forceinline__ void write_scores(const RowState<T>& state, const RowFacts<T>& facts, uint32_t kinds, T* to,
                                             int64_t stride) {
  // Without sums these are the only kinds: the others' code would only cost registers.
  constexpr uint32_t kPossible = kSums == kNoSums    ? kKnown & ~kSoftmaxKinds
                                 : kSums == kMassSum ? kKnown & ~(kEl2n | kEntropy)
                                                     : kKnown;
  const bool unknown = state.largest != state.largest;
  const RowScorer<T> scorer(state, facts, kinds & kPossible);
#pragma unroll
  for (uint32_t kind = 1; kind <= kKnown; kind <<= 1) {
    if (!(kPossible & kind) || !(kinds & kind)) continue;
    const bool missing = unknown || ((kind & kLabelledKinds) && !facts.labelled);
    *to = missing ? not_a_number<T>() : scorer.score(kind);
    to += stride;
  }
}

}  // namespace dynams
