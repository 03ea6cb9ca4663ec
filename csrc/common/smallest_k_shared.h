// What the selection keeps in shared memory of fixed size.
#pragma once

#include <cstdint>

#include "block_bins.h"
#include "portable.h"
#include "smallest_k_task.h"

namespace dynams {

// A value of the bin of rank k, ordered by key, then by index: how far its key lies above the bin's first, and its
// index. One number holds both where a round has left few enough bits of the key.
template <class Key, int kAboveBits, bool kOneWord = (kAboveBits <= 26)>
struct Member {
  static constexpr int kIndexBits = 64 - kAboveBits;
  uint64_t word;

  Member() = default;
  DYNAMS_DEVICE Member(Key above, int64_t index) : word(static_cast<uint64_t>(above) << kIndexBits | index) {}
  DYNAMS_DEVICE Key above() const { return static_cast<Key>(word >> kIndexBits); }
  DYNAMS_DEVICE int64_t index() const { return static_cast<int64_t>(word & ((uint64_t(1) << kIndexBits) - 1)); }
  DYNAMS_DEVICE bool operator<(const Member& other) const { return word < other.word; }
};
template <class Key, int kAboveBits>
struct Member<Key, kAboveBits, false> {
  Key above_;
  int64_t index_;

  Member() = default;
  DYNAMS_DEVICE Member(Key above, int64_t index) : above_(above), index_(index) {}
  DYNAMS_DEVICE Key above() const { return above_; }
  DYNAMS_DEVICE int64_t index() const { return index_; }
  DYNAMS_DEVICE bool operator<(const Member& other) const {
    return above_ < other.above_ || (above_ == other.above_ && index_ < other.index_);
  }
};

template <class Machine, class Shape>
struct SelectionShared {
  using Key = typename Shape::Key;
  using OneMember = Member<Key, Shape::Order::kKeyBits - Shape::kBinBits>;

  SharedBins<Machine, Shape::kBins> bins;
  FoundBin found[2];
  uint64_t member_sources[Shape::kMembers];  // a block, and a place among what it placed
  OneMember members[Shape::kMembers];
  uint64_t below_before;  // values of earlier slices below the bin of rank k
  uint32_t gathered, selected_before;
  uint32_t listed, below;  // the slice's values in range, and below it
  uint64_t grid_below, grid_unplaced;
  Key threshold;
  int64_t last_tie;
  uint32_t ties_end;
  // Those below the range they were listed for. Not beside those that all threads read when one writes this: the
  // compiler reads neighbours at once, wanted or not, which racecheck takes for a race.
  uint32_t listed_below;
};

}  // namespace dynams
