// Exact selection of the k smallest of n values: two reads of the values and one write of the answer.
//
// A sample of the keys gives two bounds that enclose the k-th smallest almost surely. The first read counts the keys
// below the bounds and keeps the few between them; a radix select over those, with digits fitted to what range is left,
// finds the k-th smallest key exactly. Every thread then knows how many it selects in its own part, hence where it
// writes: the second read writes values and indices in index order, ties to the lowest index. Where the sample misleads
// (an adversary, or bad luck), the bounds are widened to all keys and the same steps run again, still in linear time.
// The answer depends on the keys alone, never on the sample or on the threads.
#include "smallest_k.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "../common/order_key.h"
#include "parallel.h"
#include "sort_pairs.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dynams {
namespace {

// A thread's part must be worth calling it: a few microseconds, at about half a nanosecond a value.
constexpr int64_t kGrain = 1 << 15;
// Below this a sample saves nothing: every key is kept by the first read.
constexpr int64_t kSampledFrom = 1 << 14;
constexpr int kDigitBits = 11;
// Of few values a large histogram takes longer than the values: theirs is small, and the last of them are ranked.
constexpr int64_t kFew = 1 << 12;
constexpr int kDigitBitsOfFew = 8;
constexpr int64_t kRankedAtOnce = 64;
constexpr int64_t kPadding = 64;  // kernels store whole vectors of keys

template <class Key>
struct Bounds {
  Key low, high;
};

template <class Key>
Key key_at(DType dtype, const void* values, int64_t place) {
  switch (dtype) {
    case DType::kFloat64:
      return static_cast<Key>(key_of(static_cast<const double*>(values)[place]));
    case DType::kFloat16:
      return static_cast<Key>(key_of(static_cast<const Half*>(values)[place]));
    case DType::kBFloat16:
      return static_cast<Key>(key_of(static_cast<const BFloat*>(values)[place]));
    default:
      return static_cast<Key>(key_of(static_cast<const float*>(values)[place]));
  }
}

constexpr int64_t element_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

const void* advance(DType dtype, const void* values, int64_t count) {
  return static_cast<const char*>(values) + count * element_size(dtype);
}

// Bounds that enclose the k-th smallest (k >= 1) unless the sample is unlucky by 3.5 standard deviations.
template <class Key>
Bounds<Key> sampled_bounds(DType dtype, const void* values, int64_t count, int64_t k) {
  Bounds<Key> bounds{0, static_cast<Key>(~Key(0))};
  if (count < kSampledFrom) return bounds;
  const int64_t size = std::min<int64_t>(65536, static_cast<int64_t>(4 * std::sqrt(static_cast<double>(count))));
  std::vector<Key> sample(static_cast<size_t>(size));
  const int64_t stride = count / size;
  uint64_t state = 0x9e3779b97f4a7c15ull;  // a fixed seed: places jittered within their stride, the same at every run
  for (int64_t i = 0; i < size; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const int64_t jitter = static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(stride));
    sample[static_cast<size_t>(i)] = key_at<Key>(dtype, values, i * stride + jitter);
  }
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

template <class Key>
struct Part {
  Key* keys = nullptr;  // those in question, in no particular order
  int64_t in_question = 0;
  int64_t below = 0;  // certainly selected
  std::vector<int64_t> histogram;
};

template <class Key>
int digit_shift(Bounds<Key> bounds, int digit_bits) {
  const uint64_t span = static_cast<uint64_t>(bounds.high) - static_cast<uint64_t>(bounds.low);
  int bits = 0;
  while (bits < 64 && (span >> bits) != 0) ++bits;
  return std::max(0, bits - digit_bits);
}

template <class Key>
void count_digits(Part<Key>& part, Bounds<Key> bounds, int shift) {
  std::fill(part.histogram.begin(), part.histogram.end(), 0);
  int64_t* histogram = part.histogram.data();
  for (int64_t i = 0; i < part.in_question; ++i)
    ++histogram[static_cast<size_t>(static_cast<Key>(part.keys[i] - bounds.low) >> shift)];
}

// Keeps the keys of one digit; those of lesser digits become certain.
template <class Key>
void keep_bounds(Part<Key>& part, Bounds<Key> bounds) {
  Key* keys = part.keys;
  int64_t kept = 0;
  for (int64_t i = 0; i < part.in_question; ++i) {
    const Key key = keys[i];
    part.below += key < bounds.low;
    keys[kept] = key;
    kept += (key >= bounds.low) & (key <= bounds.high);
  }
  part.in_question = kept;
}

// The same at once, by ordering the few keys of an only part: the bounds become the threshold.
template <class Key>
void rank(Part<Key>& part, Bounds<Key>& bounds, int64_t& needed) {
  Key* const end = part.keys + part.in_question;
  std::nth_element(part.keys, part.keys + needed - 1, end);
  const Key threshold = part.keys[needed - 1];
  const int64_t below = std::count_if(part.keys, end, [threshold](Key key) { return key < threshold; });
  part.in_question = std::count(part.keys, end, threshold);
  part.below += below;
  needed -= below;
  bounds = {threshold, threshold};
}

// Makes the pages of a large output present before it is written: one call, where each page's first touch would trap.
// Only above 32 MB, from which on glibc always returns freshly mapped memory, is it sure to find pages that are not
// there yet.
void populate(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_POPULATE_WRITE)
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) & ~(kPage - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE);
#else
  (void)data;
  (void)bytes;
#endif
}
constexpr int64_t kSurelyFresh = 32 << 20;

// Everything the team shares. Written by rank 0 alone, between two barriers.
template <class Key>
struct Selection {
  Bounds<Key> bounds;
  int shift = 0;
  int64_t needed = 0;  // how many of the keys in question are selected, >= 1
  bool again = false;
  std::vector<Part<Key>> parts;
};

template <class Key>
int64_t total_below(const std::vector<Part<Key>>& parts) {
  int64_t total = 0;
  for (const Part<Key>& part : parts) total += part.below;
  return total;
}

// Narrows the bounds to the digit that holds the needed-th key in question.
template <class Key>
void choose_digit(Selection<Key>& selection) {
  int64_t before = 0;
  const size_t digits = selection.parts.front().histogram.size();
  for (size_t digit = 0; digit < digits; ++digit) {
    int64_t here = 0;
    for (const Part<Key>& part : selection.parts) here += part.histogram[digit];
    if (before + here >= selection.needed) {
      const Key low = static_cast<Key>(selection.bounds.low + (static_cast<Key>(digit) << selection.shift));
      const Key last = static_cast<Key>(low + ((Key(1) << selection.shift) - 1));
      // The top digit may reach past the largest key.
      selection.bounds = {low, last < low || last > selection.bounds.high ? selection.bounds.high : last};
      selection.needed -= before;
      return;
    }
    before += here;
  }
}

template <class Key>
class Selector {
 public:
  Selector(const Kernels& kernels, DType dtype, const void* values, int64_t count, int64_t k, void* out_values,
           int64_t* out_indices)
      : kernels_(kernels),
        dtype_(dtype),
        values_(values),
        count_(count),
        k_(k),
        out_values_(out_values),
        out_indices_(out_indices) {}

  void run(int threads) {
    shared_.bounds = sampled_bounds<Key>(dtype_, values_, count_, k_);
    shared_.parts.resize(static_cast<size_t>(threads));
    for (Part<Key>& part : shared_.parts) part.histogram.resize(size_t(1) << digit_bits_);
    // Room for every key, allocated here because a thread of a team must not throw. Pages never written cost nothing.
    keys_.reset(new Key[static_cast<size_t>(count_ + kPadding * threads)]);
    run_team(threads, [this](const Member& member) { select(member); });
  }

 private:
  Part<Key>& part_of(const Member& member) { return shared_.parts[static_cast<size_t>(member.rank)]; }

  void select(const Member& member) {
    Part<Key>& part = part_of(member);
    do {
      read(member, part);
      member.wait();
      if (member.rank == 0) judge_bounds();
      member.wait();
    } while (shared_.again);
    while (shared_.bounds.low != shared_.bounds.high) {
      if (member.size == 1 && part.in_question <= kRankedAtOnce) {
        rank(part, shared_.bounds, shared_.needed);
        break;
      }
      count_digits(part, shared_.bounds, shared_.shift);
      member.wait();
      if (member.rank == 0) {
        choose_digit(shared_);
        shared_.shift = digit_shift(shared_.bounds, digit_bits_);
      }
      member.wait();
      keep_bounds(part, shared_.bounds);
    }
    member.wait();
    write(member);
  }

  // The first read: what is certain, what is in question.
  void read(const Member& member, Part<Key>& part) {
    const int64_t begin = member.begin(count_), size = member.end(count_) - begin;
    const void* values = advance(dtype_, values_, begin);
    const Bounds<Key> bounds = shared_.bounds;
    KeyCounts counts;
    if (bounds.low == bounds.high) {
      counts = kernels_.count(dtype_, values, size, bounds.low);
    } else {
      part.keys = keys_.get() + begin + kPadding * member.rank;
      counts = kernels_.collect(dtype_, values, size, bounds.low, bounds.high, part.keys);
    }
    part.below = counts.below;
    part.in_question = counts.collected;
  }

  void judge_bounds() {
    int64_t in_question = 0;
    for (const Part<Key>& part : shared_.parts) in_question += part.in_question;
    shared_.needed = k_ - total_below(shared_.parts);
    shared_.again = shared_.needed < 1 || shared_.needed > in_question;
    if (shared_.again) shared_.bounds = {0, static_cast<Key>(~Key(0))};
    shared_.shift = digit_shift(shared_.bounds, digit_bits_);
  }

  // The second read. What is in question now equals the threshold: ties go to the lowest indices, so to the first
  // parts.
  void write(const Member& member) {
    int64_t place = 0, ties_left = shared_.needed, ties = 0;
    for (int rank = 0; rank <= member.rank; ++rank) {
      const Part<Key>& part = shared_.parts[static_cast<size_t>(rank)];
      ties = std::min(part.in_question, ties_left);
      if (rank == member.rank) break;
      ties_left -= ties;
      place += part.below + ties;
    }
    const int64_t begin = member.begin(count_), size = member.end(count_) - begin;
    const WriteTask task{ties, begin, part_of(member).below + ties};
    char* values = static_cast<char*>(out_values_) + place * element_size(dtype_);
    int64_t* indices = out_indices_ + place;
    if (k_ * element_size(dtype_) >= kSurelyFresh) populate(values, task.capacity * element_size(dtype_));
    if (k_ * static_cast<int64_t>(sizeof(int64_t)) >= kSurelyFresh)
      populate(indices, task.capacity * static_cast<int64_t>(sizeof(int64_t)));
    kernels_.write_selected(dtype_, advance(dtype_, values_, begin), size, shared_.bounds.low, task, values, indices);
  }

  const Kernels& kernels_;
  const DType dtype_;
  const void* values_;
  const int64_t count_, k_;
  const int digit_bits_ = count_ <= kFew ? kDigitBitsOfFew : kDigitBits;
  void* out_values_;
  int64_t* out_indices_;
  Selection<Key> shared_;
  std::unique_ptr<Key[]> keys_;
};

template <class Key>
void select_and_order(const Kernels& kernels, DType dtype, const void* values, int64_t count, int64_t k, bool by_value,
                      void* out_values, int64_t* out_indices, int threads) {
  Selector<Key>(kernels, dtype, values, count, k, out_values, out_indices).run(threads);
  if (!by_value) return;
  // Keys are taken from the selection, which is in index order: a stable sort by key leaves ties by index.
  std::vector<KeyedIndex<Key>> pairs(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) pairs[static_cast<size_t>(i)] = {key_at<Key>(dtype, out_values, i), out_indices[i]};
  sort_by_key(pairs);
  const int64_t size = element_size(dtype);
  for (int64_t i = 0; i < k; ++i) {
    const int64_t index = pairs[static_cast<size_t>(i)].index;
    out_indices[i] = index;
    std::copy_n(static_cast<const char*>(values) + index * size, size, static_cast<char*>(out_values) + i * size);
  }
}

}  // namespace

void smallest_k(const Kernels& kernels, DType dtype, const void* values, int64_t count, int64_t k, bool by_value,
                void* out_values, int64_t* out_indices, int threads) {
  if (k == 0) return;
  const int team = threads_for(count, kGrain, threads);
  if (dtype == DType::kFloat64)
    select_and_order<uint64_t>(kernels, dtype, values, count, k, by_value, out_values, out_indices, team);
  else select_and_order<uint32_t>(kernels, dtype, values, count, k, by_value, out_values, out_indices, team);
}

}  // namespace dynams
