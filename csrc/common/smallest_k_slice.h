// A block's own values in the selection of the k smallest: reading them, going over them, writing those selected.
//
// Values are taken a tile at a time, four next to each other by a lane, as one load of up to 16 bytes: a chunk by a
// warp, and the warps' chunks of a tile follow one another, so that what a warp finds stays in the order of the values.
// What is wanted of each value is one bit; what is kept of it, an offset, is compacted in shared memory.
#pragma once

#include <cstdint>

#include "block_bins.h"
#include "portable.h"
#include "smallest_k_task.h"

namespace dynams {

template <class T>
struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Quad {
  T at[4];
};

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
  uint32_t gathered, selected_before;
  uint32_t listed, listed_below;  // values in range, and those of the slice below the range they were listed for
  Key threshold;
  int64_t last_tie;
  uint32_t ties_end;
};

// What a block selects of its slice: the values with smaller keys, and those with this key at offsets below `ties_end`.
// They go to the places of the answer from `base` on.
template <class Key>
struct Threshold {
  Key key;
  uint32_t ties_end;
  int64_t base;
};

template <class Machine, class Shape>
class BlockSlice : protected BlockBins<Machine, Shape::kThreads, Shape::kBins> {
 protected:
  using Bins = BlockBins<Machine, Shape::kThreads, Shape::kBins>;
  using Order = typename Shape::Order;
  using Raw = typename Shape::Raw;
  using Key = typename Shape::Key;
  using Number = typename Order::Number;
  using Bins::kWarp, Bins::kWarps, Bins::m_, Bins::thread_, Bins::lane, Bins::warp;
  static constexpr int kThreads = Shape::kThreads;
  static constexpr int kChunks = Shape::kChunks;
  static constexpr int kChunk = Shape::kChunk;
  static constexpr int kTile = Shape::kTile;
  static_assert(Shape::kWarp == kWarp && kWarps > 1);
  static_assert(kChunks <= 4 && kChunk < 256 && kTile <= 1 << 16, "a byte a chunk, 16 bits an offset");

  // `shared`: of at least shared_bytes() of the task.
  DYNAMS_DEVICE BlockSlice(Machine& machine, const SelectionTask<Shape>& task, SharedBins<Machine, Shape::kBins>& bins,
                           void* shared)
      : Bins(machine, bins),
        task_(task),
        values_(static_cast<Raw*>(shared)),
        offsets_(reinterpret_cast<uint16_t*>(values_ + shared_values(task))),
        start_(static_cast<int64_t>(machine.block()) * task.slice) {
    const int64_t rest = task.count - start_;
    size_ = static_cast<int>(rest < 0 ? 0 : rest < task.slice ? rest : task.slice);
    aligned_ = reinterpret_cast<uintptr_t>(task.values + start_) % alignof(Quad<Raw>) == 0;
  }

  // ---------------------------------------------------------------------------------------- reading

  // Offsets are signed and stay far from the largest: loads at constant distances then share one address.
  DYNAMS_DEVICE Raw value(int offset) {
    return Shape::kCached ? values_[offset] : m_.read(task_.values + start_ + offset);
  }

  // Four values of the slice; a NaN, which is last in every order, for each beyond its end.
  DYNAMS_DEVICE Quad<Raw> read_quad(int offset) {
    Quad<Raw> quad;
    if (aligned_ && offset + 4 <= size_) {
      quad = m_.read(reinterpret_cast<const Quad<Raw>*>(task_.values + start_ + offset));
    } else {
      DYNAMS_UNROLL
      for (int j = 0; j < 4; ++j)
        quad.at[j] = offset + j < size_ ? m_.read(task_.values + start_ + offset + j) : Order::raw(Shape::kLastKey);
    }
    return quad;
  }

  // The thread's place among those that read a slice to cache it; negative where it is none of them. The first warp is
  // not: to arrive at the grid's barrier takes as long as these reads, and the block would wait for one after the
  // other.
  DYNAMS_DEVICE int reader() const { return static_cast<int>(thread_) - kWarp; }
  static constexpr int kReading = 4 * Shape::kReaders;  // values that all readers take in one load

  DYNAMS_DEVICE void read_slice(int begin, Quad<Raw>* quads) {
    DYNAMS_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      const int offset = begin + 4 * reader() + i * kReading;
      if (reader() >= 0 && offset < size_) quads[i] = read_quad(offset);
    }
  }

  DYNAMS_DEVICE void cache_slice(int begin, const Quad<Raw>* quads) {
    DYNAMS_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      const int offset = begin + 4 * reader() + i * kReading;
      if (reader() >= 0 && offset < size_) cached(offset) = quads[i];
    }
  }

  // NaN behind the slice to the end of its last chunk, so that whole chunks can be read; by the first warp.
  DYNAMS_DEVICE void cache_end() {
    const int offset = (size_ + 3) / 4 * 4 + 4 * static_cast<int>(thread_);
    if (thread_ >= kWarp || offset >= (size_ + kChunk - 1) / kChunk * kChunk) return;
    DYNAMS_UNROLL
    for (int j = 0; j < 4; ++j) values_[offset + j] = Order::raw(Shape::kLastKey);
  }

  DYNAMS_DEVICE Quad<Raw>& cached(int offset) { return *reinterpret_cast<Quad<Raw>*>(values_ + offset); }

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

  // A large sample waits in the shared memory of a tile, each thread's part for itself; a small one in registers.
  DYNAMS_DEVICE void keep_sample(const Raw* sample) {
    DYNAMS_UNROLL
    for (int i = 0; i < Shape::kSampleItems; ++i) values_[i * kThreads + thread_] = sample[i];
  }
  DYNAMS_DEVICE Raw sampled(const Raw* sample, int i) const {
    return Shape::kCached ? sample[i] : values_[i * kThreads + thread_];
  }
  static_assert(Shape::kCached || Shape::kSampleItems * kThreads <= kTile);

  // ---------------------------------------------------------------------------------------- going over a tile

  // A warp's part of a tile: the chunks of one that is not full are shared evenly.
  struct Part {
    int first;   // offset in the slice of the lane's first value; the next chunk's lies kChunk on
    int chunks;  // at most kChunks, and none beyond the slice
  };

  DYNAMS_DEVICE Part part_of(int tile) const {
    const int left = (size_ - tile + kChunk - 1) / kChunk;
    const int own = static_cast<int>(warp());
    if (left >= kWarps * kChunks) return {tile + own * kChunks * kChunk + 4 * static_cast<int>(lane()), kChunks};
    const int each = left / kWarps, more = left % kWarps;
    const int before = own * each + (own < more ? own : more);
    return {tile + before * kChunk + 4 * static_cast<int>(lane()), each + (own < more)};
  }

  // All loads before their uses.
  DYNAMS_DEVICE void read_part(const Part& part, Quad<Raw>* quads) {
    if (Shape::kCached) {
      DYNAMS_UNROLL
      for (int c = 0; c < kChunks; ++c)
        if (c < part.chunks) quads[c] = cached(part.first + c * kChunk);
    } else if (aligned_ && part.first + (kChunks - 1) * kChunk + 4 <= size_ && part.chunks == kChunks) {
      const Quad<Raw>* from = reinterpret_cast<const Quad<Raw>*>(task_.values + start_ + part.first);
      DYNAMS_UNROLL
      for (int c = 0; c < kChunks; ++c) quads[c] = m_.read(from + c * (kChunk / 4));
    } else {
      DYNAMS_UNROLL
      for (int c = 0; c < kChunks; ++c)
        if (c < part.chunks) quads[c] = read_quad(part.first + c * kChunk);
    }
  }

  // Which of the lane's values pass test(raw, offset): bit 8 c + j for value j of chunk c.
  template <class Test>
  DYNAMS_DEVICE uint32_t mark(const Part& part, const Quad<Raw>* quads, Test test) {
    uint32_t bits = 0;
    DYNAMS_UNROLL
    for (int c = 0; c < kChunks; ++c) {
      if (c >= part.chunks) break;
      DYNAMS_UNROLL
      for (int j = 0; j < 4; ++j)
        if (test(quads[c].at[j], part.first + c * kChunk + j)) bits |= 1u << (8 * c + j);
    }
    return bits;
  }

  // Calls use(offset, item, there) by whole warps for the offsets up to `size`, kBatch loads before their uses.
  template <int kBatch, class At, class Use>
  DYNAMS_DEVICE void sweep(int size, At at, Use use) {
    constexpr int kSpan = kThreads * kBatch;
    DYNAMS_UNROLL_BY(1)
    for (int begin = 0; begin < size; begin += kSpan) {
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

  // ---------------------------------------------------------------------------------------- places in order

  // Where a lane's marked values stand among those of the tile.
  struct Places {
    int chunks;
    uint32_t before, totals;  // a byte a chunk: marked values of earlier lanes, and of all
    int of_warp, total;       // marked values of earlier warps, and of all

    // Calls use(c, place) for the lane's chunks, with the place of the chunk's first marked value.
    template <class Use>
    DYNAMS_DEVICE void of_chunks(Use use) const {
      int of_chunk = of_warp;
      DYNAMS_UNROLL
      for (int c = 0; c < kChunks; ++c) {
        if (c >= chunks) break;
        use(c, of_chunk + static_cast<int>(before >> 8 * c & 0xff));
        of_chunk += static_cast<int>(totals >> 8 * c & 0xff);
      }
    }
  };

  // Puts the offsets of a chunk's marked values into a list and returns the place behind them.
  static DYNAMS_DEVICE uint16_t* append(uint16_t* list, int c, uint32_t bits, int first) {
    DYNAMS_UNROLL
    for (int j = 0; j < 4; ++j)
      if (bits >> (8 * c + j) & 1) *list++ = static_cast<uint16_t>(first + c * kChunk + j);
    return list;
  }

  // Has one barrier of the block, after which all is visible that was in shared memory before.
  DYNAMS_DEVICE Places places(const Part& part, uint32_t bits) {
    // The four bits of a chunk become their number, at most 4; over a warp at most kChunk, which a byte holds.
    uint32_t counts = bits - (bits >> 1 & 0x05050505u);
    counts = (counts & 0x03030303u) + (counts >> 2 & 0x03030303u);
    Places out;
    out.chunks = part.chunks;
    const uint32_t up_to_lane = Bins::sum_up_to_lane(counts);
    out.before = up_to_lane - counts;
    out.totals = m_.shuffle(up_to_lane, kWarp - 1);
    const uint32_t pairs = (out.totals & 0x00ff00ffu) + (out.totals >> 8 & 0x00ff00ffu);
    uint64_t* sums = Bins::next_sums();
    if (lane() == 0) sums[warp()] = (pairs & 0xffff) + (pairs >> 16);
    m_.sync();
    const uint32_t of_lanes_warp = lane() < kWarps ? static_cast<uint32_t>(sums[lane()]) : 0;
    out.of_warp = static_cast<int>(m_.warp_sum(lane() < warp() ? of_lanes_warp : 0));
    out.total = static_cast<int>(m_.warp_sum(of_lanes_warp));
    return out;
  }

  // The offset behind the first `wanted` of the slice's values with a key: ties are split in one block at most, which
  // alone looks for it.
  DYNAMS_DEVICE uint32_t end_of_ties(Key key, uint32_t wanted, uint32_t* shared_end) {
    DYNAMS_UNROLL_BY(1)
    for (int tile = 0; tile < size_; tile += kTile) {
      Quad<Raw> quads[kChunks];
      const Part part = part_of(tile);
      read_part(part, quads);
      const uint32_t bits =
          mark(part, quads, [&](Raw raw, int offset) { return Order::key(raw) == key && offset < size_; });
      const Places ties = places(part, bits);
      if (wanted <= static_cast<uint32_t>(ties.total)) {
        ties.of_chunks([&](int c, int place) {
          DYNAMS_UNROLL
          for (int j = 0; j < 4; ++j)
            if (bits >> (8 * c + j) & 1 && static_cast<uint32_t>(++place) == wanted)
              *shared_end = part.first + c * kChunk + j + 1;
        });
        break;
      }
      wanted -= ties.total;
    }
    m_.sync();
    return *shared_end;
  }

  // ---------------------------------------------------------------------------------------- writing

  // The largest number that has this key or one before it.
  static DYNAMS_DEVICE Number number_up_to(Key key) {
    return Order::number(Order::raw(key == Order::kZero - 1 ? key - 1 : key));
  }

  // The selected of a lane's values. A part that lies wholly before or behind the end of the ties has one largest
  // number that is selected, -inf's predecessor being NaN, than which none is smaller. NaN is compared with nothing:
  // where it is the threshold, and where the ties end, keys decide.
  DYNAMS_DEVICE uint32_t selected(const Threshold<Key>& threshold, const Part& part, const Quad<Raw>* quads) {
    const Key last = threshold.key;
    const int ties_end = static_cast<int>(threshold.ties_end);
    const int begin = part.first - 4 * static_cast<int>(lane());
    const bool all_ties = begin + part.chunks * kChunk <= ties_end;
    if (last <= Order::kHighest && (all_ties || begin >= ties_end)) {
      const Number limit = number_up_to(all_ties ? last : last == Order::kLowest ? Shape::kLastKey : last - 1);
      return mark(part, quads, [&](Raw raw, int) { return Order::number(raw) <= limit; });
    }
    return mark(part, quads, [&](Raw raw, int offset) {
      const Key key = Order::key(raw);
      return key < last || (key == last && offset < ties_end);
    });
  }

  // Writes the slice's selected values and their indices: compacted in shared memory, where only their offsets move,
  // then four to a thread, that the memory gets whole vectors.
  DYNAMS_DEVICE void write_selected(const Threshold<Key>& threshold) {
    const bool aligned = (reinterpret_cast<uintptr_t>(task_.out_values) % alignof(Quad<Raw>) |
                          reinterpret_cast<uintptr_t>(task_.out_indices) % alignof(Quad<int64_t>)) == 0;
    int64_t base = threshold.base;
    Quad<Raw> quads[kChunks];
    if (!Shape::kCached) read_part(part_of(0), quads);
    DYNAMS_UNROLL_BY(1)
    for (int tile = 0; tile < size_; tile += kTile) {
      const Part part = part_of(tile);
      if (Shape::kCached) read_part(part, quads);
      const uint32_t bits = selected(threshold, part, quads);
      const Places chosen = places(part, bits);
      // Behind that barrier nobody reads the tile before any more.
      const Raw* values = values_ + (Shape::kCached ? tile : 0);
      if (!Shape::kCached) {
        DYNAMS_UNROLL
        for (int c = 0; c < kChunks; ++c)
          if (c < part.chunks) cached(part.first - tile + c * kChunk) = quads[c];
      }
      const int shift = static_cast<int>(base & 3);  // puts vectors of the answer where vectors of shared memory are
      const int first = part.first - tile;
      chosen.of_chunks([&](int c, int place) { append(offsets_ + shift + place, c, bits, first); });
      m_.sync();
      if (!Shape::kCached && tile + kTile < size_) read_part(part_of(tile + kTile), quads);

      const int64_t tile_start = start_ + tile;
      Raw* const out_values = task_.out_values + (base - shift);
      int64_t* const out_indices = task_.out_indices + (base - shift);
      DYNAMS_UNROLL_BY(1)
      for (int begin = 4 * static_cast<int>(thread_); begin < shift + chosen.total; begin += 4 * kThreads) {
        const Quad<uint16_t> offsets = *reinterpret_cast<const Quad<uint16_t>*>(offsets_ + begin);
        if (aligned && begin >= shift && begin + 4 <= shift + chosen.total) {
          Quad<Raw> some;
          Quad<int64_t> indices;
          DYNAMS_UNROLL
          for (int j = 0; j < 4; ++j) {
            some.at[j] = values[offsets.at[j]];
            indices.at[j] = tile_start + offsets.at[j];
          }
          m_.write(reinterpret_cast<Quad<Raw>*>(out_values + begin), some);
          m_.write(reinterpret_cast<Quad<int64_t>*>(out_indices + begin), indices);
        } else {
          DYNAMS_UNROLL_BY(1)
          for (int i = begin; i < begin + 4; ++i) {
            if (i < shift || i >= shift + chosen.total) continue;
            m_.write(out_values + i, values[offsets_[i]]);
            m_.write(out_indices + i, tile_start + offsets_[i]);
          }
        }
      }
      base += chosen.total;
    }
  }

  // Writes of every value whether it is selected.
  DYNAMS_DEVICE void write_mask(const Threshold<Key>& threshold) {
    const bool aligned = reinterpret_cast<uintptr_t>(task_.out_mask + start_) % alignof(Quad<bool>) == 0;
    DYNAMS_UNROLL_BY(1)
    for (int tile = 0; tile < size_; tile += kTile) {
      Quad<Raw> quads[kChunks];
      const Part part = part_of(tile);
      read_part(part, quads);
      const uint32_t bits = selected(threshold, part, quads);
      DYNAMS_UNROLL
      for (int c = 0; c < kChunks; ++c) {
        if (c >= part.chunks) break;
        const int offset = part.first + c * kChunk;
        bool* to = task_.out_mask + start_ + offset;
        Quad<bool> mask;
        DYNAMS_UNROLL
        for (int j = 0; j < 4; ++j) mask.at[j] = bits >> (8 * c + j) & 1;
        if (aligned && offset + 4 <= size_) {
          m_.write(reinterpret_cast<Quad<bool>*>(to), mask);
        } else {
          DYNAMS_UNROLL
          for (int j = 0; j < 4; ++j)
            if (offset + j < size_) m_.write(to + j, mask.at[j]);
        }
      }
    }
  }

  const SelectionTask<Shape>& task_;
  Raw* const values_;        // in shared memory: the slice, or a tile of it
  uint16_t* const offsets_;  // in shared memory
  const int64_t start_;      // of the slice, in the values
  int size_;                 // of the slice
  bool aligned_;             // the slice's vectors
};

}  // namespace dynams
