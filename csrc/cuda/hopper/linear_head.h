// Scores of a linear head on Hopper (compute capability 9.0), whose logits never leave the registers: what is asked,
// and the launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../../common/kinds.h"

namespace dynams {

// Rows and classes of a tile of logits. Of the first two kinds two tiles are in work at once, one multiplied while the
// other is reduced (ping-pong); the last is shared by two warpgroups, which reduce it before they go on (cooperative).
enum class HeadTile : int32_t { k128x144 = 0, k128x192 = 1, k128x256 = 2 };
constexpr int kHeadTiles = 3;
constexpr int kHeadTileRows = 128;
constexpr int kHeadTileClasses[kHeadTiles] = {144, 192, 256};

// What this kernel can score: everything but distances between classes.
constexpr uint32_t kHopperKinds = kLinearKinds & ~kDistance;

struct HopperHead {
  const void* features;   // (rows, width), rows `features_stride` elements apart
  const void* weight;     // (classes, width), rows `weight_stride` elements apart
  const void* bias;       // (classes) or null; 4-byte aligned
  const int64_t* labels;  // (rows) or null
  // kFloat16 or kBFloat16, of features, weight and bias. Features and weight: adjacent elements, 16-byte aligned, as
  // are their rows.
  DType dtype;
  int64_t rows, classes, width, features_stride, weight_stride;
  uint32_t kinds;  // request mask, of kHopperKinds
  float* scores;   // one row of `scores_stride` elements for each kind
  int64_t scores_stride;
  HeadTile tile;
  void* scratch;  // hopper_head_scratch() bytes, 16-byte aligned, undefined contents
};

// Bytes of scratch: 8 and a little a row for the gap alone, else at most kMostStateBytes or what 256 rows take.
constexpr int64_t kMostStateBytes = 64 << 20;
int64_t hopper_head_scratch(const HopperHead& head);

// Launches on the current device; the result is that of the launch.
cudaError_t hopper_head(const HopperHead& head, int multiprocessors, cudaStream_t stream);

// Loads every kernel and sets its limits on the current device, of capability 9.0, as neither may fall inside a graph's
// capture.
cudaError_t preload_hopper_head();

}  // namespace dynams
