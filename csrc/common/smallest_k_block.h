// The k smallest of n values on a grid of blocks, exactly: what one thread does, for any machine.
//
// Every block owns a contiguous slice. A sample of the keys, the same for every block, gives a bracket that encloses
// the k-th smallest almost surely. Each block counts its keys below the bracket and sorts those inside into bins; the
// bins are added up over the grid, the blocks wait for each other, and every block finds the bin that holds rank k. The
// few members of that bin, which each block left sorted by bin in global memory, are ranked by (key, index) by every
// block for itself: the threshold is known after one barrier of the grid. Where the bin is too full, the bin becomes
// the range and the round is repeated, until it is small or holds a single key, whose first members by index are taken.
// Where the bracket missed, the range is what lies on the proper side of it. Blocks also leave how many of their values
// lie below every bin, so each knows how many are selected before its slice, and writes its own in index order.
//
// Slices that fit stay in shared memory: one read of the values, one write of the answer. Larger ones are read twice.
// The values inside the bracket are listed as they are counted, so that sorting them, and further rounds, read little.
//
// The answer depends on the keys alone: sample, bins and the order of atomics only decide how soon it is known.
//
// `Machine` gives the thread its indices, barriers, exchanges within the warp, atomics and memory: csrc/cuda has the
// GPU's, tests/executor one of C++ threads.
#pragma once

#include <cstdint>

#include "portable.h"
#include "smallest_k_answer.h"
#include "smallest_k_rounds.h"
#include "smallest_k_shared.h"
#include "smallest_k_task.h"

namespace dynams {

template <class Machine, class Shape>
class BlockSelection : BlockRounds<Machine, Shape> {
  using Base = BlockRounds<Machine, Shape>;
  using typename Base::Count, typename Base::Key, typename Base::Raw, typename Base::Shared;
  using Member = typename Shared::OneMember;

 public:
  // `more`: shared memory of shared_bytes() of the task, of 16-byte alignment.
  DYNAMS_DEVICE BlockSelection(Machine& machine, const SelectionTask<Shape>& task, Shared& shared, void* more)
      : Base(machine, task, shared, more) {}

  DYNAMS_DEVICE void run() {
    // All reads that there are to wait for are on their way first, the sample's before the slice's.
    Raw sample[Shape::kSampleItems];
    if (task_.sampled) this->read_sample(sample);
    if (Shape::kCached) {
      this->cache_end();
      this->copy_slice();
    }
    // What a round adds up over the grid starts from zero; nobody waits for that until the first addition.
    DYNAMS_UNROLL_BY(1)
    for (uint32_t i = m_.block() * kThreads + thread_; i < Shape::kRounds * Shape::kHistogram;
         i += m_.blocks() * kThreads)
      task_.bins[i] = 0;
    this->clear_bins();
    if (thread_ == 0) shared_.gathered = shared_.listed = shared_.below = shared_.selected_before = 0;
    m_.arrive();
    low_ = 0;
    high_ = Shape::kLastKey;
    if (task_.sampled) {
      if (!Shape::kCached) this->keep_sample(sample);
      this->set_range(sample);
    } else if (Shape::kCached) {
      m_.finish_copies();
      m_.sync();
    }
    DYNAMS_UNROLL_BY(1)
    for (int round = 0;; ++round) {
      this->begin_phase();
      this->count_range(round);
      this->begin_phase();
      this->publish(round);
      m_.meet(task_.bins + round * Shape::kHistogram + Shape::kArrived);
      if (this->narrow(round)) break;
    }
    this->begin_phase();
    const Threshold<Key> threshold = low_ == high_ ? split_ties() : rank_members();
    if (task_.out_indices != nullptr) this->write_selected(threshold);
    if (task_.out_mask != nullptr) this->write_mask(threshold);
  }

 private:
  using Base::kWarp, Base::kWarps, Base::kThreads, Base::kChunks;
  using Base::m_, Base::thread_, Base::lane, Base::warp, Base::task_, Base::start_, Base::size_;
  using Base::shared_, Base::low_, Base::high_;

  // The blocks' own numbers for the bin of rank k.
  DYNAMS_DEVICE const uint32_t* row_of(uint32_t block) const { return task_.rows + size_t(block) * Shape::kRow; }

  // The members of the bin are gathered and ranked: the one of rank k and all before it are selected.
  DYNAMS_DEVICE Threshold<Key> rank_members() {
    gather_members();
    const uint64_t rank = shared_.found[0].rank;
    const uint32_t members = static_cast<uint32_t>(shared_.found[0].members);
    // A warp ranks four at once, so that each read of another serves four comparisons.
    constexpr uint32_t kTogether = 4;
    DYNAMS_UNROLL_BY(1)
    for (uint32_t first = warp() * kTogether; first < members; first += kWarps * kTogether) {
      Member some[kTogether];
      uint32_t earlier[kTogether];
      DYNAMS_UNROLL
      for (uint32_t i = 0; i < kTogether; ++i) {
        some[i] = shared_.members[first + i < members ? first + i : first];
        earlier[i] = 0;
      }
      DYNAMS_UNROLL_BY(1)
      for (uint32_t i = lane(); i < members; i += kWarp) {
        const Member other = shared_.members[i];
        DYNAMS_UNROLL
        for (uint32_t j = 0; j < kTogether; ++j) earlier[j] += other < some[j];
      }
      // A lane for each of the four.
      uint32_t before_own = members;
      DYNAMS_UNROLL
      for (uint32_t i = 0; i < kTogether; ++i) {
        const uint32_t before = m_.warp_sum(earlier[i]);
        before_own = lane() == i && first + i < members ? before : before_own;
      }
      const Member own = shared_.members[before_own < members ? first + lane() : first];
      const uint32_t lanes = m_.ballot(before_own <= rank && own.index() < start_);
      if (lane() == 0 && lanes != 0) m_.add_shared(&shared_.selected_before, m_.count_bits(lanes));
      if (before_own == rank) {
        shared_.threshold = low_ + own.above();
        shared_.last_tie = own.index();
      }
    }
    m_.sync();
    if (thread_ == 0) m_.note(SelectionEvent::kRankedMembers);
    const int64_t ties = shared_.last_tie + 1 - start_;
    const uint32_t ties_end = static_cast<uint32_t>(ties <= 0 ? 0 : ties < size_ ? ties : size_);
    return {shared_.threshold, ties_end, static_cast<int64_t>(shared_.below_before) + shared_.selected_before};
  }

  // Brings to shared memory how many values before the slice lie below the bin, and the members of the bin. First every
  // block's share is found, then each member is fetched by a thread of its own: all may lie in one block.
  DYNAMS_DEVICE void gather_members() {
    const uint32_t bin = shared_.found[0].bin;
    Count below = 0, below_before;
    DYNAMS_UNROLL_BY(1)
    for (uint32_t block = thread_; block < m_.blocks(); block += kThreads) {
      const uint32_t* row = row_of(block);
      const uint32_t from = m_.fresh(row + bin), to = m_.fresh(row + bin + 1), first = from - m_.fresh(row);
      if (block < m_.block()) below += from;
      if (from == to) continue;
      const uint32_t into = m_.add_shared(&shared_.gathered, to - from);
      DYNAMS_UNROLL_BY(1)
      for (uint32_t i = 0; i < to - from; ++i)
        shared_.member_sources[into + i] = static_cast<uint64_t>(block) << 32 | (first + i);
    }
    this->sum_before(below, &below_before);
    if (thread_ == 0) shared_.below_before = below_before;
    DYNAMS_UNROLL_BY(1)
    for (uint32_t member = thread_; member < shared_.found[0].members; member += kThreads) {
      const uint64_t source = shared_.member_sources[member], block = source >> 32;
      const uint64_t place = block * task_.place_capacity + static_cast<uint32_t>(source);
      Key placed[2];  // a key and an offset
      m_.fresh(task_.placed + 2 * place, placed);
      const int64_t index = static_cast<int64_t>(block * task_.slice + placed[1]);
      shared_.members[member] = {static_cast<Key>(placed[0] - low_), index};
    }
    m_.sync();
  }

  // The members of the bin share one key: all below it are selected, and so many of them, by index.
  DYNAMS_DEVICE Threshold<Key> split_ties() {
    const uint32_t bin = shared_.found[0].bin;
    uint64_t below = 0, ties = 0, below_before, ties_before;
    DYNAMS_UNROLL_BY(1)
    for (uint32_t block = thread_; block < m_.block(); block += kThreads) {
      const uint32_t from = m_.fresh(row_of(block) + bin), to = m_.fresh(row_of(block) + bin + 1);
      below += from;
      ties += to - from;
    }
    this->sum_before(below, &below_before);
    this->sum_before(ties, &ties_before);
    const uint64_t wanted = shared_.found[0].rank + 1;
    const uint32_t own = m_.fresh(row_of(m_.block()) + bin + 1) - m_.fresh(row_of(m_.block()) + bin);
    const uint64_t taken = ties_before < wanted ? ties_before : wanted;
    const uint64_t left = wanted - taken;
    const bool split = left > 0 && left < own;  // in one block at most
    if (thread_ == 0) m_.note(SelectionEvent::kSingleKey);
    if (thread_ == 0 && split) m_.note(SelectionEvent::kSplitTies);
    uint32_t ties_end = static_cast<uint32_t>(left == 0 ? 0 : size_);
    if (split) ties_end = this->end_of_ties(low_, static_cast<uint32_t>(left), &shared_.ties_end);
    return {low_, ties_end, static_cast<int64_t>(below_before + taken)};
  }
};

}  // namespace dynams
