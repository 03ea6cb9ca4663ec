// Counts of the digits of keys (order_key.h): what a radix selection over several processes adds up between them.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace dynams {

// Keys are as wide as the values, 16 bits of half-precision ones, and passed as signed integers in the same order. Of
// the keys in [low, low + 2^(shift + bits)), which agree in all bits above, the digit is the `bits` at `shift`.
constexpr int kMostDigitBits = 15;  // so that one more bin has a number of 16 bits too
struct Digit {
  int64_t low;
  int shift, bits;
};

// Adds to counts[d] how many keys have the digit d.
void count_digits(DType dtype, const void* values, int64_t count, const Digit& digit, int64_t* counts, int threads);

// The same, and writes those keys, in no particular order. `keys` are unsigned, with room for just as many as there are
// (`kept`): of float32 and float64 values only.
void keep_digits(const Kernels& kernels, DType dtype, const void* values, int64_t count, const Digit& digit, void* keys,
                 int64_t kept, int64_t* counts, int threads);

// `count_digits` of keys that were kept.
void count_kept_digits(DType dtype, const void* keys, int64_t kept, const Digit& digit, int64_t* counts, int threads);

}  // namespace dynams
