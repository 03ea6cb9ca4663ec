// Sums over a block of threads, and counts of its values in bins in shared memory.
#pragma once

#include <cstdint>

#include "portable.h"

namespace dynams {

struct FoundBin {
  uint32_t bin;
  uint64_t rank, members;  // in it, and of it
};

template <class Machine, int kBins>
struct SharedBins {
  alignas(16) uint32_t histogram[kBins];
  uint64_t sums[2][Machine::kWarp];  // used in turn, so that one barrier a sum is enough
};

template <class Machine, int kThreads, int kBins>
class BlockBins {
 protected:
  static constexpr int kWarp = Machine::kWarp;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kOwnBins = kBins / kThreads;  // next to each other
  static_assert(kThreads % kWarp == 0 && kWarps <= kWarp, "a warp scans the sums of all warps");
  static_assert(kBins % (2 * kThreads) == 0, "every thread has as many pairs of bins");

  DYNAMS_DEVICE BlockBins(Machine& machine, SharedBins<Machine, kBins>& shared)
      : m_(machine), thread_(machine.thread()), bins_(shared) {}

  DYNAMS_DEVICE uint32_t lane() const { return thread_ % kWarp; }
  DYNAMS_DEVICE uint32_t warp() const { return thread_ / kWarp; }

  template <class T>
  DYNAMS_DEVICE T sum_up_to_lane(T value) {
    DYNAMS_UNROLL
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const T other = m_.shuffle_up(value, distance);
      if (lane() >= static_cast<uint32_t>(distance)) value += other;
    }
    return value;
  }

  // The sum over earlier threads, and over all. Everything written to shared memory before is visible after.
  template <class T>
  DYNAMS_DEVICE T sum_before(T own, T* total) {
    const T up_to_lane = sum_up_to_lane(own);
    uint64_t* sums = next_sums();
    if (lane() == kWarp - 1) sums[warp()] = up_to_lane;
    m_.sync();
    // Each warp adds up the warps' sums for itself: a scan by one warp would need a second barrier.
    const T of_warp = lane() < kWarps ? static_cast<T>(sums[lane()]) : T(0);
    if constexpr (sizeof(T) == sizeof(uint32_t)) {
      *total = m_.warp_sum(of_warp);
      return m_.warp_sum(lane() < warp() ? of_warp : 0) + up_to_lane - own;
    }
    const T up_to_warp = sum_up_to_lane(of_warp);
    *total = m_.shuffle(up_to_warp, kWarp - 1);
    return m_.shuffle(up_to_warp - of_warp, warp()) + up_to_lane - own;
  }

  // Each use is followed by a barrier: that of the next use parts the readers of this one's from the writers of the one
  // after it.
  DYNAMS_DEVICE uint64_t* next_sums() {
    turn_ ^= 1;
    return bins_.sums[turn_];
  }

  DYNAMS_DEVICE uint32_t lanes_before() const { return (1u << lane()) - 1; }

  // Adds one to a bin. What the bin held before is not asked for, so the GPU adds for all lanes with one bin at once.
  DYNAMS_DEVICE void count_in_bins(bool inside, uint32_t bin) {
    if (inside) m_.add_shared(&bins_.histogram[bin], 1);
  }

  // Adds one to a bin for every lane inside; called by whole warps. Returns what the bin held before, for each of the
  // lanes its own. Equal keys would queue for one word, so a crowd of them is added at once.
  DYNAMS_DEVICE uint32_t take_places(bool inside, uint32_t bin) {
    constexpr uint32_t kCrowd = kWarp / 4;
    uint32_t place = 0;
    uint32_t waiting = m_.ballot(inside);
    DYNAMS_UNROLL_BY(1)
    while (m_.count_bits(waiting) >= kCrowd) {
      const uint32_t leader = m_.lowest_bit(waiting);
      const uint32_t leaders_bin = m_.shuffle(bin, leader);
      const bool with_leader = inside && bin == leaders_bin;
      const uint32_t together = m_.ballot(with_leader);
      if (m_.count_bits(together) < kCrowd) break;
      uint32_t first = 0;
      if (lane() == leader) first = m_.add_shared(&bins_.histogram[bin], m_.count_bits(together));
      first = m_.shuffle(first, leader);
      if (with_leader) place = first + m_.count_bits(together & lanes_before());
      inside = inside && !with_leader;
      waiting &= ~together;
    }
    if (inside) place = m_.add_shared(&bins_.histogram[bin], 1);
    return place;
  }

  DYNAMS_DEVICE uint32_t& bin(uint32_t i) { return bins_.histogram[i]; }
  DYNAMS_DEVICE uint32_t& own_bin(int i) { return bin(thread_ * kOwnBins + i); }

  DYNAMS_DEVICE void clear_bins() {
    DYNAMS_UNROLL
    for (int i = 0; i < kOwnBins; ++i) own_bin(i) = 0;
  }

  // The one thread that has the value of this rank in its own bins, with `before` values in those of earlier threads,
  // tells in which it is. All counts together are less than T holds: a rank before the thread's own wraps beyond them.
  template <class T>
  DYNAMS_DEVICE void find(T rank, const T* own, T before, FoundBin* found) {
    T all = 0;
    DYNAMS_UNROLL
    for (int i = 0; i < kOwnBins; ++i) all += own[i];
    T left = rank - before;
    if (left >= all) return;
    int at = 0;
    T members = own[0];
    DYNAMS_UNROLL
    for (int i = 0; i + 1 < kOwnBins; ++i) {
      if (at < i || left < own[i]) continue;
      left -= own[i];
      at = i + 1;
      members = own[i + 1];
    }
    *found = {thread_ * kOwnBins + at, left, members};
  }

  // Between phases: what was computed from the thread's number is not kept in registers for the next one.
  DYNAMS_DEVICE void begin_phase() { m_.renew(&thread_); }

  Machine& m_;
  uint32_t thread_;

 private:
  SharedBins<Machine, kBins>& bins_;
  int turn_ = 0;
};

}  // namespace dynams
