// The total order of selection as unsigned keys: a < b in the contract's order exactly when key(a) < key(b).
//
// Ascending value, -inf first, +inf before NaN, every NaN the same and last, -0.0 the same as +0.0. IEEE numbers of one
// sign are ordered as their bits; flipping all bits of negatives and the sign of the others orders the two signs too.
// Half-precision numbers are ordered as the floats of the same value.
#pragma once

#include <cstdint>
#include <cstring>

#include "half.h"
#include "portable.h"

namespace dynams {

template <class BitsOf, BitsOf kInfinityBits>
struct FloatOrder {
  using Key = BitsOf;
  static constexpr Key kSign = Key(1) << (sizeof(Key) * 8 - 1);
  static constexpr Key kLast = ~Key(0);  // of every NaN
  static constexpr Key kZero = kSign;    // of both zeros; no number has the key before it
  static constexpr Key kHighest = kSign | kInfinityBits;
  static constexpr Key kLowest = ~kHighest;

  static constexpr DYNAMS_HD Key key(Key bits) {
    const Key magnitude = bits & ~kSign;
    const Key ordered = (bits & kSign) ? ~bits : bits | kSign;
    return magnitude > kInfinityBits ? kLast : magnitude == 0 ? kSign : ordered;
  }

  // The bits of a number with this key; keys below that of -inf stand for -inf.
  static constexpr DYNAMS_HD Key bits(Key key) {
    const Key bounded = key < kLowest ? kLowest : key;
    return (bounded & kSign) ? bounded & ~kSign : ~bounded;
  }
};

using FloatKeys = FloatOrder<uint32_t, 0x7f800000u>;
using DoubleKeys = FloatOrder<uint64_t, 0x7ff0000000000000ull>;

static inline DYNAMS_HD uint32_t key_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return FloatKeys::key(bits);
}
static inline DYNAMS_HD uint64_t key_of(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return DoubleKeys::key(bits);
}
static inline DYNAMS_HD uint32_t key_of(Half value) { return FloatKeys::key(float_bits(value)); }
static inline DYNAMS_HD uint32_t key_of(BFloat value) { return FloatKeys::key(float_bits(value)); }

}  // namespace dynams
