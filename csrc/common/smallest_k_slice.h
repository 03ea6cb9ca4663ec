// A block's own values in the selection of the k smallest: reading them, and going over them.
//
// Values are taken a tile at a time, four next to each other by a lane, as one load of up to 16 bytes: a chunk by a
// warp, and the warps' chunks of a tile follow one another, so that what a warp finds stays in the order of the values.
// What is wanted of each value is one bit; what is kept of it, an offset, is compacted in shared memory.
#pragma once

#include <cstdint>

#include "block_bins.h"
#include "portable.h"
#include "smallest_k_shared.h"
#include "smallest_k_task.h"

namespace dynams {

template <class T>
struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Quad {
  T at[4];
};
template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T at[2];
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

  // Starts to cache the slice; it is there once every reader has waited for its copies and the block has met.
  DYNAMS_DEVICE void copy_slice() {
    if (reader() < 0) return;
    DYNAMS_UNROLL_BY(1)
    for (int offset = 4 * reader(); offset < size_; offset += kReading) {
      if (aligned_ && offset + 4 <= size_)
        m_.start_copy(&cached(offset), reinterpret_cast<const Quad<Raw>*>(task_.values + start_ + offset));
      else cached(offset) = read_quad(offset);
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

  // Four values next to each other of each of kSampleRuns equal parts of them all, at a place that no period of the
  // data follows; of fewer values than that some several times. The last few of an odd number are never among them.
  DYNAMS_DEVICE void read_sample(Raw* sample) {
    constexpr int kRun = Shape::kSampleRun;
    const bool aligned = reinterpret_cast<uintptr_t>(task_.values) % alignof(Quad<Raw>) == 0;
    const uint64_t last = static_cast<uint64_t>(task_.count) / kRun - 1;
    DYNAMS_UNROLL
    for (int i = 0; i < Shape::kSampleItems; i += kRun) {
      const uint32_t which = i / kRun * Shape::kReaders + reader();
      const uint64_t jitter = static_cast<uint64_t>(which * 2654435761u) * task_.sample_part >> 32;
      const uint64_t part = which * task_.sample_part + which * task_.sample_rest / Shape::kSampleRuns;
      const uint64_t run = (part + jitter) / kRun;
      const Raw* from = task_.values + kRun * (run < last ? run : last);
      Quad<Raw> some{};
      if (reader() >= 0) {
        if (aligned) {
          some = m_.read(reinterpret_cast<const Quad<Raw>*>(from));
        } else {
          DYNAMS_UNROLL
          for (int j = 0; j < kRun; ++j) some.at[j] = m_.read(from + j);
        }
      }
      DYNAMS_UNROLL
      for (int j = 0; j < kRun; ++j) sample[i + j] = some.at[j];
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

  // Without the first kIdle warps, which ask for none.
  template <int kIdle = 0>
  DYNAMS_DEVICE Part part_of(int tile) const {
    constexpr int kAmong = kWarps - kIdle;
    const int left = (size_ - tile + kChunk - 1) / kChunk;
    const int own = static_cast<int>(warp()) - kIdle;
    if (left >= kAmong * kChunks) return {tile + own * kChunks * kChunk + 4 * static_cast<int>(lane()), kChunks};
    const int each = left / kAmong, more = left % kAmong;
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

  // Puts the offsets of a chunk's marked values into a list and returns its end.
  template <class Offset>
  static DYNAMS_DEVICE Offset* append(Offset* list, int c, uint32_t bits, int first) {
    DYNAMS_UNROLL
    for (int j = 0; j < 4; ++j)
      if (bits >> (8 * c + j) & 1) *list++ = static_cast<Offset>(first + c * kChunk + j);
    return list;
  }

  // The largest number that has this key or one before it.
  static DYNAMS_DEVICE Number number_up_to(Key key) {
    return Order::number(Order::raw(key == Order::kZero - 1 ? key - 1 : key));
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

  const SelectionTask<Shape>& task_;
  Raw* const values_;        // in shared memory: the slice, or a tile of it
  uint16_t* const offsets_;  // in shared memory, where a cached slice's list is before
  const int64_t start_;      // of the slice, in the values
  int size_;                 // of the slice
  bool aligned_;             // the slice's vectors
};

}  // namespace dynams
