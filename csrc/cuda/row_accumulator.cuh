// What one lane learns of a row as its logits stream past, and how two lanes' knowledge becomes one.
//
// Kept: the two largest logits and, where a softmax is asked for, sums of e = exp(z - largest) over the *other* classes
// and how many classes share the largest. Leaving the largest out keeps the precision of 1 - p where p is nearly 1.
// -inf stands for "no logit": it adds nothing to a sum, so lanes with nothing to read are filled up with it (a row of
// nothing but -inf is told at the end by its largest).
#pragma once

#include "device.cuh"

namespace dynams {

// Which sums a launch needs: none, that of e, or those of e^2 and e * (z - largest) as well.
enum Sums : int { kNoSums = 0, kMassSum = 1, kAllSums = 2 };

template <class T>
__device__ __forceinline__ T infinity();
template <>
__device__ __forceinline__ float infinity<float>() {
  return float_from_bits(0x7f800000u);
}
template <>
__device__ __forceinline__ double infinity<double>() {
  return double_from_words(0, 0x7ff00000u);
}
template <class T>
__device__ __forceinline__ T not_a_number() {
  return infinity<T>() - infinity<T>();
}

// How 16 bytes hold elements. `Score` is the type they are widened to, kNothing a register full of -inf.
template <class Element>
struct Layout {
  using Score = float;
  static constexpr int kElements = 8;

  static __device__ __forceinline__ float at(const Vector& vector, int place) {
    const uint32_t word = vector.words[place / 2];
    return widen(Element{static_cast<uint16_t>(place % 2 ? word >> 16 : word & 0xffffu)});
  }
  static __device__ __forceinline__ Element nothing() { return Element{static_cast<uint16_t>(kInfinity | 0x8000u)}; }
  static __device__ __forceinline__ Vector fill(Element first, Element second) {
    constexpr uint32_t kNothing = (kInfinity | 0x8000u) * 0x10001u;
    const uint32_t word = first.bits | static_cast<uint32_t>(second.bits) << 16;
    return Vector{{word, kNothing, kNothing, kNothing}};
  }

 private:
  static constexpr uint32_t kInfinity = std::is_same<Element, Half>::value ? 0x7c00u : 0x7f80u;
};

template <>
__device__ __forceinline__ float Layout<BFloat>::at(const Vector& vector, int place) {
  const uint32_t word = vector.words[place / 2];
  return float_from_bits(place % 2 ? word & 0xffff0000u : word << 16);
}

template <>
struct Layout<float> {
  using Score = float;
  static constexpr int kElements = 4;

  static __device__ __forceinline__ float at(const Vector& vector, int place) {
    return float_from_bits(vector.words[place]);
  }
  static __device__ __forceinline__ float nothing() { return -infinity<float>(); }
  static __device__ __forceinline__ Vector fill(float first, float second) {
    const uint32_t none = bits_of(nothing());
    return Vector{{bits_of(first), bits_of(second), none, none}};
  }
};

template <>
struct Layout<double> {
  using Score = double;
  static constexpr int kElements = 2;

  static __device__ __forceinline__ double at(const Vector& vector, int place) {
    return double_from_words(vector.words[2 * place], vector.words[2 * place + 1]);
  }
  static __device__ __forceinline__ double nothing() { return -infinity<double>(); }
  static __device__ __forceinline__ Vector fill(double first, double second) {
    return Vector{{low_word(first), high_word(first), low_word(second), high_word(second)}};
  }
};

template <class Element>
using ScoreOf = typename Layout<Element>::Score;

// The two largest, with multiplicity. A NaN stays in `largest`, and then nothing else matters.
template <class T>
struct TopTwo {
  T first = -infinity<T>(), second = -infinity<T>();

  __device__ __forceinline__ void add(T x) {
    second = greater(second, lesser(first, x));
    first = max_nan(first, x);
  }
  __device__ __forceinline__ void add(const Vector& vector) {
#pragma unroll
    for (int place = 0; place < Layout<T>::kElements; ++place) add(Layout<T>::at(vector, place));
  }
  __device__ __forceinline__ T largest() const { return first; }
  __device__ __forceinline__ T runner_up() const { return second; }
};

// Half-precision numbers are compared two a register: three operations for two elements, and no widening.
template <class Element>
struct PackedTopTwo {
  uint32_t first = kNothing, second = kNothing;

  __device__ __forceinline__ void add_word(uint32_t x) {
    second = Packed<Element>::greater(second, Packed<Element>::lesser(first, x));
    first = Packed<Element>::max_nan(first, x);
  }
  __device__ __forceinline__ void add(Element x) { add_word(x.bits | (kNothing & 0xffff0000u)); }
  __device__ __forceinline__ void add(const Vector& vector) {
#pragma unroll
    for (int word = 0; word < 4; ++word) add_word(vector.words[word]);
  }
  __device__ __forceinline__ float largest() const { return max_nan(low(first), high(first)); }
  __device__ __forceinline__ float runner_up() const {
    return greater(greater(low(second), high(second)), lesser(low(first), high(first)));
  }

 private:
  static constexpr uint32_t kNothing = std::is_same<Element, Half>::value ? 0xfc00fc00u : 0xff80ff80u;
  static __device__ __forceinline__ float low(uint32_t word) {
    return widen(Element{static_cast<uint16_t>(word & 0xffffu)});
  }
  static __device__ __forceinline__ float high(uint32_t word) {
    return widen(Element{static_cast<uint16_t>(word >> 16)});
  }
};
template <>
struct TopTwo<Half> : PackedTopTwo<Half> {};
template <>
struct TopTwo<BFloat> : PackedTopTwo<BFloat> {};

template <class T>
struct RowState {
  T largest, second;
  T ties;          // how many classes have the largest logit
  T mass;          // over the other classes: sum of e = exp(z - largest),
  T mass_squares;  // of e^2,
  T mass_shifted;  // of e * (z - largest)
};

template <class T>
__device__ __forceinline__ RowState<T> no_logits() {
  return RowState<T>{-infinity<T>(), -infinity<T>(), 0, 0, 0, 0};
}

// Shifts below this have e = 0 in every type, and 0 times this is 0: -inf needs no case of its own.
template <class T>
__device__ __forceinline__ T bounded_shift(T shift) {
  return greater(shift, T(-1e4));
}

// exp of a bounded shift. The product with log2(e) is rounded, by up to |x| 2^-24 of the result; what the rounding took
// (float's ln 2 is exact to 3e-9 of itself) comes back to first order. Four instructions where expf needs eight: with
// eight, the sums of half-precision rows are bound by instructions, not by memory.
__device__ __forceinline__ float exp_of_shift(float x) {
  const float product = times(x, 1.44269504088896341f);
  const float lost = fmaf(product, -0.693147180559945309f, x);
  const float power = exp2_fast(product);
  return fmaf(power, lost, power);
}
__device__ __forceinline__ double exp_of_shift(double x) { return exp(x); }

// Makes the sums relative to `largest`, at least the state's own: what was largest joins the others.
template <int kSums, class T>
__device__ __forceinline__ void raise_largest(RowState<T>& state, T largest) {
  if (!(largest > state.largest)) return;
  const T shift = bounded_shift(state.largest - largest);
  const T scale = exp_of_shift(shift);
  const T mass = state.mass + state.ties;
  if constexpr (kSums == kAllSums) {
    state.mass_squares = times(times(scale, scale), state.mass_squares + state.ties);
    state.mass_shifted = times(scale, fma(shift, mass, state.mass_shifted));
  }
  state.mass = times(scale, mass);
  state.ties = 0;
  state.largest = largest;
}

// A few logits' part of the sums, none above `largest`; added to the row's at once, which keeps the error of long rows
// small.
template <int kSums, class T>
struct PartialSums {
  T largest;
  T below = 0;  // how many are less than the largest
  T mass = 0, mass_squares = 0, mass_shifted = 0;

  __device__ __forceinline__ void add(T logit) {
    const T counts = one_if_less(logit, largest);
    const T shift = bounded_shift(logit - largest);
    const T weight = exp_of_shift(shift);
    below += counts;
    mass = fma(weight, counts, mass);
    if constexpr (kSums == kAllSums) {
      const T counted = times(weight, counts);
      mass_squares = fma(counted, counted, mass_squares);
      mass_shifted = fma(counted, shift, mass_shifted);
    }
  }
  __device__ __forceinline__ void add_to(RowState<T>& state, int logits) const {
    state.ties += static_cast<T>(logits) - below;
    state.mass += mass;
    state.mass_squares += mass_squares;
    state.mass_shifted += mass_shifted;
  }
};

template <int kSums, class Element, class T, int kVectors>
__device__ __forceinline__ void add_vectors(TopTwo<Element>& top, RowState<T>& state,
                                            const Vector (&vectors)[kVectors]) {
#pragma unroll
  for (int i = 0; i < kVectors; ++i) top.add(vectors[i]);
  if constexpr (kSums != kNoSums) {
    raise_largest<kSums>(state, top.largest());
    PartialSums<kSums, T> sums{state.largest};
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
#pragma unroll
      for (int place = 0; place < Layout<Element>::kElements; ++place) sums.add(Layout<Element>::at(vectors[i], place));
    }
    sums.add_to(state, kVectors * Layout<Element>::kElements);
  }
}

// Commutative to the bit, so that lanes that exchange states and merge them agree on the result.
template <int kSums, class T>
__device__ __forceinline__ RowState<T> merge(RowState<T> a, RowState<T> b) {
  const T second = greater(greater(a.second, b.second), lesser(a.largest, b.largest));
  const T largest = max_nan(a.largest, b.largest);
  if constexpr (kSums != kNoSums) {
    raise_largest<kSums>(a, largest);
    raise_largest<kSums>(b, largest);
    a.ties += b.ties;
    a.mass += b.mass;
    if constexpr (kSums == kAllSums) {
      a.mass_squares += b.mass_squares;
      a.mass_shifted += b.mass_shifted;
    }
  }
  a.largest = largest;
  a.second = second;
  return a;
}

}  // namespace dynams
