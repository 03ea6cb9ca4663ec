// What each instruction set provides, and the table through which the drivers call it.
//
// The functions behind this table are compiled once per instruction set; everything that includes only this header is
// compiled for the baseline and runs on any CPU of the architecture.
#pragma once

#include <cstdint>

#include "../common/kinds.h"

namespace dynams {

// What has been learnt of a row from the classes read so far; scores of a row can be built from several blocks of
// classes.
struct RowState {
  double largest, second;  // the two largest logits
  double own;              // the label's logit
  double ties;             // how many classes have the largest logit
  // Sums over the other classes, relative to the largest: of e = exp(z - largest), of e^2, of e * (z - largest).
  double sum, sum_squares, sum_shifted;
  int64_t first_class, second_class;  // where the two largest stand, -1 while unknown
  bool has_nan;
};

struct RowScoresTask {
  const void* logits;  // rows of `classes` elements, `row_stride` elements apart
  DType dtype;
  int64_t rows, classes, row_stride;
  const void* bias;              // added to each row (float32/float64 logits only), or null
  const int64_t* labels;         // or null
  const float* class_distances;  // (classes, classes), `distances_stride` apart, or null; needs whole rows
  int64_t distances_stride;
  uint32_t kinds;  // request mask
  void* scores;    // one row of `scores_stride` elements for each kind, float (double for float64 logits)
  int64_t scores_stride;
  int64_t* pairs;          // (rows, 2) classes whose difference is the margin, or null
  RowState* states;        // one a row where rows come in several blocks of classes, or null
  int64_t class_offset;    // the class of this block's first column
  bool is_first, is_last;  // whether this block starts and ends its rows
};

// Selection works on keys (see order_key.h) of these widths.
struct KeyCounts {
  int64_t below;      // keys < low
  int64_t collected;  // keys in [low, high]
};

struct WriteTask {
  int64_t threshold_ties;  // how many keys equal to the threshold to take, lowest index first
  int64_t first_index;     // index of the chunk's first value
  int64_t capacity;        // how many will be written: nothing is stored beyond them
};

// Bins of keys, ascending: bin_of_cell[(key, brought within [low, high], less low) >> shift], of `count` bins. With one
// bin, all keys are in it.
struct KeyBins {
  uint64_t low, high;
  int shift;
  const uint16_t* bin_of_cell;
  int64_t count;
};

// Of a group, keys below `low` are selected, keys in [low, low + span] in question.
template <class Key>
struct GroupBounds {
  Key low, span;
};

struct Kernels {
  const char* isa;
  // Scores of rows [begin, end).
  void (*row_scores)(const RowScoresTask& task, int64_t begin, int64_t end);
  // Counts keys below `low` and stores those in [low, high] (room for count + 64 keys); keys are uint32 or uint64
  // (float64).
  KeyCounts (*collect)(DType dtype, const void* values, int64_t count, uint64_t low, uint64_t high, void* keys);
  // Counts keys below `low` and equal to it.
  KeyCounts (*count)(DType dtype, const void* values, int64_t count, uint64_t low);
  // Writes values and indices whose key is below the threshold, and the first ties.
  void (*write_selected)(DType dtype, const void* values, int64_t count, uint64_t threshold, const WriteTask& task,
                         void* out_values, int64_t* out_indices);
  // Adds to counts[group * bins.count + bin] of every value, atomically where others add to them too (`shared`). False
  // where a group is outside [0, group_count).
  bool (*count_groups)(DType dtype, const void* values, const int64_t* groups, int64_t count, int64_t group_count,
                       const KeyBins& bins, uint32_t* counts, bool shared);
  // Sets a bit of `words` for every value selected by its group's bounds, clears the others, and lists the places of
  // those in question (room for count). Bounds are GroupBounds of the keys' type, groups as `count_groups` accepts.
  KeyCounts (*mark_groups)(DType dtype, const void* values, const int64_t* groups, int64_t count, const void* bounds,
                           uint64_t* words, uint32_t* places);
  // Writes values and indices whose bit is set, task.capacity of them.
  void (*write_marked)(DType dtype, const void* values, int64_t count, const uint64_t* words, const WriteTask& task,
                       void* out_values, int64_t* out_indices);
};

// All sets this CPU can run, best first; ends with null.
const Kernels* const* usable_kernels();

}  // namespace dynams
