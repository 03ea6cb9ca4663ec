// How rows of a shape are dealt to the GPU. It depends on the shape alone, not on the kinds asked for: a kind has the
// same bits alone and in company.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dynams {

constexpr int kTileThreads = 128;
constexpr int kMostFound = 16;        // rows that a warp, or a block of long rows, scores together
constexpr int kTileBytes = 16 << 10;  // of short rows a block; a multiprocessor holds a dozen such blocks

struct RowPlan {
  int tile_rows;         // short rows: how many a block takes; else 0
  int lanes;             // lanes a row: 8, 16, 32, or a block's 256
  int64_t splits;        // parts of a row; 1 where rows are whole
  int64_t part_classes;  // classes of a part
  int64_t blocks;        // at most so many at a time, further rows are taken in turn
  int turns;             // whole rows: how many a group of lanes reads before all are scored; a power of two
};

constexpr int64_t kMostPartClasses = int64_t(1) << 30;   // counted in 32 bits
constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1;  // of a grid's first dimension

inline int64_t quotient_above(int64_t total, int64_t part) { return (total + part - 1) / part; }

// How many parts a row is split into. It is a function of its own as nothing else needs scratch.
inline int64_t parts_of_row(int64_t rows, int64_t classes, int element_bytes, int multiprocessors) {
  // A second launch costs what a block reads in 2 us. With rows for every multiprocessor only long rows are worth it:
  // they would leave some multiprocessors with one row more than others.
  constexpr int64_t kPart = 32 << 10, kFewRowsWorth = 64 << 10, kManyRowsWorth = 256 << 10;  // bytes
  const int64_t bytes = classes * element_bytes, least = quotient_above(classes, kMostPartClasses);
  const int64_t enough = 4 * static_cast<int64_t>(multiprocessors);  // blocks
  if (rows >= enough || bytes < (rows < enough / 2 ? kFewRowsWorth : kManyRowsWorth)) return least;
  const int64_t wanted = quotient_above(enough, rows), possible = bytes / kPart;
  const int64_t splits = wanted < possible ? wanted : possible;
  return splits > least ? splits : least;
}

// How many rows a block takes through shared memory, 0 where rows do not go that way. A thread a row costs the fewest
// instructions, but it takes many rows to fill the GPU with such threads.
inline int rows_of_tile(int64_t rows, int64_t classes, int64_t row_stride, int element_bytes, int multiprocessors) {
  constexpr int64_t kTinyRow = 128;   // bytes: a group of lanes would not have a vector for each
  constexpr int64_t kShortRow = 512;  // bytes: a tile has rows for one warp
  const int64_t bytes = classes * element_bytes, sms = multiprocessors;
  if (row_stride != classes || bytes >= kShortRow || (bytes >= kTinyRow && rows < kTileThreads * sms)) return 0;
  const int64_t fitting = kTileBytes / bytes, sharing = rows / (8 * sms);
  if (fitting < kTileThreads) return static_cast<int>(fitting);
  const int64_t wanted = fitting < sharing ? fitting : sharing;
  return static_cast<int>(wanted < kTileThreads ? kTileThreads : wanted / kTileThreads * kTileThreads);
}

inline RowPlan plan_rows(int64_t rows, int64_t classes, int64_t row_stride, int element_bytes, int multiprocessors) {
  constexpr int kBlockLanes = 256;
  constexpr int64_t kPartMultiple = 64;  // elements: parts of an aligned row are aligned
  RowPlan plan{rows_of_tile(rows, classes, row_stride, element_bytes, multiprocessors), 32, 1, classes, kMostBlocks, 1};
  if (plan.tile_rows > 0) return plan;
  plan.splits = parts_of_row(rows, classes, element_bytes, multiprocessors);
  if (plan.splits > 1) {
    plan.part_classes = quotient_above(quotient_above(classes, plan.splits), kPartMultiple) * kPartMultiple;
    plan.splits = quotient_above(classes, plan.part_classes);
    plan.lanes = kBlockLanes;
    return plan;
  }
  // What a row costs beside its vectors is the same for a whole warp: eight vectors a lane make that the lesser part,
  // and fewer only help where rows are too few to hide each other's latency.
  const int64_t vectors = classes * element_bytes / 16;
  const bool few = rows < 16 * static_cast<int64_t>(multiprocessors);
  const int64_t most = few ? 4 : 8;
  plan.lanes = vectors <= 8 * most ? 8 : vectors <= 16 * most ? 16 : vectors <= 32 * (few ? 8 : 32) ? 32 : kBlockLanes;
  // The more turns a block has, the less of its time goes to scoring, but the longer is the end, when there are no
  // blocks left for some multiprocessors. Wherever rows are many, two turns were the fastest of two, four and eight on
  // an H100; one turn is where blocks of two would not fill it.
  const int64_t block_rows = kBlockLanes / plan.lanes;
  const int64_t rounds = quotient_above(vectors, 8 * plan.lanes);
  const int64_t worth_two = 3 * multiprocessors * block_rows * element_bytes * rounds;  // rows, as measured
  if (rows >= worth_two) plan.turns = 2;
  return plan;
}

}  // namespace dynams
