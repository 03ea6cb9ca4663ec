// The total order of selection as unsigned keys: a < b in the contract's order exactly when key(a) < key(b).
//
// Ascending value, -inf first, +inf before NaN, every NaN the same and last, -0.0 the same as +0.0. IEEE numbers of one
// sign are ordered as their bits; flipping all bits of negatives and the sign of the others orders the two signs too.
#pragma once

#include <cstdint>

namespace dynams {

template <class Bits, Bits kInfinity>
struct FloatOrder {
  static constexpr Bits kSign = static_cast<Bits>(Bits(1) << (sizeof(Bits) * 8 - 1));
  static constexpr Bits kLast = static_cast<Bits>(~Bits(0));

  static constexpr Bits key(Bits bits) {
    const Bits magnitude = static_cast<Bits>(bits & static_cast<Bits>(~kSign));
    if (magnitude > kInfinity) return kLast;
    if (magnitude == 0) return kSign;
    return (bits & kSign) ? static_cast<Bits>(~bits) : static_cast<Bits>(bits | kSign);
  }
};

using Float32Order = FloatOrder<uint32_t, 0x7f800000u>;
using Float64Order = FloatOrder<uint64_t, 0x7ff0000000000000ull>;
using Float16Order = FloatOrder<uint16_t, 0x7c00u>;
using BFloat16Order = FloatOrder<uint16_t, 0x7f80u>;

}  // namespace dynams
