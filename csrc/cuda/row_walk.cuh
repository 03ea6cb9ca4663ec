// How a group of lanes walks a row that starts at any address, and how the lanes' results become one.
//
// A row is its 16-byte vectors, dealt to the lanes in turn, and at its two ends up to 15 bytes that no whole vector
// covers: these single elements are dealt to the lanes too. Nothing outside the row is read.
#pragma once

#include "row_finish.cuh"

namespace dynams {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;
// Loads a lane has under way before it uses the first: with 1,000 threads a multiprocessor, 64 KB. Sums in double take
// so many registers for each exponential that only two fit.
template <class T, int kSums>
constexpr int kLoadsTogether = sizeof(T) == 8 && kSums != kNoSums ? 2 : 4;
// Fewer lanes than this could not take the single elements of both ends in two rounds.
constexpr int kFewestLanes = 8;

// Part of a row: at most kMostPartClasses (row_plan.h), so that 32 bits count its elements.
template <class Element>
struct Span {
  const Element* from;
  int count;
  int head, tail;  // elements before the first and after the last whole vector
  int vectors;

  __device__ __forceinline__ Span(const Element* start, int length) : from(start), count(length) {
    constexpr unsigned kElements = Layout<Element>::kElements;
    static_assert(kElements <= kFewestLanes, "the ends' elements are two a lane");
    const unsigned past = static_cast<unsigned>(reinterpret_cast<uintptr_t>(start)) % sizeof(Vector) / sizeof(Element);
    const int before = static_cast<int>((kElements - past) % kElements);
    head = before < count ? before : count;
    const unsigned rest = static_cast<unsigned>(count - head);
    vectors = static_cast<int>(rest / kElements);
    tail = static_cast<int>(rest % kElements);
  }

  __device__ __forceinline__ Element single(int place) const {
    if (place >= head + tail) return Layout<Element>::nothing();
    return from[place < head ? place : count - (head + tail) + place];
  }
};

template <int kSums, class Element>
__device__ __forceinline__ RowState<ScoreOf<Element>> read_span(const Span<Element>& span, int lane, int lanes) {
  constexpr int kLoads = kLoadsTogether<ScoreOf<Element>, kSums>;
  RowState<ScoreOf<Element>> state = no_logits<ScoreOf<Element>>();
  TopTwo<Element> top;
  const Vector nothing = Layout<Element>::fill(Layout<Element>::nothing(), Layout<Element>::nothing());
  const Vector* body = reinterpret_cast<const Vector*>(span.from + span.head);
  // Asked for before the first vector, used after the last.
  const bool ragged = span.head + span.tail > 0;
  Vector ends[1] = {nothing};
  if (ragged) ends[0] = Layout<Element>::fill(span.single(lane), span.single(lane + lanes));
  const Vector* from = body + lane;
  for (int left = span.vectors; left > 0; left -= kLoads * lanes, from += kLoads * lanes) {
    Vector vectors[kLoads];
    if (kLoads * lanes <= left) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) vectors[i] = load_once(from + i * lanes);
    } else {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) vectors[i] = lane + i * lanes < left ? load_once(from + i * lanes) : nothing;
    }
    add_vectors<kSums>(top, state, vectors);
  }
  if (ragged) add_vectors<kSums>(top, state, ends);
  // With sums the state's largest is theirs already, except where a NaN is the row's.
  state.largest = top.largest();
  state.second = top.runner_up();
  return state;
}

// Joins the values of groups of `width` lanes, 8, 16 or 32: each lane with the one whose number differs in one bit, for
// each bit. `join` is commutative to the bit, so all lanes of a group end with the same value.
template <class Value, class Join>
__device__ __forceinline__ Value join_group(Value value, int width, Join join) {
  if (width > 16) value = join(value, __shfl_xor_sync(kWholeWarp, value, 16));
  if (width > 8) value = join(value, __shfl_xor_sync(kWholeWarp, value, 8));
#pragma unroll
  for (int offset = 4; offset > 0; offset /= 2) value = join(value, __shfl_xor_sync(kWholeWarp, value, offset));
  return value;
}

template <class T>
__device__ __forceinline__ T sum_of_group(T value, int width) {
  return join_group(value, width, [](T a, T b) { return a + b; });
}

// How each kind of result is joined over a group of lanes.
template <int kSums, class T>
struct JoinStates {
  using Value = RowState<T>;

  // The two largest of the group come first: then each lane makes its sums relative to the largest once, and what is
  // left are plain additions.
  static __device__ __forceinline__ Value group(Value state, int width) {
    T largest = state.largest, second = state.second;
    const auto join = [&](int offset) {
      const T other = __shfl_xor_sync(kWholeWarp, largest, offset);
      second = greater(greater(second, __shfl_xor_sync(kWholeWarp, second, offset)), lesser(largest, other));
      largest = max_nan(largest, other);
    };
    if (width > 16) join(16);
    if (width > 8) join(8);
#pragma unroll
    for (int offset = 4; offset > 0; offset /= 2) join(offset);
    if constexpr (kSums != kNoSums) {
      raise_largest<kSums>(state, largest);
      state.ties = sum_of_group(state.ties, width);
      state.mass = sum_of_group(state.mass, width);
    }
    if constexpr (kSums == kAllSums) {
      state.mass_squares = sum_of_group(state.mass_squares, width);
      state.mass_shifted = sum_of_group(state.mass_shifted, width);
    }
    state.largest = largest;
    state.second = second;
    return state;
  }
};

struct JoinLowest {
  using Value = int;
  static __device__ __forceinline__ Value group(Value value, int width) {
    return join_group(value, width, [](int a, int b) { return a < b ? a : b; });
  }
};

template <class T>
struct JoinLeast {
  using Value = T;
  static __device__ __forceinline__ Value group(Value value, int width) {
    return join_group(value, width, [](T a, T b) { return min_nan(a, b); });
  }
};

// Joins the values of `lanes` lanes, 8, 16, 32 or the whole block's; in the same order on every run. All threads of the
// block come here.
template <class How>
__device__ __forceinline__ typename How::Value join_lanes(typename How::Value value, int lanes,
                                                          typename How::Value (&of_warps)[kWarps]) {
  static_assert(kWarps == 8, "the warps' values are joined by the narrowest group of lanes");
  value = How::group(value, lanes);
  if (lanes <= kWarpLanes) return value;
  __syncthreads();  // nobody reads the values of the row before any more
  if (threadIdx.x % kWarpLanes == 0) of_warps[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  return How::group(of_warps[threadIdx.x % kWarps], kWarps);
}

constexpr int kNoClass = INT32_MAX;

// The lowest place in [0, count) with this logit that the lane comes by.
template <class Element>
__device__ __forceinline__ int find_logit(const Element* row, int count, ScoreOf<Element> logit, int lane, int lanes) {
  for (int place = lane; place < count; place += lanes)
    if (widen(row[place]) == logit) return place;
  return kNoClass;
}

// The least distance to the boundary with a class of logit `own` among the `count` from `row` on that the lane comes
// by, but for the place `skipped`, where that class itself stands.
template <class Element>
__device__ __forceinline__ ScoreOf<Element> nearest_boundary(const Element* row, const float* distances, int count,
                                                             ScoreOf<Element> own, int64_t skipped, int lane,
                                                             int lanes) {
  ScoreOf<Element> least = infinity<ScoreOf<Element>>();
#pragma unroll 4
  for (int place = lane; place < count; place += lanes) {
    const ScoreOf<Element> distance = boundary_distance(own, widen(row[place]), distances[place]);
    if (place != skipped) least = min_nan(least, distance);
  }
  return least;
}

}  // namespace dynams
