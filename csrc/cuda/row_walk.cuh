// How a group of lanes walks a row that starts at any address, and how the lanes' results become one.
//
// A row is its 16-byte vectors, dealt to the lanes in turn, and at its two ends up to 15 bytes that no whole vector
// covers: these single elements are dealt to the lanes too. Nothing outside the row is read.
#pragma once

#include "row_finish.cuh"

namespace dynams {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;
// Loads a lane has under way before it uses the first: with 1,000 threads a multiprocessor, 64 KB. Where there are
// sums, lanes agree on the largest logit once for so many, and the plan's groups of lanes take most rows at once. Sums
// in double take so many registers for each exponential that only two fit.
template <class T, int kSums>
constexpr int kLoadsTogether = kSums == kNoSums ? 4
                               : sizeof(T) == 8 ? 2
                                                : 8;
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

// A lane's next vectors, `lanes` apart, of which the group has `left` more; the rest is filled up.
template <class Element, int kLoads>
__device__ __forceinline__ void load_vectors(Vector (&vectors)[kLoads], const Vector* from, int lane, int lanes,
                                             int left) {
  const Vector nothing = Layout<Element>::fill(Layout<Element>::nothing(), Layout<Element>::nothing());
  if ((kLoads - 1) * lanes <= left) {
#pragma unroll
    for (int i = 0; i < kLoads - 1; ++i) vectors[i] = load_once(from + i * lanes);
    vectors[kLoads - 1] = nothing;
    if (lane + (kLoads - 1) * lanes < left) vectors[kLoads - 1] = load_once(from + (kLoads - 1) * lanes);
  } else {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) vectors[i] = lane + i * lanes < left ? load_once(from + i * lanes) : nothing;
  }
}

// The two largest that a lane comes by.
template <class Element>
__device__ __forceinline__ RowState<ScoreOf<Element>> read_margins(const Span<Element>& span, int lane, int lanes) {
  constexpr int kLoads = kLoadsTogether<ScoreOf<Element>, kNoSums>;
  TopTwo<Element> top;
  const Vector* body = reinterpret_cast<const Vector*>(span.from + span.head);
  // Asked for before the first vector, used after the last.
  const bool ragged = span.head + span.tail > 0;
  Vector ends = Layout<Element>::fill(Layout<Element>::nothing(), Layout<Element>::nothing());
  if (ragged) ends = Layout<Element>::fill(span.single(lane), span.single(lane + lanes));
  const Vector* from = body + lane;
  for (int left = span.vectors; left > 0; left -= kLoads * lanes, from += kLoads * lanes) {
    Vector vectors[kLoads];
    if (kLoads * lanes <= left) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) vectors[i] = load_once(from + i * lanes);
    } else {
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        vectors[i] = lane + i * lanes < left
                         ? load_once(from + i * lanes)
                         : Layout<Element>::fill(Layout<Element>::nothing(), Layout<Element>::nothing());
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) top.add(vectors[i]);
  }
  if (ragged) top.add(ends);
  RowState<ScoreOf<Element>> state = no_logits<ScoreOf<Element>>();
  state.largest = top.largest();
  state.second = top.runner_up();
  return state;
}

// Calls `step` with the distances at which lanes of groups of `width`, 8, 16 or 32, exchange values: each lane with the
// one whose number differs in one bit, for each bit. Where the step is commutative to the bit, all lanes of a group end
// with the same value.
template <class Step>
__device__ __forceinline__ void across_group(int width, const Step& step) {
  if (width > 16) step(16);
  if (width > 8) step(8);
#pragma unroll
  for (int offset = 4; offset > 0; offset /= 2) step(offset);
}

template <class Value, class Join>
__device__ __forceinline__ Value join_group(Value value, int width, Join join) {
  across_group(width, [&](int offset) { value = join(value, __shfl_xor_sync(kWholeWarp, value, offset)); });
  return value;
}

// Adds up what lanes have of each of these numbers.
template <class... Sums>
__device__ __forceinline__ void sum_group(int width, Sums&... sums) {
  across_group(width, [&](int offset) { ((sums += __shfl_xor_sync(kWholeWarp, sums, offset)), ...); });
}

// Adds vectors to the sums; `left` as they were loaded with.
template <bool kIsNear, class Element, class Sums, int kLoads>
__device__ __forceinline__ void add_vectors(Sums& sums, const Vector (&vectors)[kLoads], int lanes, int left) {
  constexpr int kStep = 2;  // vectors that are filling in every lane cost as much as others, to skip each costs too
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    if (i > 0 && i % kStep == 0 && i * lanes >= left) break;
#pragma unroll
    for (int place = 0; place < Layout<Element>::kElements; ++place)
      sums.template add<kIsNear>(Layout<Element>::at(vectors[i], place));
  }
}

// Leaves the state of what a group of lanes, or the warp's part of a larger one, comes by: the lane that `leaves` puts
// it into shared memory, from where it is read again, so that it takes no registers while sums are under way.
template <int kSums, int kLanes, class Element>
__device__ __forceinline__ void read_sums(const Span<Element>& span, int lane, bool leaves,
                                          RowState<ScoreOf<Element>>& state) {
  using T = ScoreOf<Element>;
  constexpr int kLoads = kLoadsTogether<T, kSums>;
  constexpr int kWidth = kLanes < kWarpLanes ? kLanes : kWarpLanes;
  const bool ragged = span.head + span.tail > 0;
  Vector ends;
  if (ragged) ends = Layout<Element>::fill(span.single(lane), span.single(lane + kLanes));
  const Vector* body = reinterpret_cast<const Vector*>(span.from + span.head) + lane;
  // As many rounds for all rows, whatever their alignment: lanes of a warp exchange values in each.
  const int most = span.count / Layout<Element>::kElements;
  for (int begin = 0; begin == 0 || begin < most; begin += kLoads * kLanes) {
    const bool with_ends = ragged && begin == 0;
    Vector vectors[kLoads];
    const Vector* from = body + begin;
    load_vectors<Element>(vectors, from, lane, kLanes, span.vectors - begin);
    TopTwo<Element> top;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) top.add(vectors[i]);
    if (with_ends) top.add(ends);
    Leaders<Element> leaders(top);
    across_group(kWidth, [&](int offset) {
      leaders.join([&](auto value) { return __shfl_xor_sync(kWholeWarp, value, offset); });
    });
    PartialSums<kSums, T> sums(leaders.runner_up());
    if (sums.reference.near) {
      add_vectors<true, Element>(sums, vectors, kLanes, most - begin);
    } else {
      // So rare that the vectors are read once more, for the sake of code that is small.
#pragma unroll 1
      for (int i = 0; i < kLoads && begin + i * kLanes + lane < span.vectors; ++i) {
        const Vector again[1] = {load_once(from + i * kLanes)};
        add_vectors<false, Element>(sums, again, kLanes, most);
      }
    }
    if (with_ends) {
      sums.add_any(Layout<Element>::at(ends, 0));
      sums.add_any(Layout<Element>::at(ends, 1));
    }
    if constexpr (kSums == kMassSum) sum_group(kWidth, sums.mass);
    else sum_group(kWidth, sums.mass, sums.squares, sums.parts);
    if (leaves) {
      const RowState<T> found = sums.state(leaders.largest());
      state = begin == 0 ? found : merge<kSums>(state, found);
    }
  }
}

// How each kind of result is joined over a group of lanes.
template <int kSums, class T>
struct JoinStates {
  using Value = RowState<T>;

  // The two largest of the group come first: then each lane makes its sums relative to the largest once, and what is
  // left are plain additions.
  static __device__ __forceinline__ Value group(Value state, int width) {
    T largest = state.largest, second = state.second;
    across_group(width, [&](int offset) {
      const T other = __shfl_xor_sync(kWholeWarp, largest, offset);
      second = greater(greater(second, __shfl_xor_sync(kWholeWarp, second, offset)), lesser(largest, other));
      largest = max_nan(largest, other);
    });
    if constexpr (kSums != kNoSums) {
      raise_largest<kSums>(state, largest);
      if constexpr (kSums == kMassSum) sum_group(width, state.ties, state.mass);
      else sum_group(width, state.ties, state.mass, state.mass_squares, state.mass_shifted);
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

// Joins the values of `kLanes` lanes, 8, 16, 32 or the whole block's; in the same order on every run. All threads of
// the block come here.
template <class How, int kLanes>
__device__ __forceinline__ typename How::Value join_lanes(typename How::Value value,
                                                          typename How::Value (&of_warps)[kWarps]) {
  static_assert(kWarps == 8, "the warps' values are joined by the narrowest group of lanes");
  value = How::group(value, kLanes);
  if constexpr (kLanes <= kWarpLanes) return value;
  __syncthreads();  // nobody reads the values of the row before any more
  if (threadIdx.x % kWarpLanes == 0) of_warps[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  return How::group(of_warps[threadIdx.x % kWarps], kWarps);
}

// Leaves in shared memory what a group of lanes learns of a span; all its lanes see it.
template <int kSums, int kLanes, class Element>
__device__ __forceinline__ void read_span(const Span<Element>& span, int lane,
                                          RowState<ScoreOf<Element>> (&of_warps)[kWarps],
                                          RowState<ScoreOf<Element>>& state) {
  using Join = JoinStates<kSums, ScoreOf<Element>>;
  const bool leaves = lane % kWarpLanes == 0;
  if constexpr (kSums == kNoSums) {
    const RowState<ScoreOf<Element>> joined = join_lanes<Join, kLanes>(read_margins(span, lane, kLanes), of_warps);
    if (lane == 0) state = joined;
  } else if constexpr (kLanes <= kWarpLanes) {
    read_sums<kSums, kLanes>(span, lane, leaves, state);
  } else {
    __syncthreads();
    read_sums<kSums, kLanes>(span, lane, leaves, of_warps[threadIdx.x / kWarpLanes]);
    __syncthreads();
    const RowState<ScoreOf<Element>> joined = Join::group(of_warps[threadIdx.x % kWarps], kWarps);
    if (lane == 0) state = joined;
  }
  if constexpr (kLanes <= kWarpLanes) __syncwarp();
  else __syncthreads();
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
