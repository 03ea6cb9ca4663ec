// Counts of the digits of keys: one read of the values, or of the few keys that an earlier read kept.
//
// Keys are computed a short run at a time, which compilers turn into vectors, then counted one by one. Neighbours often
// have the same digit, as margins do in their top one, and an addition to a count waits for the last one to it: two
// tables take turns. A key that does not agree with the digits chosen so far goes to one more bin, without a branch.
#include "digits.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "../common/order_key.h"
#include "handout.h"
#include "parallel.h"
#include "selection_values.h"

namespace dynams {
namespace {

constexpr int64_t kGrain = 1 << 15;  // values worth a thread
constexpr int64_t kBlock = 1 << 16;  // handed out at once: the tables, emptied after each, are little beside it
constexpr int64_t kRun = 256;
constexpr int64_t kPadding = 64;  // kernels store whole vectors of keys

// Of half precision: 16 bits say all.
using HalfKeys = FloatOrder<uint16_t, 0x7c00>;
using BFloatKeys = FloatOrder<uint16_t, 0x7f80>;

struct KeysOfFloats {
  using Key = uint32_t;
  const uint32_t* bits;
  Key at(int64_t i) const { return FloatKeys::key(bits[i]); }
};
struct KeysOfDoubles {
  using Key = uint64_t;
  const uint64_t* bits;
  Key at(int64_t i) const { return DoubleKeys::key(bits[i]); }
};
struct KeysOfHalves {
  using Key = uint16_t;
  const uint16_t* bits;
  Key at(int64_t i) const { return HalfKeys::key(bits[i]); }
};
struct KeysOfBFloats {
  using Key = uint16_t;
  const uint16_t* bits;
  Key at(int64_t i) const { return BFloatKeys::key(bits[i]); }
};
template <class KeyType>
struct KeptKeys {
  using Key = KeyType;
  const Key* keys;
  Key at(int64_t i) const { return keys[i]; }
};

template <class Key>
constexpr Key kSign = static_cast<Key>(Key(1) << (sizeof(Key) * 8 - 1));

template <class Key>
Key lowest_of(const Digit& digit) {
  return static_cast<Key>(static_cast<Key>(digit.low) ^ kSign<Key>);
}

class Tables {
 public:
  explicit Tables(int bits) : bins_(size_t(1) << bits), tables_(2 * (bins_ + 1)), total_(bins_) {}

  template <class Keys>
  void add(const Keys& keys, int64_t begin, int64_t end, const Digit& digit) {
    using Key = typename Keys::Key;
    const Key low = lowest_of<Key>(digit);
    const Key last = static_cast<Key>(bins_);
    uint32_t* const even = tables_.data();
    uint32_t* const odd = even + bins_ + 1;
    Key digits[kRun];
    for (; begin < end; begin += kRun) {
      const int64_t size = std::min(kRun, end - begin);
      for (int64_t i = 0; i < size; ++i)
        digits[i] = std::min(static_cast<Key>(static_cast<Key>(keys.at(begin + i) ^ low) >> digit.shift), last);
      int64_t i = 0;
      for (; i + 2 <= size; i += 2) {
        ++even[digits[i]];
        ++odd[digits[i + 1]];
      }
      if (i < size) ++even[digits[i]];
    }
    for (size_t bin = 0; bin < bins_; ++bin) total_[bin] += int64_t(even[bin]) + odd[bin];
    std::fill(tables_.begin(), tables_.end(), 0);
  }

  void add_to(int64_t* counts) const {
    for (size_t bin = 0; bin < bins_; ++bin)
      if (total_[bin] != 0) __atomic_fetch_add(&counts[bin], total_[bin], __ATOMIC_RELAXED);
  }

 private:
  const size_t bins_;
  std::vector<uint32_t> tables_;
  std::vector<int64_t> total_;
};

// work(tables, begin, end, rank) for every block; then all tables are added to the counts.
template <class Work>
void count_blocks(int64_t count, const Digit& digit, int64_t* counts, int threads, Work work) {
  const int team = threads_for(count, kGrain, threads);
  std::vector<Tables> tables(static_cast<size_t>(team), Tables(digit.bits));
  Handout handout((count + kBlock - 1) / kBlock);
  run_team(team, [&](const Member& member) {
    Tables& own = tables[static_cast<size_t>(member.rank)];
    for (int64_t block = handout.next(); block >= 0; block = handout.next())
      work(own, block * kBlock, std::min(count, (block + 1) * kBlock), member.rank);
    own.add_to(counts);
  });
}

template <class Keys>
void count_all(const Keys& keys, int64_t count, const Digit& digit, int64_t* counts, int threads) {
  count_blocks(count, digit, counts, threads,
               [&](Tables& own, int64_t begin, int64_t end, int) { own.add(keys, begin, end, digit); });
}

// The keys of a digit's range as `Kernels::collect` takes them: bounds that are numbers, as it compares numbers.
template <class Order>
struct Bounds {
  typename Order::Key low, high;

  explicit Bounds(const Digit& digit) {
    using Key = typename Order::Key;
    low = lowest_of<Key>(digit);
    high = static_cast<Key>(low | ((Key(1) << (digit.shift + digit.bits)) - 1));
    if (low > Order::kHighest) low = Order::kLast;
    if (high > Order::kHighest && high != Order::kLast) high = Order::kHighest;
    // The key before zero's would be read as a zero.
    if (high == Order::kZero - 1) --high;
  }
};

template <class Order>
void keep_all(const Kernels& kernels, DType dtype, const void* values, int64_t count, const Digit& digit, void* keys,
              int64_t kept, int64_t* counts, int threads) {
  using Key = typename Order::Key;
  const Bounds<Order> bounds(digit);
  const size_t room = static_cast<size_t>(std::min(count, kBlock) + kPadding);
  std::vector<std::unique_ptr<Key[]>> buffers(static_cast<size_t>(threads_for(count, kGrain, threads)));
  for (std::unique_ptr<Key[]>& buffer : buffers) buffer.reset(new Key[room]);
  std::atomic<int64_t> next{0};
  count_blocks(count, digit, counts, threads, [&](Tables& own, int64_t begin, int64_t end, int rank) {
    Key* const found = buffers[static_cast<size_t>(rank)].get();
    const int64_t size =
        kernels.collect(dtype, advance(dtype, values, begin), end - begin, bounds.low, bounds.high, found).collected;
    own.add(KeptKeys<Key>{found}, 0, size, digit);
    const int64_t place = next.fetch_add(size, std::memory_order_relaxed);
    const int64_t fits = std::clamp<int64_t>(kept - place, 0, size);
    std::memcpy(static_cast<Key*>(keys) + place, found, static_cast<size_t>(fits) * sizeof(Key));
  });
}

}  // namespace

void count_digits(DType dtype, const void* values, int64_t count, const Digit& digit, int64_t* counts, int threads) {
  switch (dtype) {
    case DType::kFloat64:
      return count_all(KeysOfDoubles{static_cast<const uint64_t*>(values)}, count, digit, counts, threads);
    case DType::kFloat16:
      return count_all(KeysOfHalves{static_cast<const uint16_t*>(values)}, count, digit, counts, threads);
    case DType::kBFloat16:
      return count_all(KeysOfBFloats{static_cast<const uint16_t*>(values)}, count, digit, counts, threads);
    default:
      return count_all(KeysOfFloats{static_cast<const uint32_t*>(values)}, count, digit, counts, threads);
  }
}

void keep_digits(const Kernels& kernels, DType dtype, const void* values, int64_t count, const Digit& digit, void* keys,
                 int64_t kept, int64_t* counts, int threads) {
  if (dtype == DType::kFloat64) keep_all<DoubleKeys>(kernels, dtype, values, count, digit, keys, kept, counts, threads);
  else keep_all<FloatKeys>(kernels, dtype, values, count, digit, keys, kept, counts, threads);
}

void count_kept_digits(DType dtype, const void* keys, int64_t kept, const Digit& digit, int64_t* counts, int threads) {
  if (dtype == DType::kFloat64)
    count_all(KeptKeys<uint64_t>{static_cast<const uint64_t*>(keys)}, kept, digit, counts, threads);
  else count_all(KeptKeys<uint32_t>{static_cast<const uint32_t*>(keys)}, kept, digit, counts, threads);
}

}  // namespace dynams
