// What a block selects of its slice, compacted in the order of the values and written.
#pragma once

#include <cstdint>

#include "portable.h"
#include "smallest_k_slice.h"

namespace dynams {

// What a block selects of its slice: the values with smaller keys, and those with this key at offsets below `ties_end`.
// They go to the places of the answer from `base` on.
template <class Key>
struct Threshold {
  Key key;
  uint32_t ties_end;
  int64_t base;
};

template <class Machine, class Shape>
class BlockAnswer : protected BlockSlice<Machine, Shape> {
 protected:
  using Slice = BlockSlice<Machine, Shape>;
  using Slice::kWarp, Slice::kWarps, Slice::kThreads, Slice::kChunks, Slice::kChunk, Slice::kTile;
  using Slice::m_, Slice::thread_, Slice::lane, Slice::warp, Slice::task_, Slice::start_, Slice::size_;
  using Slice::number_up_to;
  using Slice::Slice;
  using Slice::values_, Slice::offsets_, Slice::part_of, Slice::read_part, Slice::mark, Slice::cached, Slice::append;
  using typename Slice::Key, typename Slice::Number, typename Slice::Order, typename Slice::Part, typename Slice::Raw;

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

  // Has one barrier of the block, after which all is visible that was in shared memory before.
  DYNAMS_DEVICE Places places(const Part& part, uint32_t bits) {
    // The four bits of a chunk become their number, at most 4; over a warp at most kChunk, which a byte holds.
    uint32_t counts = bits - (bits >> 1 & 0x05050505u);
    counts = (counts & 0x03030303u) + (counts >> 2 & 0x03030303u);
    Places out;
    out.chunks = part.chunks;
    const uint32_t up_to_lane = this->sum_up_to_lane(counts);
    out.before = up_to_lane - counts;
    out.totals = m_.shuffle(up_to_lane, kWarp - 1);
    const uint32_t pairs = (out.totals & 0x00ff00ffu) + (out.totals >> 8 & 0x00ff00ffu);
    uint64_t* sums = this->next_sums();
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
  // then a chunk to a warp, that the memory gets whole lines.
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
      for (int begin = kChunk * static_cast<int>(warp()); begin < shift + chosen.total; begin += kChunk * kWarps) {
        if (aligned && begin >= shift && begin + kChunk <= shift + chosen.total) {
          // Four numbers of 8 bytes would be two stores of a lane, of every other 16 bytes each.
          DYNAMS_UNROLL
          for (int half = 0; half < 2; ++half) {
            const int own = begin + half * kChunk / 2 + 2 * static_cast<int>(lane());
            const Pair<uint16_t> offsets = *reinterpret_cast<const Pair<uint16_t>*>(offsets_ + own);
            m_.write(reinterpret_cast<Pair<int64_t>*>(out_indices + own),
                     Pair<int64_t>{{tile_start + offsets.at[0], tile_start + offsets.at[1]}});
            if (sizeof(Raw) == 8)
              m_.write(reinterpret_cast<Pair<Raw>*>(out_values + own),
                       Pair<Raw>{{values[offsets.at[0]], values[offsets.at[1]]}});
          }
          if (sizeof(Raw) < 8) {
            const int own = begin + 4 * static_cast<int>(lane());
            const Quad<uint16_t> offsets = *reinterpret_cast<const Quad<uint16_t>*>(offsets_ + own);
            Quad<Raw> some;
            DYNAMS_UNROLL
            for (int j = 0; j < 4; ++j) some.at[j] = values[offsets.at[j]];
            m_.write(reinterpret_cast<Quad<Raw>*>(out_values + own), some);
          }
        } else {
          DYNAMS_UNROLL_BY(1)
          for (int i = begin + static_cast<int>(lane()); i < begin + kChunk; i += kWarp) {
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
};

}  // namespace dynams
