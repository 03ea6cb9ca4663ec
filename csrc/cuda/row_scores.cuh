// Scores of rows of logits on the GPU: the kernels and their launch, for one element type.
//
// A row is read from memory once, at the rate of a copy: per 1,000 classes the only other traffic is one score. Groups
// of lanes take a row each: 8, 16 or 32 lanes, or a whole block where rows are long. Tiny rows go through shared
// memory, a thread a row (row_scores_short.cuh). Where rows are too few to fill the GPU each is split over several
// blocks, whose partial states a second launch merges in their order. Nothing depends on the order in which blocks run,
// so the scores have the same bits on every run. The distance margin reads the row again, from cache: for the class of
// its largest logit, then for the quotients with that class.
#pragma once

#include "row_plan.h"
#include "row_scores.h"
#include "row_walk.cuh"

namespace dynams {

template <class Element>
struct RowsTask {
  const Element* logits;
  int64_t rows, classes, row_stride;
  const int64_t* labels;
  const float* class_distances;
  int64_t distances_stride;
  uint32_t kinds;
  ScoreOf<Element>* scores;
  int64_t scores_stride;

  __device__ __forceinline__ const Element* row(int64_t index) const { return logits + index * row_stride; }
  __device__ __forceinline__ int64_t label(int64_t index) const { return labels == nullptr ? -1 : labels[index]; }
  __device__ __forceinline__ bool has_class(int64_t label) const { return label >= 0 && label < classes; }
};

// What a block knows of its part of a row that is split.
template <class T>
struct PartOfRow {
  RowState<T> state;
  int64_t
      first_class;  // the lowest class of the part with its largest logit, -1 where none has it; for the distance only
};

template <class T>
struct PartsOfRows {
  PartOfRow<T>* parts;  // `splits` a row; null where rows are whole
  T* nearest;           // as many: each part's least distance
  int64_t splits, part_classes;

  __device__ __forceinline__ int64_t begin() const { return blockIdx.y * part_classes; }
  __device__ __forceinline__ int count(int64_t classes) const {
    const int64_t left = classes - begin();
    return static_cast<int>(left < part_classes ? left : part_classes);
  }
  // Where the block's part of this row has its place.
  __device__ __forceinline__ int64_t place(int64_t row) const { return row * splits + blockIdx.y; }
};

// What a row is scored from, but for its label's logit.
template <class T>
struct alignas(16) FoundRow {
  RowState<T> state;
  T nearest;
};

// Where the warps of a block meet, and rows wait for their scores.
template <class T>
struct Joints {
  RowState<T> states[kWarps];
  int places[kWarps];
  T distances[kWarps];
  FoundRow<T> found[kWarps * kMostFound];
};

// Enough registers to keep the loads in flight, enough threads to hide their latency.
template <class T, int kSums>
constexpr int blocks_together() {
  return sizeof(T) == 8 ? (kSums == kNoSums ? 4 : 2) : (kSums == kNoSums ? 5 : 4);
}

// Threads of a block. Where rows need no whole block, half of one: the last blocks of a multiprocessor end more evenly.
template <int kLanes>
constexpr int kBlockThreads = kLanes <= kWarpLanes ? kThreads / 2 : kThreads;

template <class Element, int kSums, int kLanes>
__global__ void __launch_bounds__(kBlockThreads<kLanes>,
                                  (blocks_together<ScoreOf<Element>, kSums>() * (kThreads / kBlockThreads<kLanes>)))
    score_rows(RowsTask<Element> task, int turns, PartsOfRows<ScoreOf<Element>> split) {
  using T = ScoreOf<Element>;
  Joints<T>& joints = in_shared_memory<Joints<T>>();
  // A crew, a warp or where rows are long the block, takes `turns` times as many rows as it has groups of lanes. Their
  // scores take hundreds of operations a row: each is left to a lane in the end.
  constexpr bool kWarpsApart = kLanes <= kWarpLanes;
  constexpr int kCrews = kWarpsApart ? kBlockThreads<kLanes> / kWarpLanes : 1;
  constexpr int kGroups = kWarpsApart ? kWarpLanes / kLanes : 1;
  const int lane = static_cast<int>(threadIdx.x % kLanes), warp_lane = static_cast<int>(threadIdx.x % kWarpLanes);
  const int warp = static_cast<int>(threadIdx.x / kWarpLanes), crew = kWarpsApart ? warp : 0;
  const int crew_rows = kGroups * turns;
  // Which of the crew's rows the lane scores. With sums it is one of its own group, whose label's logit it reads in the
  // row's turn: in the end even the second-level cache may have lost it. Without there is but one turn.
  static_assert(kMostFound <= kGroups * (kWarpsApart ? kLanes : kWarpLanes), "every turn has a lane of the first warp");
  const auto scores = [&] { return kSums == kNoSums ? warp == crew && warp_lane < crew_rows : lane < turns; };
  const auto scored = [&] { return kSums == kNoSums ? warp_lane : lane * kGroups + warp_lane / kLanes; };
  // Only blocks take parts of rows.
  const bool whole = kWarpsApart || split.parts == nullptr;
  const int64_t begin = kWarpsApart ? 0 : split.begin();
  const int count = kWarpsApart ? static_cast<int>(task.classes) : split.count(task.classes);
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * (kCrews * crew_rows); base < task.rows;
       base += static_cast<int64_t>(gridDim.x) * (kCrews * crew_rows)) {
    int place = crew * crew_rows + (kWarpsApart ? warp_lane / kLanes : 0);
    int64_t label = -1;
    Element own = Layout<Element>::nothing();
    if constexpr (kSums != kNoSums) {
      const int64_t index = base + crew * crew_rows + scored();
      if (whole && scores() && index < task.rows) label = task.label(index);
    }
    for (int turn = 0; turn < turns; ++turn, place += kGroups) {
      // Groups beyond the last row read it again, as whole warps exchange values; they write nothing.
      const bool exists = base + place < task.rows;
      const int64_t index = exists ? base + place : task.rows - 1;
      const Element* row = task.row(index);
      FoundRow<T>& found = joints.found[place];
      read_span<kSums, kLanes>(Span<Element>(row + begin, count), lane, joints.states, found.state);
      if constexpr (kSums != kNoSums)
        if (lane == turn && task.has_class(label)) own = row[label];
      int first = kNoClass;
      if (task.kinds & kDistance) {
        first = find_logit(row + begin, count, found.state.largest, lane, kLanes);
        first = join_lanes<JoinLowest, kLanes>(first, joints.places);
      }
      if (!whole) {
        if (exists && lane == 0)
          split.parts[split.place(index)] = PartOfRow<T>{found.state, first == kNoClass ? -1 : begin + first};
        continue;
      }
      if (task.kinds & kDistance) {
        T nearest = 0;
        // In a row with a NaN no class is the first, and there is no distance.
        if (first != kNoClass)
          nearest = nearest_boundary(row, task.class_distances + first * task.distances_stride, count,
                                     found.state.largest, first, lane, kLanes);
        nearest = join_lanes<JoinLeast<T>, kLanes>(nearest, joints.distances);
        if (lane == 0) found.nearest = nearest;
      }
    }
    if (!whole) continue;
    __syncwarp();
    const int64_t index = base + crew * crew_rows + scored();
    if (scores() && index < task.rows) {
      const FoundRow<T> found = joints.found[crew * crew_rows + scored()];
      if constexpr (kSums == kNoSums) label = task.label(index);
      RowFacts<T> facts{T(0), task.has_class(label), found.nearest, task.classes};
      if constexpr (kSums != kNoSums) facts.own = widen(own);
      else if (facts.labelled) facts.own = widen(task.row(index)[label]);
      write_scores<kSums>(found.state, facts, task.kinds, task.scores + index, task.scores_stride);
    }
    __syncwarp();
  }
}

// Split rows, second launch where distances are asked for: each block finds the row's first class from all parts, then
// the least distance within its own part.
template <class Element>
__global__ void __launch_bounds__(kThreads) measure_parts(RowsTask<Element> task, PartsOfRows<ScoreOf<Element>> split) {
  using T = ScoreOf<Element>;
  Joints<T>& joints = in_shared_memory<Joints<T>>();
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t begin = split.begin();
  const int count = split.count(task.classes);
  for (int64_t index = blockIdx.x; index < task.rows; index += gridDim.x) {
    const PartOfRow<T>* parts = split.parts + index * split.splits;
    RowState<T> state = no_logits<T>();
    for (int64_t part = lane; part < split.splits; part += kThreads) state = merge<kNoSums>(state, parts[part].state);
    state = join_lanes<JoinStates<kNoSums, T>, kThreads>(state, joints.states);
    // The parts are in the order of their classes: the first with the largest has the lowest.
    int first_part = kNoClass;
    for (int64_t part = lane; part < split.splits && first_part == kNoClass; part += kThreads)
      if (parts[part].state.largest == state.largest) first_part = static_cast<int>(part);
    first_part = join_lanes<JoinLowest, kThreads>(first_part, joints.places);
    T nearest = T(0);
    if (first_part != kNoClass) {
      const int64_t first = parts[first_part].first_class;
      const float* distances = task.class_distances + first * task.distances_stride + begin;
      nearest =
          nearest_boundary(task.row(index) + begin, distances, count, state.largest, first - begin, lane, kThreads);
    }
    nearest = join_lanes<JoinLeast<T>, kThreads>(nearest, joints.distances);
    if (lane == 0) split.nearest[split.place(index)] = nearest;
  }
}

// Split rows, last launch: a warp a row merges its parts, each lane every 32nd, then the lanes.
template <class Element>
__global__ void __launch_bounds__(kThreads) merge_parts(RowsTask<Element> task, PartsOfRows<ScoreOf<Element>> split) {
  using T = ScoreOf<Element>;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes, warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kWarps; base < task.rows;
       base += static_cast<int64_t>(gridDim.x) * kWarps) {
    const bool exists = base + warp < task.rows;
    const int64_t index = exists ? base + warp : task.rows - 1;
    const int64_t label = task.label(index);
    RowFacts<T> facts{T(0), task.has_class(label), infinity<T>(), task.classes};
    if (facts.labelled) facts.own = widen(task.row(index)[label]);
    RowState<T> state = no_logits<T>();
    for (int64_t part = lane; part < split.splits; part += kWarpLanes) {
      const int64_t at = index * split.splits + part;
      state = merge<kAllSums>(state, split.parts[at].state);
      if (task.kinds & kDistance) facts.nearest = min_nan(facts.nearest, split.nearest[at]);
    }
    state = JoinStates<kAllSums, T>::group(state, kWarpLanes);
    facts.nearest = JoinLeast<T>::group(facts.nearest, kWarpLanes);
    if (exists && lane == 0) write_scores<kAllSums>(state, facts, task.kinds, task.scores + index, task.scores_stride);
  }
}

}  // namespace dynams
