// Scores of short rows that lie one after another: a block copies some KB of them to shared memory with 16-byte copies,
// all under way at once, and each thread scores rows from there.
//
// Bank conflicts: where rows are whole aligned vectors a thread reads vectors, and the vectors of each 128 bytes of the
// tile are permuted by the number of those 128 bytes, so that the eight threads served together meet different banks.
// Otherwise a thread reads single elements, and as the row is not a multiple of 16 bytes at most two threads (two more
// at odd addresses of half-precision numbers) meet in a bank.
#pragma once

#include "row_scores.cuh"

namespace dynams {

struct alignas(16) Tile {
  unsigned char bytes[kTileBytes + sizeof(Vector)];
};

template <class Element>
struct TileRow {
  const unsigned char* tile;
  int start;  // byte of the row's first element in the tile, before permutation
  int classes;
  bool vectors;  // whether the row is whole vectors, and those are permuted

  static __device__ __forceinline__ int place_of_vector(int vector, bool permuted) {
    return permuted ? vector ^ ((vector >> 3) & 7) : vector;
  }

  __device__ __forceinline__ int vector_count() const { return classes / Layout<Element>::kElements; }
  __device__ __forceinline__ Vector vector(int number) const {
    const int place = place_of_vector(start / static_cast<int>(sizeof(Vector)) + number, true);
    return reinterpret_cast<const Vector*>(tile)[place];
  }
  __device__ __forceinline__ Element element(int number) const {
    const int byte = start + number * static_cast<int>(sizeof(Element));
    const int place = place_of_vector(byte / static_cast<int>(sizeof(Vector)), vectors);
    const int within = byte % static_cast<int>(sizeof(Vector));
    return *reinterpret_cast<const Element*>(tile + place * static_cast<int>(sizeof(Vector)) + within);
  }
};

// Copies `count` elements to the tile, at the same distance from a multiple of 16 as they have in memory.
template <class Element>
__device__ __forceinline__ void stage(unsigned char* tile, const Element* from, int count, bool permuted) {
  const Span<Element> span(from, count);
  const int offset = static_cast<int>(reinterpret_cast<uintptr_t>(from) % sizeof(Vector));
  Element* elements = reinterpret_cast<Element*>(tile + offset);
  const Vector* body = reinterpret_cast<const Vector*>(from + span.head);
  Vector* vectors = reinterpret_cast<Vector*>(elements + span.head);
  for (int i = static_cast<int>(threadIdx.x); i < span.vectors; i += kTileThreads)
    start_copy(vectors + TileRow<Element>::place_of_vector(i, permuted), body + i);
  for (int i = static_cast<int>(threadIdx.x); i < span.head + span.tail; i += kTileThreads) {
    const int place = i < span.head ? i : count - (span.head + span.tail) + i;
    elements[place] = from[place];
  }
  wait_for_copies();
}

template <bool kIsNear, class Element, class Sums>
__device__ __forceinline__ void add_tile_row(Sums& sums, const TileRow<Element>& row) {
  if (row.vectors) {
    for (int i = 0; i < row.vector_count(); ++i) {
      const Vector vector = row.vector(i);
#pragma unroll
      for (int place = 0; place < Layout<Element>::kElements; ++place)
        sums.template add<kIsNear>(Layout<Element>::at(vector, place));
    }
  } else {
#pragma unroll 2
    for (int i = 0; i < row.classes; ++i) sums.template add<kIsNear>(widen(row.element(i)));
  }
}

template <int kSums, class Element>
__device__ __forceinline__ RowState<ScoreOf<Element>> read_tile_row(const TileRow<Element>& row) {
  using T = ScoreOf<Element>;
  RowState<T> state = no_logits<T>();
  TopTwo<Element> top;
  if (row.vectors) {
#pragma unroll 2
    for (int i = 0; i < row.vector_count(); ++i) top.add(row.vector(i));
  } else {
#pragma unroll 4
    for (int i = 0; i < row.classes; ++i) top.add(row.element(i));
  }
  state.largest = top.largest();
  state.second = top.runner_up();
  if constexpr (kSums != kNoSums) {
    PartialSums<kSums, T> sums(state.second);
    if (sums.reference.near) add_tile_row<true>(sums, row);
    else add_tile_row<false>(sums, row);
    state = sums.state(state.largest);
  }
  return state;
}

template <class Element>
__device__ __forceinline__ ScoreOf<Element> nearest_in_tile(const TileRow<Element>& row, ScoreOf<Element> largest,
                                                            const float* class_distances, int64_t stride) {
  int first = 0;
  while (first < row.classes && !(widen(row.element(first)) == largest)) ++first;
  if (first == row.classes) return ScoreOf<Element>(0);  // the row holds a NaN
  const float* distances = class_distances + first * stride;
  ScoreOf<Element> least = infinity<ScoreOf<Element>>();
  for (int other = 0; other < row.classes; ++other) {
    if (other == first) continue;
    least = min_nan(least, boundary_distance(largest, widen(row.element(other)), distances[other]));
  }
  return least;
}

template <class Element, int kSums>
__global__ void __launch_bounds__(kTileThreads, (sizeof(ScoreOf<Element>) == 8 ? 6 : 10))
    score_short_rows(RowsTask<Element> task, int tile_rows, bool whole_vectors) {
  using T = ScoreOf<Element>;
  unsigned char* tile = in_shared_memory<Tile>().bytes;
  const int classes = static_cast<int>(task.classes);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * tile_rows;
  const int64_t left = task.rows - first_row;
  const int count = left < tile_rows ? static_cast<int>(left) : tile_rows;
  const Element* from = task.logits + first_row * classes;
  stage(tile, from, count * classes, whole_vectors);
  __syncthreads();
  const int offset = static_cast<int>(reinterpret_cast<uintptr_t>(from) % sizeof(Vector));
  for (int place = static_cast<int>(threadIdx.x); place < count; place += kTileThreads) {
    const int64_t index = first_row + place;
    const int64_t label = task.label(index);
    const TileRow<Element> row{tile, offset + place * classes * static_cast<int>(sizeof(Element)), classes,
                               whole_vectors};
    const RowState<T> state = read_tile_row<kSums>(row);
    RowFacts<T> facts{T(0), task.has_class(label), T(0), task.classes};
    if (facts.labelled) facts.own = widen(row.element(static_cast<int>(label)));
    if (task.kinds & kDistance)
      facts.nearest = nearest_in_tile(row, state.largest, task.class_distances, task.distances_stride);
    write_scores<kSums>(state, facts, task.kinds, task.scores + index, task.scores_stride);
  }
}

}  // namespace dynams
