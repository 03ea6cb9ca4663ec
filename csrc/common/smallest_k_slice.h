// A block's own values in the selection of the k smallest: reading them, going over them, writing those selected.
#pragma once

#include <cstdint>

#include "block_bins.h"
#include "portable.h"
#include "smallest_k_task.h"

namespace dynams {

template <class Machine, class Shape>
struct SelectionShared {
  using Key = typename Shape::Key;

  SharedBins<Machine, Shape::kBins> bins;
  FoundBin found[2];
  Key member_keys[Shape::kMembers];
  int64_t member_indices[Shape::kMembers];
  uint32_t members, selected_before;
  uint32_t saved, listed_below;  // values kept aside, and those of the slice below the range they were kept for
  Key threshold;
  int64_t last_tie;
};

// What a block selects of its slice: the values with smaller keys, and of those with this key the ones at offsets below
// `ties` or, where only so many are, the first `ties`. They go to the places of the answer from `base` on.
template <class Key>
struct Threshold {
  Key key;
  uint32_t ties;
  bool first_ties;
  int64_t base;
};

template <class Machine, class Shape>
class BlockSlice : protected BlockBins<Machine, Shape::kThreads, Shape::kBins> {
 protected:
  using Bins = BlockBins<Machine, Shape::kThreads, Shape::kBins>;
  using Raw = typename Shape::Raw;
  using Key = typename Shape::Key;
  using Bins::kWarp, Bins::kWarps, Bins::m_, Bins::thread_, Bins::lane, Bins::warp;
  static constexpr int kThreads = Shape::kThreads;
  static constexpr int kItems = Shape::kItems;
  static_assert(Shape::kWarp == kWarp && kWarps > 1);

  DYNAMS_DEVICE BlockSlice(Machine& machine, const SelectionTask<Shape>& task,
                           SharedBins<Machine, Shape::kBins>& shared, Raw* cache)
      : Bins(machine, shared), task_(task), cache_(cache), start_(static_cast<int64_t>(machine.block()) * task.slice) {
    const int64_t rest = task.count - start_;
    size_ = static_cast<int>(rest < 0 ? 0 : rest < task.slice ? rest : task.slice);
  }

  // Offsets are signed and stay far from the largest: loads at constant distances then share one address.
  DYNAMS_DEVICE Raw value(int offset) {
    return Shape::kCached ? cache_[offset] : m_.read(task_.values + start_ + offset);
  }

  // The thread's place among the readers of a tile; negative where it is none of them. The first warp is not: to arrive
  // at the grid's barrier takes as long as these reads, and the block would wait for one after the other.
  DYNAMS_DEVICE int reader() const { return static_cast<int>(thread_) - kWarp; }

  DYNAMS_DEVICE void read_tile(int begin, Raw* raw) {
    DYNAMS_UNROLL
    for (int i = 0; i < kItems; ++i) {
      const int offset = begin + reader() + i * Shape::kReaders;
      raw[i] = reader() >= 0 && offset < size_ ? m_.read(task_.values + start_ + offset) : Raw(0);
    }
  }

  DYNAMS_DEVICE void cache_tile(int begin, const Raw* raw) {
    DYNAMS_UNROLL
    for (int i = 0; i < kItems; ++i) {
      const int offset = begin + reader() + i * Shape::kReaders;
      if (reader() >= 0 && offset < size_) cache_[offset] = raw[i];
    }
  }

  // One value of each of kSample equal parts of them all, at a place that no period of the data follows.
  DYNAMS_DEVICE void read_sample(Raw* sample) {
    const uint64_t count = task_.count, part = count / Shape::kSample;
    DYNAMS_UNROLL
    for (int i = 0; i < Shape::kSampleItems; ++i) {
      const uint32_t which = i * Shape::kReaders + reader();
      const uint64_t jitter = static_cast<uint64_t>(which * 2654435761u) * part >> 32;
      sample[i] = reader() >= 0 ? m_.read(task_.values + which * count / Shape::kSample + jitter) : Raw(0);
    }
  }

  // Calls use(offset, item, there) by whole warps for the offsets up to `size`, kBatch loads before their uses. The
  // last come first: the write starts with those the second-level cache saw last.
  template <int kBatch, class At, class Use>
  DYNAMS_DEVICE void sweep(int size, At at, Use use) {
    constexpr int kSpan = kThreads * kBatch;
    DYNAMS_UNROLL_BY(1)
    for (int begin = (size - 1) / kSpan * kSpan; begin >= 0 && size > 0; begin -= kSpan) {
      const int first = begin + static_cast<int>(thread_);
      decltype(at(0)) items[kBatch];
      DYNAMS_UNROLL
      for (int i = 0; i < kBatch; ++i) items[i] = first + i * kThreads < size ? at(first + i * kThreads) : 0;
      DYNAMS_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        const int offset = first + i * kThreads;
        if (begin + i * kThreads < size) use(offset, items[i], offset < size);
      }
    }
  }

  // Calls use(i) for the rows of a tile. Streamed values wait in registers, which have no index but a constant. Cached
  // ones are read again from shared memory by a short loop: a kernel of microseconds has no time to fetch long code.
  template <class Use>
  DYNAMS_DEVICE void for_rows(int rows, Use use) {
    if constexpr (Shape::kCached) {
      DYNAMS_UNROLL_BY(1)
      for (int i = 0; i < rows; ++i) use(i);
    } else {
      DYNAMS_UNROLL
      for (int i = 0; i < kItems; ++i)
        if (i < rows) use(i);
    }
  }

  // Writes the slice's selected values. kFirstTies: what `threshold.ties` means.
  template <bool kFirstTies>
  DYNAMS_DEVICE void write(const Threshold<Key>& threshold) {
    const Key last = threshold.key;
    const uint32_t ties = threshold.ties;
    int64_t base = threshold.base;
    constexpr int kRows = Shape::kCached ? 32 : kItems;
    static_assert(kRows <= 32 && kThreads * kRows < 1 << 16, "a bit a row; two counts of a tile share a word");
    uint32_t ties_seen = 0;
    DYNAMS_UNROLL_BY(1)
    for (int begin = 0; begin < size_; begin += kThreads * kRows) {
      // A tile that is not full is shared evenly by the warps.
      const int full = (size_ - begin + kThreads - 1) / kThreads;
      const int rows = full < kRows ? full : kRows;
      const int first = begin + static_cast<int>(warp()) * rows * kWarp + static_cast<int>(lane());
      Raw raw[kItems];
      if (!Shape::kCached) {
        DYNAMS_UNROLL
        for (int i = 0; i < kItems; ++i) {
          const int offset = first + i * kWarp;
          raw[i] = i < rows && offset < size_ ? value(offset) : Raw(0);
        }
      }
      uint32_t chosen = 0, tied = 0;  // a bit a row
      for_rows(rows, [&](int i) {
        const int offset = first + i * kWarp;
        if (offset >= size_) return;
        const Key key = Shape::Order::key(Shape::kCached ? cache_[offset] : raw[i]);
        const bool tie = key == last && (kFirstTies || static_cast<uint32_t>(offset) < ties);
        chosen |= static_cast<uint32_t>(key < last || (!kFirstTies && tie)) << i;
        if (kFirstTies) tied |= static_cast<uint32_t>(tie) << i;
      });
      const uint32_t own = m_.warp_sum(m_.count_bits(tied) << 16 | m_.count_bits(chosen));
      uint64_t* sums = Bins::next_sums();
      if (lane() == 0) sums[warp()] = own;
      m_.sync();
      const uint32_t of_warp = lane() < kWarps ? static_cast<uint32_t>(sums[lane()]) : 0;
      const uint32_t before = m_.warp_sum(lane() < warp() ? of_warp : 0);
      const uint32_t total = m_.warp_sum(of_warp);
      int place = static_cast<int>(before & 0xffff);  // after `base`
      uint32_t ties_before = ties_seen + (before >> 16);
      for_rows(rows, [&](int i) {
        const int offset = first + i * kWarp;
        bool selected = chosen >> i & 1;
        const uint32_t lanes = m_.ballot(selected);
        int to = place + static_cast<int>(m_.count_bits(lanes & Bins::lanes_before()));
        place += static_cast<int>(m_.count_bits(lanes));
        if (kFirstTies) {
          const bool tie = tied >> i & 1;
          const uint32_t tied_lanes = m_.ballot(tie);
          const uint32_t earlier = ties_before + m_.count_bits(tied_lanes & Bins::lanes_before());
          ties_before += m_.count_bits(tied_lanes);
          selected = selected || (tie && earlier < ties);
          to += static_cast<int>(earlier < ties ? earlier : ties);
        }
        if (selected && task_.out_indices != nullptr) {
          m_.write(task_.out_values + base + to, Shape::kCached ? cache_[offset] : raw[i]);
          m_.write(task_.out_indices + base + to, start_ + offset);
        }
        if (task_.out_mask != nullptr && offset < size_) m_.write(task_.out_mask + start_ + offset, selected);
      });
      base += total & 0xffff;
      ties_seen += total >> 16;
    }
  }

  const SelectionTask<Shape>& task_;
  Raw* const cache_;
  const int64_t start_;  // of the slice, in the values
  int size_;             // of the slice
};

}  // namespace dynams
