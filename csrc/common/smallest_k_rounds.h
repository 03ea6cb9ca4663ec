// The rounds of the selection: a range of keys that holds the k-th smallest value, what lies in it and below it counted
// over the grid, and the range made smaller.
#pragma once

#include <cstdint>

#include "portable.h"
#include "smallest_k_answer.h"
#include "smallest_k_shared.h"
#include "smallest_k_task.h"

namespace dynams {

template <class Machine, class Shape>
class BlockRounds : protected BlockAnswer<Machine, Shape> {
 protected:
  using Base = BlockAnswer<Machine, Shape>;
  using Base::kWarp, Base::kWarps, Base::kThreads, Base::kChunks, Base::kChunk, Base::kTile, Base::kOwnBins;
  using Base::m_, Base::thread_, Base::lane, Base::warp, Base::task_, Base::start_, Base::size_;
  using typename Base::Key, typename Base::Number, typename Base::Order, typename Base::Part, typename Base::Raw;
  using Count = typename Shape::Count;
  using Shared = SelectionShared<Machine, Shape>;
  static constexpr int kBins = Shape::kBins;
  static constexpr int kListBatch = Shape::kCached ? 1 : 4;  // loads of listed values before their uses

  DYNAMS_DEVICE BlockRounds(Machine& machine, const SelectionTask<Shape>& task, Shared& shared, void* more)
      : Base(machine, task, shared.bins, more), shared_(shared) {}

  // ---------------------------------------------------------------------------------------- the sample

  // Makes the range that of two ranks of the sample, to the first 2 * kBinBits - 1 bits of their keys: first by bins of
  // the leading bits, then by bins of the next within those two. The histogram is empty before and after, and the slice
  // cached.
  DYNAMS_DEVICE void set_range(const Raw* sample) {
    constexpr int kShift = Order::kKeyBits > Shape::kBinBits ? Order::kKeyBits - Shape::kBinBits : 0;
    constexpr int kNextBits = Shape::kBinBits - 1;
    constexpr int kNextShift = kShift > kNextBits ? kShift - kNextBits : 0;
    const bool sampler = this->reader() >= 0;
    const bool low_given = task_.sample_low >= 0;
    const bool high_given = task_.sample_high < Shape::kSample;
    const uint32_t low_rank = low_given ? task_.sample_low : 0;
    const uint32_t high_rank = high_given ? task_.sample_high : Shape::kSample - 1;

    // Long loops are not unrolled: they would be most of the kernel's code.
    DYNAMS_UNROLL_BY(Shape::kCached ? Shape::kSampleItems : 1)
    for (int i = 0; i < Shape::kSampleItems; ++i)
      this->count_in_bins(sampler, static_cast<uint32_t>(Order::key(this->sampled(sample, i)) >> kShift));
    m_.sync();
    find_two(low_rank, high_rank);
    const FoundBin low = shared_.found[0], high = shared_.found[1];

    DYNAMS_UNROLL_BY(Shape::kCached ? Shape::kSampleItems : 1)
    for (int i = 0; i < Shape::kSampleItems; ++i) {
      const Key key = Order::key(this->sampled(sample, i));
      const uint32_t next = static_cast<uint32_t>((key & ((Key(1) << kShift) - 1)) >> kNextShift);
      this->count_in_bins(sampler && key >> kShift == low.bin, next);
      this->count_in_bins(sampler && key >> kShift == high.bin, kBins / 2 + next);
    }
    m_.sync();
    if (Shape::kCached) m_.finish_copies();
    find_two(static_cast<uint32_t>(low.rank), static_cast<uint32_t>(low.members + high.rank));
    const Key next_low = shared_.found[0].bin, next_high = shared_.found[1].bin - kBins / 2;
    if (low_given) low_ = (static_cast<Key>(low.bin) << kShift) + (next_low << kNextShift);
    if (high_given) high_ = (static_cast<Key>(high.bin) << kShift) + ((next_high + 1) << kNextShift) - 1;
  }

  DYNAMS_DEVICE void find_two(uint32_t first_rank, uint32_t second_rank) {
    uint32_t bins[kOwnBins], own = 0, total;
    DYNAMS_UNROLL
    for (int i = 0; i < kOwnBins; ++i) {
      own += bins[i] = this->own_bin(i);
      this->own_bin(i) = 0;
    }
    const uint32_t before = this->sum_before(own, &total);
    this->find(first_rank, bins, before, &shared_.found[0]);
    this->find(second_rank, bins, before, &shared_.found[1]);
    m_.sync();
  }

  // ---------------------------------------------------------------------------------------- a round

  // The values in range are listed, in no order: where the slice is cached, their offsets in shared memory, soon with
  // their places in their bins; else keys and offsets in global memory, for later rounds too, whose ranges lie within
  // this.
  DYNAMS_DEVICE uint32_t* list() const { return reinterpret_cast<uint32_t*>(this->offsets_); }
  static constexpr int kOffsetBits = 16;
  DYNAMS_DEVICE uint16_t* sorted() const { return reinterpret_cast<uint16_t*>(list() + task_.list_capacity); }
  DYNAMS_DEVICE Key* listed_keys() const { return task_.listed_keys + size_t(m_.block()) * task_.list_capacity; }
  DYNAMS_DEVICE uint32_t* listed_offsets() const {
    return task_.listed_offsets + size_t(m_.block()) * task_.list_capacity;
  }

  // Divides the range into kBins bins of equal width, all but the last few of which are used: a power of two might
  // leave half of them empty, and twice as many values in the others. Distances are cut to kStepBits, so that the
  // division by a product is exact: distance * bin_steps() < 2^31. Streamed, there are too many values to rank after
  // one round in any case, and no registers to spare: the width is a power of two.
  static constexpr int kStepBits = Shape::kBinBits + (Shape::kCached ? 8 : 0);
  static_assert(2 * kStepBits - Shape::kBinBits < 31);

  DYNAMS_DEVICE void split_range() {
    const Key span = high_ - low_;
    const int bits = m_.bit_length(span);
    shift_ = bits > kStepBits ? bits - kStepBits : 0;
    if (Shape::kCached) inverse_ = 0x7fffffffu / bin_steps() + 1;
  }
  // Of a key in range.
  DYNAMS_DEVICE uint32_t bin_of(Key key) const {
    const uint32_t distance = static_cast<uint32_t>((key - low_) >> shift_);
    return Shape::kCached ? static_cast<uint32_t>(static_cast<uint64_t>(2 * distance) * inverse_ >> 32) : distance;
  }
  DYNAMS_DEVICE uint32_t bin_steps() const {
    return Shape::kCached ? (static_cast<uint32_t>((high_ - low_) >> shift_) >> Shape::kBinBits) + 1 : 1;
  }
  DYNAMS_DEVICE Key bin_width() const { return static_cast<Key>(bin_steps()) << shift_; }

  // While a cached slice is counted, the first warp has nothing to do but to meet the grid, which has long been there:
  // to ask takes almost as long.
  static constexpr int kIdle = Shape::kCached ? 1 : 0;
  static constexpr int kCountTile = kTile / kWarps * (kWarps - kIdle);

  // Counts the values below the range, fills the bins with those in it and lists them. The histogram is empty before.
  // Ends with a barrier of the block, and in the first round with the grid's first.
  DYNAMS_DEVICE void count_range(int round) {
    const Key low = low_, span = high_ - low_;
    split_range();
    uint32_t below = 0;  // of the thread's own values
    if (!Shape::kCached && listed_) {
      const Key* keys = listed_keys();
      this->template sweep<kListBatch>(
          shared_.listed, [&](int place) { return keys[place]; },
          [&](int, Key key, bool there) {
            below += there && key < low;
            this->count_in_bins(there && key - low <= span, bin_of(key));
          });
    } else if (static_cast<int>(warp()) >= kIdle && size_ > 0) {
      below = count_tiles();
    }
    const uint32_t of_warp = m_.warp_sum(below);
    if (lane() == 0 && of_warp != 0) m_.add_shared(&shared_.below, of_warp);
    if (round == 0) m_.wait();
    else m_.sync();
  }

  // Lists the slice's values in range; returns how many of the thread's own lie below it. The last tile comes first:
  // the write begins with those that the second-level cache saw last.
  DYNAMS_DEVICE uint32_t count_tiles() {
    constexpr bool kAhead = !Shape::kCached && sizeof(Raw) < 8;  // doubles leave no registers for it
    uint32_t below = 0;
    int tile = (size_ - 1) / kCountTile * kCountTile;
    Quad<Raw> quads[kChunks];
    if (kAhead) this->read_part(this->template part_of<kIdle>(tile), quads);
    DYNAMS_UNROLL_BY(1)
    for (; tile >= 0; tile -= kCountTile) {
      const Part part = this->template part_of<kIdle>(tile);
      if (!kAhead) this->read_part(part, quads);
      const uint32_t inside = in_range(part, quads, &below);
      // The next tile's values are on their way while this one's are listed.
      if (kAhead && tile > 0) this->read_part(this->template part_of<kIdle>(tile - kCountTile), quads);
      if (m_.ballot(inside != 0) != 0) list_tile(tile, part, inside);
    }
    return below;
  }

  // Those of a lane's values in range; adds those below it.
  DYNAMS_DEVICE uint32_t in_range(const Part& part, const Quad<Raw>* quads, uint32_t* below) {
    const Key low = low_, span = high_ - low_;
    if (high_ <= Order::kHighest) {
      // NaN compares as neither. A range of numbers begins where those of its first key do.
      const Number first = Order::number(Order::raw(low)), last = this->number_up_to(high_);
      return this->mark(part, quads, [&](Raw raw, int) {
        const Number number = Order::number(raw);
        if (number < first) ++*below;
        return !(number < first) && number <= last;
      });
    }
    return this->mark(part, quads, [&](Raw raw, int offset) {
      const Key key = Order::key(raw);
      if (offset < size_ && key < low) ++*below;
      return offset < size_ && key - low <= span;
    });
  }

  // Lists a warp's values in range of a tile and brings them to the bins.
  DYNAMS_DEVICE void list_tile(int tile, const Part& part, uint32_t inside) {
    const uint32_t own = m_.count_bits(inside), up_to_lane = this->sum_up_to_lane(own);
    const uint32_t of_warp = m_.shuffle(up_to_lane, kWarp - 1);
    uint32_t place = 0;
    if (lane() == 0) place = m_.add_shared(&shared_.listed, of_warp);
    place = m_.shuffle(place, 0);
    if (Shape::kCached) {
      if (place + of_warp <= task_.list_capacity) {
        append(list() + place + up_to_lane - own, part, part.first, inside);
        m_.sync_warp();
        take_places_of(list() + place, of_warp);
      } else {  // a list that is too short is of no use
        count_marked(part, inside);
      }
    } else {
      uint16_t* list = this->offsets_ + warp() * (kTile / kWarps);  // room for all the warp's values of a tile
      append(list + up_to_lane - own, part, part.first - tile, inside);
      m_.sync_warp();
      list_globally(list, of_warp, tile, place);
      m_.sync_warp();
    }
  }

  template <class Offset>
  DYNAMS_DEVICE void append(Offset* list, const Part& part, int first, uint32_t bits) {
    DYNAMS_UNROLL
    for (int c = 0; c < kChunks; ++c) {
      if (c >= part.chunks) break;
      list = Base::append(list, c, bits, first);
    }
  }

  // Adds listed values of a cached slice to the bins and their places there to the list.
  DYNAMS_DEVICE void take_places_of(uint32_t* list, uint32_t count) {
    DYNAMS_UNROLL_BY(1)
    for (uint32_t begin = 0; begin < count; begin += kWarp) {
      const uint32_t i = begin + lane();
      const bool there = i < count;
      const uint32_t offset = there ? list[i] : 0;
      const Key key = Order::key(this->values_[offset]);
      const uint32_t place = this->take_places(there, bin_of(key));
      if (there) list[i] = place << kOffsetBits | offset;
    }
  }

  // Adds a lane's marked values of a cached slice to the bins.
  DYNAMS_DEVICE void count_marked(const Part& part, uint32_t bits) {
    DYNAMS_UNROLL_BY(1)
    for (; bits != 0; bits &= bits - 1) {
      const uint32_t bit = m_.lowest_bit(bits);
      const Key key = Order::key(this->values_[part.first + bit / 8 * kChunk + bit % 8]);
      this->count_in_bins(true, bin_of(key));
    }
  }

  // Brings what a warp listed of a streamed tile to the bins and, from `place` on, to the list in global memory.
  DYNAMS_DEVICE void list_globally(const uint16_t* list, uint32_t count, int tile, uint32_t place) {
    DYNAMS_UNROLL_BY(1)
    for (uint32_t begin = 0; begin < count; begin += kWarp) {
      const uint32_t i = begin + lane();
      const bool there = i < count;
      const int offset = tile + (there ? list[i] : list[0]);
      const Key key = Order::key(this->value(offset));
      this->count_in_bins(there, bin_of(key));
      if (there && place + i < task_.list_capacity) {
        const size_t to = size_t(m_.block()) * task_.list_capacity + place + i;
        task_.listed_keys[to] = key;
        task_.listed_offsets[to] = offset;
      }
    }
  }

  // Adds the block's bins to the grid's and leaves for the other blocks how many values lie below each bin, and the
  // values in range sorted by bin.
  DYNAMS_DEVICE void publish(int round) {
    Count* grid_bins = task_.bins + round * Shape::kHistogram;
    uint32_t* row = task_.rows + size_t(m_.block()) * Shape::kRow;
    // Blocks start at different bins, not all with the same.
    DYNAMS_UNROLL
    for (int i = 0; i < kOwnBins / 2; ++i) {
      const uint32_t bin = (i * kThreads + thread_ + m_.block() * kWarp) * 2 % kBins;
      const Pair<uint32_t> members = *reinterpret_cast<const Pair<uint32_t>*>(&this->bin(bin));
      if ((members.at[0] | members.at[1]) != 0) m_.add_two_global(grid_bins + bin, members.at[0], members.at[1]);
    }
    uint32_t bins[kOwnBins], own = 0, inside;
    DYNAMS_UNROLL
    for (int i = 0; i < kOwnBins; ++i) own += bins[i] = this->own_bin(i);
    uint32_t before = this->sum_before(own, &inside);
    uint32_t below = shared_.below;
    const bool listed = shared_.listed <= task_.list_capacity;
    if (!Shape::kCached) {
      if (listed_) {
        below += shared_.listed_below;
      } else {
        listed_ = listed;
        if (thread_ == 0) shared_.listed_below = below;
      }
    }
    if (!listed && thread_ == 0) m_.note(SelectionEvent::kUnlisted);
    DYNAMS_UNROLL
    for (int i = 0; i < kOwnBins; i += 2) {
      const uint32_t next = before + bins[i];
      m_.leave(reinterpret_cast<Pair<uint32_t>*>(row + thread_ * kOwnBins + i), {{below + before, below + next}});
      this->own_bin(i) = before;  // where the bin's values begin
      this->own_bin(i + 1) = next;
      before = next + bins[i + 1];
    }
    const bool placed = inside <= task_.place_capacity && listed;
    if (thread_ == 0) {
      row[kBins] = below + inside;
      if (below != 0) m_.add_global(grid_bins + Shape::kBelow, static_cast<Count>(below));
      if (!placed && bin_width() > 1) m_.add_global(grid_bins + Shape::kUnplaced, Count(1));
    }
    if (placed && bin_width() > 1) {  // bins of a single key need only be counted
      m_.sync();
      place();
    }
  }

  // Cached, they are sorted in shared memory first: the memory is as busy with a number alone as with a sector of them.
  DYNAMS_DEVICE void place() {
    Pair<Key>* placed = reinterpret_cast<Pair<Key>*>(task_.placed) + size_t(m_.block()) * task_.place_capacity;
    if constexpr (Shape::kCached) {
      this->template sweep<kListBatch>(
          shared_.listed, [&](int i) { return list()[i]; },
          [&](int, uint32_t listed, bool there) {
            if (!there) return;
            const uint32_t offset = listed & ((1u << kOffsetBits) - 1);
            const Key key = Order::key(this->values_[offset]);
            sorted()[this->bin(bin_of(key)) + (listed >> kOffsetBits)] = static_cast<uint16_t>(offset);
          });
      m_.sync();
      this->template sweep<kListBatch>(
          shared_.listed, [&](int i) { return sorted()[i]; },
          [&](int i, uint32_t offset, bool there) {
            if (there) m_.leave(placed + i, {{Order::key(this->values_[offset]), offset}});
          });
    } else {
      const Key low = low_, span = high_ - low_;
      const Key* keys = listed_keys();
      const uint32_t* offsets = listed_offsets();
      this->template sweep<kListBatch>(
          shared_.listed, [&](int i) { return keys[i]; },
          [&](int i, Key key, bool there) {
            const bool inside = there && key - low <= span;
            const uint32_t to = this->take_places(inside, bin_of(key));
            if (inside) m_.leave(placed + to, {{key, static_cast<Key>(offsets[i])}});
          });
    }
  }

  // Makes the range that of the bin with rank k, or of the side where the bracket missed it. True when the values to
  // select are known: all the members of the bin are at hand, or they share one key.
  DYNAMS_DEVICE bool narrow(int round) {
    const Count* grid_bins = task_.bins + round * Shape::kHistogram;
    Count bins[kOwnBins], own = 0, total;
    m_.fresh(grid_bins + thread_ * kOwnBins, bins);
    // One thread of the block reads what all want: the memory serves a word's readers one after the other.
    if (thread_ == kThreads - 1) {
      Count of_grid[2];
      m_.fresh(grid_bins + Shape::kBelow, of_grid);
      shared_.grid_below = of_grid[0];
      shared_.grid_unplaced = of_grid[1];
    }
    DYNAMS_UNROLL
    for (int i = 0; i < kOwnBins; ++i) {
      own += bins[i];
      this->own_bin(i) = 0;
    }
    const Count before = this->sum_before(own, &total);
    const Count below = static_cast<Count>(shared_.grid_below), unplaced = static_cast<Count>(shared_.grid_unplaced);
    const Count rank = static_cast<Count>(task_.k) - 1;
    const bool missed = rank < below || rank - below >= total;
    if (missed) listed_ = false;  // what is listed is of the range that missed
    if (thread_ == 0) shared_.below = 0;
    if (thread_ == 0 && !listed_) shared_.listed = 0;
    if (missed) {
      const bool low = rank < below;
      const Key above = high_ + 1;
      if (thread_ == 0) m_.note(low ? SelectionEvent::kMissedLow : SelectionEvent::kMissedHigh);
      high_ = low ? low_ - 1 : Shape::kLastKey;
      low_ = low ? 0 : above;
      m_.sync();
      return false;
    }
    this->find(rank - below, bins, before, &shared_.found[0]);
    m_.sync();
    const FoundBin found = shared_.found[0];
    const Key width = bin_width();
    low_ += found.bin * width;
    high_ = high_ - low_ < width ? high_ : low_ + (width - 1);
    if (low_ == high_ || (found.members <= Shape::kMembers && unplaced == 0)) return true;
    if (thread_ == 0) m_.note(unplaced == 0 ? SelectionEvent::kNarrowed : SelectionEvent::kUnplaced);
    return false;
  }

  Shared& shared_;

  Key low_, high_;       // the range, both ends in it, and
  int shift_;            // bits of a key's distance from `low_` that its bin leaves out,
  uint32_t inverse_;     // and 2^31 / bin_steps(), rounded up
  bool listed_ = false;  // the list in global memory holds all of the range
};

}  // namespace dynams
