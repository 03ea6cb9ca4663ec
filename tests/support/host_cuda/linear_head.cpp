// The linear head's Hopper kernels run on the host: called by tests/support/hopper_on_host.py.
//
// CUTLASS's part is played here: the walk over the tiles, the product, and the registers that it leaves a tile in,
// which are written down by the PTX manual ("Register Fragments for wgmma.mma_async.m64nNk16"). All that follows is the
// kernels' own code, and so is the launcher.
#include "../../../csrc/cuda/hopper/linear_head.h"

#include <cuda_runtime.h>

#include <cstdlib>

// The launcher's bound, which tests lower: chunks of few rows then are cheap.
static int64_t most_state_bytes = dynams::kMostStateBytes;
#define kMostStateBytes most_state_bytes
#include "../../../csrc/cuda/hopper/linear_head.cu"
#undef kMostStateBytes
#include "../../../csrc/cuda/hopper/reduce_tile.cuh"
#include "../../../csrc/cuda/hopper/swizzle.h"
#include "guarded.h"

namespace host_hopper {

using dynams::GapTask;
using dynams::HopperHead;
using dynams::StatesTask;

constexpr int kWarpgroup = 128, kMostThreads = 512;  // of the tiles that are in work at once

unsigned launches;
int64_t most_launched_rows;
Guarded* scratch;
bool logits_given;  // in place of the features: floats, a row of them for each row

// A warpgroup's registers for its 64-row products: register v of thread t is d_v of the manual's figure.
template <class Shape>
struct Registers {
  float d[Shape::kProducts][Shape::kColumns / 2];

  float& operator()(int v, int product, int) { return d[product][v]; }

  void load(const float* tile, int thread) {
    const int group = thread / kWarpgroup, warp = thread % kWarpgroup / 32, lane = thread % 32;
    for (int product = 0; product < Shape::kProducts; ++product) {
      const int first_row = 64 * (Shape::kGroups == 1 ? product : group);
      for (int v = 0; v < Shape::kColumns / 2; ++v) {
        const int row = 16 * warp + lane / 4 + (v % 4 >= 2 ? 8 : 0), column = v / 4 * 8 + lane % 4 * 2 + v % 2;
        d[product][v] = tile[(first_row + row) * Shape::kColumns + column];
      }
    }
  }
};

struct Place {
  int64_t row_tile, class_tile;
};

// The tiles that CUTLASS's persistent scheduler takes (test_hopper_cutlass.py asks it); in a shuffled order as many as
// it would with swizzles of four, of which more are none.
std::vector<Place> tiles_of(int64_t row_tiles, int64_t class_tiles) {
  const int64_t swizzle = host_cuda::order_seed != 0 ? 4 : dynams::swizzle_of(row_tiles, class_tiles);
  std::vector<Place> tiles;
  for (int64_t row = 0; row < dynams::rounded_up(row_tiles, 2 * swizzle); ++row)
    for (int64_t column = 0; column < dynams::rounded_up(class_tiles, swizzle); ++column)
      tiles.push_back({row, column});
  return tiles;
}

// Rows of an operand as numbers, zeros past its last row, as TMA reads them.
template <class Element>
std::vector<float> operand(const void* from, int64_t stride, int64_t rows, int64_t width, int64_t first, int count) {
  std::vector<float> out(static_cast<size_t>(count * width), 0.0f);
  for (int64_t row = first; row < std::min(rows, first + count); ++row)
    for (int64_t i = 0; i < width; ++i)
      out[(row - first) * width + i] = dynams::value_of(static_cast<const Element*>(from)[row * stride + i]);
  return out;
}

template <class Shape, class Element>
std::vector<float> product(const HopperHead& head, Place place) {
  constexpr int kRows = Shape::kTileRows, kColumns = Shape::kColumns;
  std::vector<float> tile(kRows * kColumns, logits_given ? NAN : 0.0f);
  const int64_t first_row = place.row_tile * kRows, first_class = place.class_tile * kColumns;
  if (logits_given) {
    // Outside is NaN, which zeros make of an infinite feature or weight.
    for (int64_t row = first_row; row < std::min(first_row + kRows, head.rows); ++row) {
      const auto from =
          reinterpret_cast<const float*>(static_cast<const uint16_t*>(head.features) + row * head.features_stride);
      for (int64_t column = first_class; column < std::min(first_class + kColumns, head.classes); ++column)
        tile[(row - first_row) * kColumns + column - first_class] = from[column];
    }
    return tile;
  }
  const auto features = operand<Element>(head.features, head.features_stride, head.rows, head.width, first_row, kRows);
  const auto weight =
      operand<Element>(head.weight, head.weight_stride, head.classes, head.width, first_class, kColumns);
  std::vector<float> across(weight.size());
  for (int column = 0; column < kColumns; ++column)
    for (int64_t i = 0; i < head.width; ++i) across[i * kColumns + column] = weight[column * head.width + i];
  for (int row = 0; row < kRows; ++row) {
    float* to = tile.data() + row * kColumns;
    for (int64_t i = 0; i < head.width; ++i) {
      const float feature = features[row * head.width + i];
      const float* with = across.data() + i * kColumns;
      for (int column = 0; column < kColumns; ++column) to[column] += feature * with[column];
    }
  }
  return tile;
}

template <class Shape, class Element, class Task>
void run_tiles(const HopperHead& head, const Task& task) {
  constexpr bool kAside = dynams::kHasAside<Shape, Task>;
  constexpr int kOwners = kWarpgroup * Shape::kGroups, kThreads = kOwners + (kAside ? 32 : 0);
  const auto classes = static_cast<int>(head.classes), rows = static_cast<int>(head.rows);
  std::vector<Place> places =
      tiles_of(dynams::quotient_above(rows, Shape::kTileRows), dynams::quotient_above(classes, Shape::kColumns));
  std::mt19937 random(host_cuda::order_seed);
  if (host_cuda::order_seed != 0) std::shuffle(places.begin(), places.end(), random);
  host_cuda::forget_raises();
  // With a warp aside one block takes a few tiles in turn; else they are in work at once.
  constexpr size_t kTogether = kAside ? 3 : kMostThreads / kThreads;
  for (size_t begin = 0; begin < places.size(); begin += kTogether) {
    const size_t count = std::min(kTogether, places.size() - begin);
    std::vector<std::vector<float>> tiles;
    for (size_t i = 0; i < count; ++i) tiles.push_back(product<Shape, Element>(head, places[begin + i]));
    [[maybe_unused]] dynams::Aside<Shape> aside;
    std::memset(&aside, 0xff, sizeof(aside));
    const auto bias = static_cast<const Element*>(head.bias);
    const auto rows_left = [&](const Place& place) {
      return static_cast<int>(rows - place.row_tile * Shape::kTileRows);
    };
    const auto classes_left = [&](const Place& place) {
      return static_cast<int>(classes - place.class_tile * Shape::kColumns);
    };
    host_cuda::body = [&] {
      const int thread = static_cast<int>(threadIdx.x) % kThreads;
      Registers<Shape> registers;
      if constexpr (kAside) {
        bool begun = false;
        for (size_t i = 0; i < count; ++i) {
          const Place place = places[begin + i];
          const int row_count = rows_left(place), class_count = classes_left(place);
          if (thread < kOwners) {
            registers.load(tiles[i].data(), thread);
            dynams::end_tile<Shape>(registers, row_count, class_count, thread, !begun, aside);
            begun |= row_count > 0 && class_count > 0;
          } else {
            dynams::attend_tile<Shape>(place.row_tile, place.class_tile, row_count, class_count, bias, thread % 32,
                                       aside, task);
          }
        }
      } else {
        const int number = static_cast<int>(threadIdx.x) / kThreads;
        const Place place = places[begin + number];
        registers.load(tiles[number].data(), thread);
        dynams::reduce_tile<Shape>(registers, place.row_tile, place.class_tile, rows_left(place), classes_left(place),
                                   bias, thread, task);
      }
    };
    host_cuda::here = &host_cuda::multiprocessors[0];
    host_cuda::forget_known();
    host_cuda::run_block(static_cast<unsigned>((kAside ? 1 : count) * kThreads), random);
    for (const host_cuda::Barrier& barrier : host_cuda::barriers)
      if (barrier.come != 0 && host_cuda::problem.empty()) host_cuda::problem = "a barrier is left with too few";
  }
}

// Of what a launch writes to the scratch nothing is there before the early one after it has waited for it.
void hold_back(const std::vector<unsigned char>& before, Guarded& scratch) {
  const auto bytes = static_cast<unsigned char*>(scratch.data());
  std::vector<unsigned char> after(bytes, bytes + before.size());
  std::copy(before.begin(), before.end(), bytes);
  host_cuda::earlier_launch = [=] { std::copy(after.begin(), after.end(), bytes); };
}

}  // namespace host_hopper

namespace dynams {

template <class Element, class Task>
cudaError_t HeadKernels<Element, Task>::launch(const HopperHead& head, const Task& task, int, cudaStream_t,
                                               bool early) {
  // Of the gap alone it is: tiles that leave states do not wait.
  if (early != std::is_same_v<Task, GapTask>) return cudaErrorUnknown;
  ++host_hopper::launches;
  host_hopper::most_launched_rows = std::max(host_hopper::most_launched_rows, head.rows);
  const std::vector<unsigned char> before = host_hopper::scratch->contents();
  if (early) host_hopper::hold_back(std::vector<unsigned char>(before.size(), 0xff), *host_hopper::scratch);
  for_tile(head.tile, [&](auto tile) { host_hopper::run_tiles<ShapeOf<decltype(tile)::value>, Element>(head, task); });
  if constexpr (std::is_same_v<Task, StatesTask>) host_hopper::hold_back(before, *host_hopper::scratch);
  return host_cuda::problem.empty() ? cudaSuccess : cudaErrorUnknown;
}

template <class Element, class Task>
cudaError_t HeadKernels<Element, Task>::preload() {
  return cudaSuccess;
}

template struct HeadKernels<BFloat, GapTask>;
template struct HeadKernels<BFloat, StatesTask>;
template struct HeadKernels<Half, GapTask>;
template struct HeadKernels<Half, StatesTask>;

}  // namespace dynams

extern "C" {

// null where all went well, else what did not. `logits_given`: the features are the logits, as floats. `state_bytes`:
// the bound on the states, 0 for the real one. `told`: how many launches there were, and of how many rows at most.
const char* host_hopper_head(const dynams::HopperHead* request, int logits_given, int64_t state_bytes,
                             unsigned order_seed, int64_t* told) {
  host_cuda::problem.clear();
  host_cuda::order_seed = order_seed;
  host_hopper::logits_given = logits_given != 0;
  host_hopper::launches = 0;
  host_hopper::most_launched_rows = 0;
  most_state_bytes = state_bytes > 0 ? state_bytes : dynams::kMostStateBytes;
  dynams::HopperHead head = *request;
  Guarded scratch(dynams::hopper_head_scratch(head));
  head.scratch = scratch.data();
  host_hopper::scratch = &scratch;
  const cudaError_t error = dynams::hopper_head(head, 132, nullptr);
  if (scratch.is_overrun()) host_cuda::problem = "scratch is overrun";
  if (error != cudaSuccess && host_cuda::problem.empty()) host_cuda::problem = "the launch failed";
  told[0] = host_hopper::launches;
  told[1] = host_hopper::most_launched_rows;
  return host_cuda::problem.empty() ? nullptr : host_cuda::problem.c_str();
}

int64_t host_hopper_scratch(const dynams::HopperHead* head, int64_t state_bytes) {
  most_state_bytes = state_bytes > 0 ? state_bytes : dynams::kMostStateBytes;
  return dynams::hopper_head_scratch(*head);
}

int64_t host_most_state_bytes() { return dynams::kMostStateBytes; }
int host_swizzle(int64_t row_tiles, int64_t class_tiles) { return dynams::swizzle_of(row_tiles, class_tiles); }
int host_preload_hopper() { return dynams::preload_hopper_head(); }
}
