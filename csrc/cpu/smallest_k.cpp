// Exact selection of the k smallest of n values: two reads of the values and one write of the answer.
//
// A sample of the keys gives two bounds that enclose the k-th smallest almost surely. The first read counts the keys
// below the bounds and keeps the few between them; a radix select over those, with digits fitted to what range is left,
// finds the k-th smallest key exactly. Values are read in blocks, by whichever thread comes for one. It is then known
// how many each block selects, hence where it writes: the second read writes values and indices in index order, ties to
// the lowest index. Where the sample misleads (an adversary, or bad luck), the bounds are widened to all keys and the
// same steps run again, still in linear time. The answer depends on the keys alone, never on the sample, the blocks or
// the threads.
#include "smallest_k.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "fresh_memory.h"
#include "handout.h"
#include "parallel.h"
#include "selection_values.h"

namespace dynams {
namespace {

// A thread's part must be worth calling it: a few microseconds, at about half a nanosecond a value.
constexpr int64_t kGrain = 1 << 15;
// Small enough that the last blocks end together, and that one stays in cache; large enough that what is done once for
// each is nothing.
constexpr int64_t kBlock = 1 << 15;
// Below this a sample saves nothing: every key is kept by the first read.
constexpr int64_t kSampledFrom = 1 << 14;
constexpr int kDigitBits = 11;
// Of few values a large histogram takes longer than the values: theirs is small, and the last of them are ranked.
constexpr int64_t kFew = 1 << 12;
constexpr int kDigitBitsOfFew = 8;
constexpr int64_t kRankedAtOnce = 64;
// Of so few keys in question, times the threads, one thread finds the threshold while the others wait: to meet at every
// step takes long where a core is busy, as who meets there has lost its turn.
constexpr int64_t kNarrowedAlone = 1 << 20;
constexpr int64_t kPadding = 64;  // kernels store whole vectors of keys

template <class Key>
struct Bounds {
  Key low, high;
};

// Bounds that enclose the k-th smallest (k >= 1) unless the sample is unlucky by 3.5 standard deviations.
template <class Key>
Bounds<Key> sampled_bounds(DType dtype, const void* values, int64_t count, int64_t k) {
  Bounds<Key> bounds{0, static_cast<Key>(~Key(0))};
  if (count < kSampledFrom) return bounds;
  std::vector<Key> sample = sampled_keys<Key>(dtype, values, count);
  const int64_t size = static_cast<int64_t>(sample.size());
  const double fraction = static_cast<double>(k) / static_cast<double>(count);
  const double rank = fraction * static_cast<double>(size);
  const double spread = 3.5 * std::sqrt(static_cast<double>(size) * fraction * (1 - fraction)) + 2;
  const int64_t low = static_cast<int64_t>(std::floor(rank - spread));
  const int64_t high = static_cast<int64_t>(std::ceil(rank + spread));
  if (low >= 0) {
    std::nth_element(sample.begin(), sample.begin() + low, sample.end());
    bounds.low = sample[static_cast<size_t>(low)];
  }
  if (high < size) {
    const auto begin = sample.begin() + std::max<int64_t>(low, 0);
    std::nth_element(begin, sample.begin() + high, sample.end());
    bounds.high = sample[static_cast<size_t>(high)];
  }
  return bounds;
}

// What one block of values adds.
struct Block {
  int64_t in_question = 0;
  int64_t below = 0;  // certainly selected
  int64_t place = 0;  // where it writes
};

template <class Key>
int digit_shift(Bounds<Key> bounds, int digit_bits) {
  const uint64_t span = static_cast<uint64_t>(bounds.high) - static_cast<uint64_t>(bounds.low);
  int bits = 0;
  while (bits < 64 && (span >> bits) != 0) ++bits;
  return std::max(0, bits - digit_bits);
}

// Keeps the keys within the bounds; those before become certain.
template <class Key>
void keep(Block& block, Key* keys, Bounds<Key> bounds) {
  int64_t kept = 0;
  for (int64_t i = 0; i < block.in_question; ++i) {
    const Key key = keys[i];
    block.below += key < bounds.low;
    keys[kept] = key;
    kept += (key >= bounds.low) & (key <= bounds.high);
  }
  block.in_question = kept;
}

template <class Key>
class Selector {
 public:
  Selector(const Kernels& kernels, DType dtype, const void* values, int64_t count, int64_t k,
           const SelectionOutput& out)
      : kernels_(kernels),
        dtype_(dtype),
        values_(values),
        count_(count),
        k_(k),
        out_(out),
        blocks_(static_cast<size_t>((count + kBlock - 1) / kBlock)),
        handout_(static_cast<int64_t>(blocks_.size())) {}

  void run(const void* last, int threads) {
    if (last == nullptr) {
      bounds_ = sampled_bounds<Key>(dtype_, values_, count_, k_);
    } else {
      const Key key = key_at<Key>(dtype_, last, 0);
      bounds_ = {key, key};
    }
    histograms_.resize(static_cast<size_t>(threads));
    for (std::vector<int64_t>& histogram : histograms_) histogram.resize(size_t(1) << digit_bits_);
    // Room for every key, allocated here because a thread of a team must not throw. Pages never written cost nothing.
    keys_.reset(new Key[static_cast<size_t>(count_) + blocks_.size() * static_cast<size_t>(kPadding)]);
    run_team(threads, [this](const Member& member) { select(member); });
  }

 private:
  void select(const Member& member) {
    do {
      each_block([this](int64_t place) { read(place); });
      alone(member, [this] { judge_bounds(); });
    } while (again_);
    if (!placed_) {
      while (bounds_.low != bounds_.high) {
        std::vector<int64_t>& histogram = histograms_[static_cast<size_t>(member.rank)];
        std::fill(histogram.begin(), histogram.end(), 0);
        each_block([&](int64_t place) { count_digits(place, histogram.data()); });
        alone(member, [this] { choose_digit(); });
        each_block([this](int64_t place) { keep(block(place), keys_of(place), bounds_); });
        alone(member, [] {});
      }
      alone(member, [this] { give_places(); });
    }
    each_block([this](int64_t place) { write(place); });
  }

  // work(place) for every block, by whichever thread comes for it; `alone` ends it.
  template <class Work>
  void each_block(Work work) {
    for (int64_t place = handout_.next(); place >= 0; place = handout_.next()) work(place);
  }

  // By rank 0, while no other thread is at work.
  template <class Work>
  void alone(const Member& member, Work work) {
    member.wait();
    if (member.rank == 0) {
      work();
      handout_.restart();
    }
    member.wait();
  }

  Block& block(int64_t place) { return blocks_[static_cast<size_t>(place)]; }
  int64_t begin(int64_t place) const { return place * kBlock; }
  int64_t size(int64_t place) const { return std::min(kBlock, count_ - begin(place)); }
  // A block's keys in question, in no particular order.
  Key* keys_of(int64_t place) { return keys_.get() + place * (kBlock + kPadding); }

  // The first read: what is certain, what is in question.
  void read(int64_t place) {
    const void* values = advance(dtype_, values_, begin(place));
    const KeyCounts counts = bounds_.low == bounds_.high ? kernels_.count(dtype_, values, size(place), bounds_.low)
                                                         : kernels_.collect(dtype_, values, size(place), bounds_.low,
                                                                            bounds_.high, keys_of(place));
    block(place).below = counts.below;
    block(place).in_question = counts.collected;
  }

  void judge_bounds() {
    int64_t in_question = 0, below = 0;
    for (const Block& block : blocks_) {
      in_question += block.in_question;
      below += block.below;
    }
    needed_ = k_ - below;
    // Bounds that are one key are the threshold, also where no key equal to it is selected.
    again_ = needed_ < (bounds_.low != bounds_.high) || needed_ > in_question;
    if (again_) bounds_ = {0, static_cast<Key>(~Key(0))};
    shift_ = digit_shift(bounds_, digit_bits_);
    if (again_ || in_question * static_cast<int64_t>(histograms_.size()) > kNarrowedAlone) return;
    narrow();
    give_places();
    placed_ = true;
  }

  // From bounds to the threshold, by one thread.
  void narrow() {
    const int64_t blocks = static_cast<int64_t>(blocks_.size());
    std::vector<int64_t>& histogram = histograms_.front();
    while (bounds_.low != bounds_.high) {
      if (blocks == 1 && blocks_[0].in_question <= kRankedAtOnce) return rank();
      std::fill(histogram.begin(), histogram.end(), 0);
      for (int64_t place = 0; place < blocks; ++place) count_digits(place, histogram.data());
      choose_digit();
      for (int64_t place = 0; place < blocks; ++place) keep(block(place), keys_of(place), bounds_);
    }
  }

  void count_digits(int64_t place, int64_t* histogram) {
    const Key* keys = keys_of(place);
    const int64_t count = block(place).in_question;
    for (int64_t i = 0; i < count; ++i)
      ++histogram[static_cast<size_t>(static_cast<Key>(keys[i] - bounds_.low) >> shift_)];
  }

  // Narrows the bounds to the digit that holds the needed-th key in question.
  void choose_digit() {
    int64_t before = 0;
    const size_t digits = histograms_.front().size();
    for (size_t digit = 0; digit < digits; ++digit) {
      int64_t here = 0;
      for (const std::vector<int64_t>& histogram : histograms_) here += histogram[digit];
      if (before + here >= needed_) {
        const Key low = static_cast<Key>(bounds_.low + (static_cast<Key>(digit) << shift_));
        const Key last = static_cast<Key>(low + ((Key(1) << shift_) - 1));
        // The top digit may reach past the largest key.
        bounds_ = {low, last < low || last > bounds_.high ? bounds_.high : last};
        needed_ -= before;
        break;
      }
      before += here;
    }
    shift_ = digit_shift(bounds_, digit_bits_);
  }

  // The same at once, by ordering the few keys of an only block: the bounds become the threshold.
  void rank() {
    Block& only = blocks_[0];
    Key *const keys = keys_of(0), *const end = keys + only.in_question;
    std::nth_element(keys, keys + needed_ - 1, end);
    const Key threshold = keys[needed_ - 1];
    const int64_t below = std::count_if(keys, end, [threshold](Key key) { return key < threshold; });
    only.in_question = std::count(keys, end, threshold);
    only.below += below;
    needed_ -= below;
    bounds_ = {threshold, threshold};
  }

  // What is in question now equals the threshold: ties go to the lowest indices, so to the first blocks.
  void give_places() {
    int64_t place = 0, ties_left = needed_;
    for (Block& block : blocks_) {
      block.in_question = std::min(block.in_question, ties_left);
      block.place = place;
      ties_left -= block.in_question;
      place += block.below + block.in_question;
    }
  }

  // The second read.
  void write(int64_t place) {
    const Block& own = block(place);
    const WriteTask task{own.in_question, begin(place), own.below + own.in_question};
    out_.prepare(own.place, task.capacity);
    kernels_.write_selected(dtype_, advance(dtype_, values_, begin(place)), size(place), bounds_.low, task,
                            out_.values_at(own.place), out_.indices + own.place);
  }

  const Kernels& kernels_;
  const DType dtype_;
  const void* values_;
  const int64_t count_, k_;
  const int digit_bits_ = count_ <= kFew ? kDigitBitsOfFew : kDigitBits;
  const SelectionOutput& out_;

  // Written by one thread while no other is at work; a block, by the thread that has it.
  std::vector<Block> blocks_;
  Handout handout_;
  Bounds<Key> bounds_{};
  int shift_ = 0;
  int64_t needed_ = 0;  // how many of the keys in question are selected
  bool again_ = false, placed_ = false;
  std::vector<std::vector<int64_t>> histograms_;  // one a thread
  std::unique_ptr<Key[]> keys_;
};

template <class Key>
void select_and_order(const Kernels& kernels, DType dtype, const void* values, int64_t count, int64_t k, bool by_value,
                      const void* last, const SelectionOutput& out, int threads) {
  Selector<Key>(kernels, dtype, values, count, k, out).run(last, threads);
  if (by_value) order_by_value<Key>(dtype, values, k, out.values, out.indices);
}

}  // namespace

void smallest_k(const Kernels& kernels, DType dtype, const void* values, int64_t count, int64_t k, bool by_value,
                const void* last, void* out_values, int64_t* out_indices, bool fresh, int threads) {
  if (k == 0) return;
  const int team = threads_for(count, kGrain, threads);
  const SelectionOutput out(out_values, out_indices, element_size(dtype), k, fresh);
  if (dtype == DType::kFloat64) select_and_order<uint64_t>(kernels, dtype, values, count, k, by_value, last, out, team);
  else select_and_order<uint32_t>(kernels, dtype, values, count, k, by_value, last, out, team);
}

}  // namespace dynams
