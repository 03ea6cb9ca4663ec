// Exact selection of the k[g] smallest of every group g: three reads of the values, two of the groups, one write of the
// answer.
//
// The first read counts every group's values by bins of their keys; a sample has made bins of about equal numbers. So
// each group's size is known, and the bin in which its last selected value lies. The second read marks, a bit a value,
// what is before that bin, and sorts the few in it by group, with their indices. Of those, each group's smallest by
// (key, index) are marked too: ties need no counts. The third read writes what is marked, in index order.
//
// There are as many bins as the table of counts may have in cache, or a fraction of the values. Of many small groups,
// down to one of each value, that is one bin: everything is sorted by group and ranked, still in linear time. So are
// groups whose values all lie in few bins. The answer depends on neither bins nor threads.
#include "grouped.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

#include "fresh_memory.h"
#include "handout.h"
#include "parallel.h"
#include "selection_values.h"

namespace dynams {
namespace {

constexpr int64_t kGrain = 1 << 14;  // values worth a thread
constexpr int64_t kBlock = 1 << 14;  // handed out at once; whole words of marks
// Counts in a core's second-level cache, and the most there may be in one of the threads' tables or shared by them all.
constexpr int64_t kCountsInCache = 1 << 16;
constexpr int64_t kMostBins = 1 << 12;
constexpr int64_t kValuesPerCount = 4;

template <class Key>
constexpr int kCellBits = sizeof(Key) == 4 ? 12 : 14;  // of doubles' keys the exponent alone has 11

// A value in question: pairs are ordered by key, then index.
struct WideItem {
  uint64_t key;
  uint32_t index;
  bool operator<(const WideItem& other) const { return key != other.key ? key < other.key : index < other.index; }
};
inline void set_item(uint64_t& item, uint32_t key, uint32_t index) { item = uint64_t(key) << 32 | index; }
inline void set_item(WideItem& item, uint64_t key, uint32_t index) { item = {key, index}; }
inline uint32_t index_of(uint64_t item) { return static_cast<uint32_t>(item); }
inline uint32_t index_of(const WideItem& item) { return item.index; }

// Bins of keys, ascending, of about as many values each.
template <class Key>
struct Bins {
  std::vector<uint16_t> of_cell;
  std::vector<GroupBounds<Key>> bounds;  // of each bin
  KeyBins view{};

  Bins(DType dtype, const void* values, int64_t count, int64_t bins) {
    constexpr Key kLast = static_cast<Key>(~Key(0));
    bounds.assign(static_cast<size_t>(bins), {0, kLast});
    view = {0, kLast, int(sizeof(Key)) * 8 - 1, nullptr, bins};
    if (bins == 1) return;
    const std::vector<Key> sample = sampled_keys<Key>(dtype, values, count);
    const auto [least, greatest] = std::minmax_element(sample.begin(), sample.end());
    const Key low = *least, high = *greatest;
    int shift = 0;
    while ((static_cast<Key>(high - low) >> shift) >> kCellBits<Key> != 0) ++shift;
    const size_t cells = static_cast<size_t>(static_cast<Key>(high - low) >> shift) + 1;
    std::vector<int64_t> sampled(cells);
    for (const Key key : sample) ++sampled[static_cast<size_t>(static_cast<Key>(key - low) >> shift)];
    of_cell.resize(cells);
    int64_t before = 0;
    for (size_t cell = 0; cell < cells; ++cell) {
      // By the middle of a cell, so that one with many values is a bin of its own.
      const int64_t middle = 2 * before + sampled[cell];
      const size_t bin =
          static_cast<size_t>(std::min(bins - 1, middle * bins / (2 * static_cast<int64_t>(sample.size()))));
      of_cell[cell] = static_cast<uint16_t>(bin);
      before += sampled[cell];
      const Key first = cell == 0 ? Key(0) : static_cast<Key>(low + (static_cast<Key>(cell) << shift));
      const Key last = cell + 1 == cells ? kLast : static_cast<Key>(low + (static_cast<Key>(cell + 1) << shift) - 1);
      GroupBounds<Key>& bound = bounds[bin];
      if (cell == 0 || of_cell[cell - 1] != bin) bound.low = first;
      bound.span = static_cast<Key>(last - bound.low);
    }
    view = {low, high, shift, of_cell.data(), bins};
  }
};

int64_t bins_for(int64_t count, int64_t groups) {
  const int64_t room = std::min(std::max(kCountsInCache, count / 8), count / kValuesPerCount);
  int64_t bins = 1;
  while (bins < kMostBins && 2 * bins * groups <= room) bins *= 2;
  return bins;
}

// work(rank, block) for every block, by whichever thread comes for it.
template <class Work>
void each_block(int64_t blocks, int threads, Work work) {
  Handout handout(blocks);
  run_team(threads, [&](const Member& member) {
    for (int64_t block = handout.next(); block >= 0; block = handout.next()) work(member.rank, block);
  });
}

template <class Key>
class Marker {
  using Item = std::conditional_t<sizeof(Key) == 4, uint64_t, WideItem>;

 public:
  Marker(const Kernels& kernels, DType dtype, const void* values, const int64_t* groups, int64_t count,
         const GroupQuotas& quotas, uint64_t* words, int threads)
      : kernels_(kernels),
        dtype_(dtype),
        values_(values),
        groups_(groups),
        count_(count),
        quotas_(quotas),
        words_(words),
        threads_(threads),
        bins_(dtype, values, count, bins_for(count, quotas.group_count)),
        states_(static_cast<size_t>(quotas.group_count)),
        bounds_(static_cast<size_t>(quotas.group_count)) {}

  int64_t run() {
    if (!count() || !find_bins()) return -1;
    const int64_t selected = give_places();
    mark();
    rank();
    return selected;
  }

 private:
  struct State {
    int64_t needed = 0;       // how many of those in question are selected
    int64_t in_question = 0;  // how many there are
    int64_t first = 0;        // where they are kept
    int64_t quota = 0;
  };

  int64_t table() const { return quotas_.group_count * bins_.view.count; }
  int64_t begin(int64_t block) const { return block * kBlock; }
  int64_t size(int64_t block) const { return std::min(kBlock, count_ - begin(block)); }
  int64_t blocks() const { return (count_ + kBlock - 1) / kBlock; }
  // Groups handed out at once: many, where they are small.
  int64_t groups_at_once() const { return std::clamp<int64_t>(quotas_.group_count / (threads_ * 16), 1, 1024); }

  template <class Work>
  void each_group(Work work) {
    const int64_t at_once = groups_at_once();
    each_block((quotas_.group_count + at_once - 1) / at_once, threads_, [&](int, int64_t block) {
      const int64_t end = std::min(quotas_.group_count, (block + 1) * at_once);
      for (int64_t group = block * at_once; group < end; ++group) work(group);
    });
  }

  bool count() {
    // A table for every thread, while all of them together are not more than the values or fit a cache.
    copies_ = table() * threads_ <= std::max(kCountsInCache * threads_, count_ / 2) ? threads_ : 1;
    counts_.assign(static_cast<size_t>(table() * copies_), 0);
    const bool shared = copies_ < threads_;
    std::atomic<bool> inside{true};
    each_block(blocks(), threads_, [&](int rank, int64_t block) {
      uint32_t* const counts = counts_.data() + (shared ? 0 : rank * table());
      if (!kernels_.count_groups(dtype_, advance(dtype_, values_, begin(block)), groups_ + begin(block), size(block),
                                 quotas_.group_count, bins_.view, counts, shared))
        inside.store(false, std::memory_order_relaxed);
    });
    return inside.load();
  }

  // A group's counts by bin, those of all threads together.
  const uint32_t* counted(int64_t group) {
    const int64_t bins = bins_.view.count;
    uint32_t* const total = counts_.data() + group * bins;
    for (int64_t copy = 1; copy < copies_; ++copy) {
      const uint32_t* const more = total + copy * table();
      for (int64_t bin = 0; bin < bins; ++bin) total[bin] += more[bin];
    }
    return total;
  }

  int64_t quota(int64_t group, int64_t members) const {
    if (quotas_.each != nullptr) return quotas_.each[group];
    if (members == 0) return 0;
    return std::max<int64_t>(1, static_cast<int64_t>(std::floor(quotas_.fraction * double(members) + 0.5)));
  }

  bool find_bins() {
    std::atomic<bool> possible{true};
    each_group([&](int64_t group) {
      const uint32_t* const counts = counted(group);
      const int64_t members = std::accumulate(counts, counts + bins_.view.count, uint32_t(0));
      State& state = states_[static_cast<size_t>(group)];
      state.quota = quota(group, members);
      if (state.quota < 0 || state.quota > members) {
        possible.store(false, std::memory_order_relaxed);
        return;
      }
      // No number has the key 0: nothing is below these bounds, nothing within.
      GroupBounds<Key>& bounds = bounds_[static_cast<size_t>(group)];
      bounds = {0, 0};
      if (state.quota == 0) return;
      state.needed = state.quota;
      int64_t bin = 0;
      for (;; ++bin) {
        state.in_question = counts[bin];
        if (state.in_question >= state.needed) break;
        state.needed -= state.in_question;
      }
      bounds = bins_.bounds[static_cast<size_t>(bin)];
    });
    return possible.load();
  }

  int64_t give_places() {
    int64_t selected = 0, in_question = 0;
    for (State& state : states_) {
      state.first = in_question;
      in_question += state.in_question;
      selected += state.quota;
    }
    items_.reset(new Item[static_cast<size_t>(in_question)]);
    return selected;
  }

  void mark() {
    std::vector<std::vector<uint32_t>> places(static_cast<size_t>(threads_));
    for (std::vector<uint32_t>& own : places) own.resize(static_cast<size_t>(std::min(count_, kBlock)));
    each_block(blocks(), threads_, [&](int rank, int64_t block) {
      uint32_t* const open = places[static_cast<size_t>(rank)].data();
      const void* values = advance(dtype_, values_, begin(block));
      const int64_t* groups = groups_ + begin(block);
      const KeyCounts counts =
          kernels_.mark_groups(dtype_, values, groups, size(block), bounds_.data(), words_ + begin(block) / 64, open);
      for (int64_t i = 0; i < counts.collected; ++i) {
        const int64_t place = open[i];
        State& state = states_[static_cast<size_t>(groups[place])];
        const int64_t to = __atomic_fetch_add(&state.first, 1, __ATOMIC_RELAXED);
        set_item(items_[to], key_at<Key>(dtype_, values, place), static_cast<uint32_t>(begin(block) + place));
      }
    });
  }

  void rank() {
    each_group([&](int64_t group) {
      const State& state = states_[static_cast<size_t>(group)];
      Item* const end = items_.get() + state.first;  // as every place before it was given away
      Item* const begin = end - state.in_question;
      if (state.needed < state.in_question) std::nth_element(begin, begin + state.needed, end);
      for (int64_t i = 0; i < state.needed; ++i) {
        const uint32_t index = index_of(begin[i]);
        __atomic_fetch_or(words_ + index / 64, uint64_t(1) << (index % 64), __ATOMIC_RELAXED);
      }
    });
  }

  const Kernels& kernels_;
  const DType dtype_;
  const void* values_;
  const int64_t* groups_;
  const int64_t count_;
  const GroupQuotas quotas_;
  uint64_t* words_;
  const int threads_;
  const Bins<Key> bins_;
  int64_t copies_ = 1;
  std::vector<uint32_t> counts_;  // (copies, groups, bins)
  std::vector<State> states_;
  std::vector<GroupBounds<Key>> bounds_;
  std::unique_ptr<Item[]> items_;  // those in question, by group
};

}  // namespace

int64_t mark_smallest(const Kernels& kernels, DType dtype, const void* values, const int64_t* groups, int64_t count,
                      const GroupQuotas& quotas, uint64_t* words, int threads) {
  const int team = threads_for(count, kGrain, threads);
  if (dtype == DType::kFloat64)
    return Marker<uint64_t>(kernels, dtype, values, groups, count, quotas, words, team).run();
  return Marker<uint32_t>(kernels, dtype, values, groups, count, quotas, words, team).run();
}

void write_marked(const Kernels& kernels, DType dtype, const void* values, int64_t count, const uint64_t* words,
                  int64_t marked, bool by_value, void* out_values, int64_t* out_indices, int threads) {
  if (marked == 0) return;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  std::vector<int64_t> places(static_cast<size_t>(blocks) + 1);
  for (int64_t block = 0; block < blocks; ++block) {
    int64_t here = 0;
    const int64_t end = std::min((count + 63) / 64, (block + 1) * (kBlock / 64));
    for (int64_t word = block * (kBlock / 64); word < end; ++word) here += __builtin_popcountll(words[word]);
    places[static_cast<size_t>(block) + 1] = places[static_cast<size_t>(block)] + here;
  }
  const SelectionOutput out(out_values, out_indices, element_size(dtype), marked, true);
  each_block(blocks, threads_for(count, kGrain, threads), [&](int, int64_t block) {
    const int64_t begin = block * kBlock, place = places[static_cast<size_t>(block)];
    const WriteTask task{0, begin, places[static_cast<size_t>(block) + 1] - place};
    out.prepare(place, task.capacity);
    kernels.write_marked(dtype, advance(dtype, values, begin), std::min(kBlock, count - begin), words + begin / 64,
                         task, out.values_at(place), out.indices + place);
  });
  if (!by_value) return;
  if (dtype == DType::kFloat64) order_by_value<uint64_t>(dtype, values, marked, out_values, out_indices);
  else order_by_value<uint32_t>(dtype, values, marked, out_values, out_indices);
}

}  // namespace dynams
