// What the selection kernel of smallest_k_block.h is told: the order of an element type, the sizes it is compiled for,
// its arguments, and where everything lies in its scratch memory. Host code, shared by the launch and by the tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "half.h"
#include "order_key.h"
#include "portable.h"

namespace dynams {

// The order of an element type: keys of its stored bits, in the total order of order_key.h, and their numbers, which
// compare as the keys do but for NaN, in one instruction where a key takes six.
struct Float32Order {
  using Raw = uint32_t;
  using Key = uint32_t;
  using Number = float;
  static constexpr int kKeyBits = 32;
  static constexpr Key kZero = FloatKeys::kZero, kLowest = FloatKeys::kLowest, kHighest = FloatKeys::kHighest;
  static DYNAMS_HD Key key(Raw raw) { return FloatKeys::key(raw); }
  static DYNAMS_HD Raw raw(Key key) { return FloatKeys::bits(key); }
  static DYNAMS_HD Number number(Raw raw) { return float_of_bits(raw); }
};
struct Float64Order {
  using Raw = uint64_t;
  using Key = uint64_t;
  using Number = double;
  static constexpr int kKeyBits = 64;
  static constexpr Key kZero = DoubleKeys::kZero, kLowest = DoubleKeys::kLowest, kHighest = DoubleKeys::kHighest;
  static DYNAMS_HD Key key(Raw raw) { return DoubleKeys::key(raw); }
  static DYNAMS_HD Raw raw(Key key) { return DoubleKeys::bits(key); }
  static DYNAMS_HD Number number(Raw raw) {
    double out;
    std::memcpy(&out, &raw, sizeof(out));
    return out;
  }
};
// Sixteen bits order themselves, no float between: kept in the upper half of a word, the same formula serves, and keys
// of 16 bits reach single values in two rounds of bins where those of the equal floats would need three.
template <class Half_, uint32_t kUpperInfinityBits>
struct ShortOrder {
  using Raw = uint16_t;
  using Key = uint32_t;
  using Number = float;
  using Upper = FloatOrder<uint32_t, kUpperInfinityBits>;
  static constexpr int kKeyBits = 16;
  static constexpr Key kZero = Upper::kZero >> 16, kLowest = Upper::kLowest >> 16, kHighest = Upper::kHighest >> 16;
  static DYNAMS_HD Key key(Raw raw) { return Upper::key(static_cast<uint32_t>(raw) << 16) >> 16; }
  static DYNAMS_HD Raw raw(Key key) { return static_cast<Raw>(Upper::bits(key << 16) >> 16); }
  static DYNAMS_HD Number number(Raw raw) { return value_of(Half_{raw}); }
};
using Float16Order = ShortOrder<Half, 0x7c000000u>;
using BFloat16Order = ShortOrder<BFloat, 0x7f800000u>;

// What may happen on the way, for machines that keep a record.
enum class SelectionEvent {
  kRankedMembers,
  kSingleKey,
  kSplitTies,
  kMissedLow,
  kMissedHigh,
  kNarrowed,
  kUnplaced,
  kUnlisted
};

// The sizes a kernel is compiled for.
template <class Order_, class Count_, bool kCached_, int kThreads_, int kWarp_, int kBinBits_, int kChunks_,
          int kSampleItems_, int kMembers_>
struct SelectionShape {
  using Order = Order_;
  using Raw = typename Order::Raw;
  using Key = typename Order::Key;
  using Count = Count_;                      // counts values of the whole input
  static constexpr bool kCached = kCached_;  // a block's slice stays in its shared memory
  static constexpr int kThreads = kThreads_;
  static constexpr int kBinBits = kBinBits_;
  static constexpr int kBins = 1 << kBinBits;
  static constexpr int kChunks = kChunks_;  // of kChunk values, that a warp takes at once: one load a lane each
  static constexpr int kChunk = 4 * kWarp_;
  static constexpr int kTile = kThreads / kWarp_ * kChunks * kChunk;  // values that the block takes at once
  static constexpr int kSampleItems = kSampleItems_;                  // keys of the sample that a thread reads
  static constexpr int kReaders = kThreads - kWarp_;  // the first warp meets the grid's first barrier meanwhile
  static constexpr int kSample = kReaders * kSampleItems;
  // Next to each other, so that one sector of memory serves them: scattered ones, which every block reads, took longer
  // to come than the slice.
  static constexpr int kSampleRun = 4;
  static constexpr int kSampleRuns = kSample / kSampleRun;
  static_assert(kSampleItems % kSampleRun == 0 && kReaders >= kSampleRun);
  static constexpr int kMembers = kMembers_;  // of the bin of rank k, ranked directly where there are no more
  // A round splits a range of keys into kBins: so many reach single keys, after one bracket that may miss.
  static constexpr int kRounds = 1 + (Order::kKeyBits + kBinBits - 1) / kBinBits;
  static constexpr int kWarp = kWarp_;
  // Of a round: the bins, the values below the range, the blocks that could not place theirs, the blocks that have
  // added all this; a multiple of 16 bytes.
  static constexpr int kBelow = kBins;
  static constexpr int kUnplaced = kBins + 1;
  static constexpr int kArrived = kBins + 2;
  static constexpr int kHistogram = kBins + 4;
  static constexpr int kRow = kBins + 4;  // of a block: kBins + 1 numbers
  static constexpr Key kLastKey = static_cast<Key>(~Key(0)) >> (sizeof(Key) * 8 - Order::kKeyBits);
};

// A block's offsets are ints, with room for the tile that its values may end in; those of cached slices and of tiles
// are kept in 16 bits.
constexpr int64_t kLargestSlice = 1 << 30;
constexpr int64_t kLargestCachedSlice = 1 << 16;

template <class Shape>
struct SelectionTask {
  using Raw = typename Shape::Raw;
  using Key = typename Shape::Key;

  const Raw* values;
  int64_t count, k;      // 1 <= k <= count
  Raw* out_values;       // or null, both
  int64_t* out_indices;  // where only the mask is wanted
  bool* out_mask;        // or null

  uint32_t slice;  // values a block owns: block b those from b * slice; at most kLargestSlice
  bool sampled;
  uint64_t sample_part;         // count / kSampleRuns,
  uint32_t sample_rest;         // and what that leaves over
  int32_t sample_low;           // ranks in the sample that enclose rank k, most likely; negative: no lower bound
  int32_t sample_high;          // kSample or more: no upper bound
  uint32_t place_capacity;      // values in range that a block can show the others; at least kMembers
  uint32_t list_capacity;       // values in range that a block can list; at least place_capacity
  typename Shape::Count* bins;  // kHistogram a round
  uint32_t* rows;               // kRow a block
  Key* placed;                  // place_capacity pairs a block: a key, and an offset in the slice
  Key* listed_keys;             // list_capacity a block, unless cached
  uint32_t* listed_offsets;
};

// Gives the task its places in scratch memory of 256-byte alignment (null: only measures) and returns the bytes.
template <class Shape>
size_t lay_out(SelectionTask<Shape>& task, size_t blocks, void* scratch) {
  size_t used = 0;
  const auto take = [&](auto*& pointer, size_t count) {
    using Element = std::remove_reference_t<decltype(*pointer)>;
    pointer = scratch == nullptr ? nullptr : reinterpret_cast<Element*>(static_cast<char*>(scratch) + used);
    used += (count * sizeof(Element) + 255) / 256 * 256;
  };
  const size_t listed = Shape::kCached ? 0 : task.list_capacity;
  take(task.bins, size_t(Shape::kRounds) * Shape::kHistogram);
  take(task.rows, blocks * Shape::kRow);
  take(task.placed, blocks * task.place_capacity * 2);
  take(task.listed_keys, blocks * listed);
  take(task.listed_offsets, blocks * listed);
  return used;
}

// Shared memory of a block beside SelectionShared: its slice, or a tile of it, and offsets of values in the slice or of
// a tile: first those in range, cached with their places in their bins and then sorted by bin, later those selected, up
// to 3 places on for the sake of alignment.
template <class Shape>
DYNAMS_HD size_t shared_values(const SelectionTask<Shape>& task) {
  constexpr size_t kChunk = Shape::kChunk;
  return Shape::kCached ? (task.slice + kChunk - 1) / kChunk * kChunk : Shape::kTile;
}
template <class Shape>
size_t shared_bytes(const SelectionTask<Shape>& task) {
  const size_t selected = (std::min<size_t>(Shape::kTile, shared_values(task)) + 4) * sizeof(uint16_t);
  const size_t listed =
      Shape::kCached ? task.list_capacity * sizeof(uint32_t) + task.place_capacity * sizeof(uint16_t) : 0;
  return shared_values(task) * sizeof(typename Shape::Raw) + (std::max(selected, listed) + 15) / 16 * 16;
}

// Decides on the sample. Rank k falls outside its bracket once in many inputs: 2 in 10,000 at 3.7 deviations of random
// sampling.
template <class Shape>
void set_sample(SelectionTask<Shape>& task, double deviations) {
  const double share = (static_cast<double>(task.k) - 0.5) / static_cast<double>(task.count);
  const double centre = share * Shape::kSample;
  const double reach = deviations * std::sqrt(centre * (1 - share)) + 1;
  task.sampled = task.count >= Shape::kReaders;
  task.sample_part = static_cast<uint64_t>(task.count) / Shape::kSampleRuns;
  task.sample_rest = static_cast<uint32_t>(static_cast<uint64_t>(task.count) % Shape::kSampleRuns);
  task.sample_low = static_cast<int32_t>(std::floor(centre - reach));
  task.sample_high = static_cast<int32_t>(std::ceil(centre + reach));
}

}  // namespace dynams
