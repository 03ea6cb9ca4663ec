// What one lane learns of a row as its logits stream past, and how two lanes' knowledge becomes one.
//
// Kept: the two largest logits and, where a softmax is asked for, sums of e = exp(z - largest) over all classes but one
// of the largest logit. Leaving that out keeps the precision of 1 - p where p is nearly 1. -inf stands for "no logit":
// it adds nothing to a sum, so lanes with nothing to read are filled up with it (a row of nothing but -inf is told at
// the end by its largest).
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

template <class Element>
struct PackedLeaders;

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
  friend struct PackedLeaders<Element>;
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

// The two largest as lanes exchange them to agree on those of all.
template <class T>
struct Leaders {
  T first, second;

  __device__ __forceinline__ explicit Leaders(const TopTwo<T>& top) : first(top.first), second(top.second) {}
  template <class Exchange>
  __device__ __forceinline__ void join(const Exchange& exchange) {
    const T other = exchange(first);
    second = greater(greater(second, exchange(second)), lesser(first, other));
    first = max_nan(first, other);
  }
  __device__ __forceinline__ T largest() const { return first; }
  __device__ __forceinline__ T runner_up() const { return second; }
};

// Of half-precision numbers both travel in one register, the largest in the low half.
template <class Element>
struct PackedLeaders {
  uint32_t pair;

  __device__ __forceinline__ explicit PackedLeaders(const TopTwo<Element>& top)
      : pair(joined((top.first & 0xffffu) | top.second << 16, top.first >> 16 | (top.second & 0xffff0000u))) {}
  template <class Exchange>
  __device__ __forceinline__ void join(const Exchange& exchange) {
    pair = joined(pair, exchange(pair));
  }
  __device__ __forceinline__ float largest() const { return TopTwo<Element>::low(pair); }
  __device__ __forceinline__ float runner_up() const { return TopTwo<Element>::high(pair); }

 private:
  static __device__ __forceinline__ uint32_t joined(uint32_t a, uint32_t b) {
    const uint32_t lesser = Packed<Element>::lesser(a, b), beaten = (lesser & 0xffffu) | lesser << 16;
    return Packed<Element>::max_nan(Packed<Element>::max_nan(a, b), beaten);
  }
};
template <>
struct Leaders<Half> : PackedLeaders<Half> {
  using PackedLeaders<Half>::PackedLeaders;
};
template <>
struct Leaders<BFloat> : PackedLeaders<BFloat> {
  using PackedLeaders<BFloat>::PackedLeaders;
};

template <class T>
struct RowState {
  T largest, second;
  T ties;          // how many classes of the largest logit the sums leave out: 1 of a whole row
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

// exp of a bounded shift and of a correction far below 1. The product with log2(e) is rounded, by up to |x| 2^-24 of
// the result; what the rounding took (float's ln 2 is exact to 3e-9 of itself) comes back to first order. Four
// instructions where expf needs eight.
__device__ __forceinline__ float exp_of_shift(float x, float correction = 0.0f) {
  const float product = times(x, 1.44269504088896341f);
  const float lost = fmaf(product, -0.693147180559945309f, x);
  const float power = exp2_fast(product);
  return fmaf(power, lost + correction, power);
}
__device__ __forceinline__ double exp_of_shift(double x, double = 0) { return exp(x); }

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

// Logits relative to the second largest of their lanes: `part` tells how far below it one is, 0 from it on upwards, and
// `weight` is e of that part. Whatever logits and second are, infinities and NaN too, both are finite.
template <class T>
struct Reference;

// A part is a share of kSpan in units of ln 2: saturation, which is free, so keeps the argument of exp2 in [-kSpan, 0].
// Near zero a part is one operation, its rounding that of the result. The second's own product is rounded there,
// upwards so that no logit from it on downwards saturates: all weights are too small by one factor, which `rise` gives
// back.
template <>
struct Reference<float> {
  static constexpr float kSpan = 16384.0f, kLn2 = 0.693147180559945309f, kUnit = 1.44269504088896341f / kSpan;
  static constexpr float kNear = 512.0f;  // the factor is 1 + 2e-4 at most

  float second, offset;
  bool near;

  __device__ __forceinline__ explicit Reference(float runner_up) : second(runner_up) {
    const float product = times(second, kUnit), size = greater(product, -product);
    near = size <= kNear * kUnit;
    offset = fmaf(size, 1.1920929e-7f, product);
  }
  template <bool kIsNear>
  __device__ __forceinline__ float part(float logit) const {
    return kIsNear ? fma_saturated(logit, -kUnit, offset) : fma_saturated(second - logit, kUnit, 0.0f);
  }
  static __device__ __forceinline__ float weight(float part) { return exp2_fast(times(part, -kSpan)); }
  // The sum of e * (z - second) from that of the weights times their parts.
  static __device__ __forceinline__ float shifted(float parts) { return times(parts, -kSpan * kLn2); }
  __device__ __forceinline__ float excess() const {
    return near ? times(fmaf(second, -kUnit, offset), kSpan * kLn2) : 0.0f;
  }
};

template <>
struct Reference<double> {
  static constexpr bool near = true;
  double second;

  __device__ __forceinline__ explicit Reference(double runner_up) : second(runner_up) {}
  template <bool>
  __device__ __forceinline__ double part(double logit) const {
    return bounded_shift(lesser(logit - second, 0.0));
  }
  static __device__ __forceinline__ double weight(double part) { return exp_of_shift(part); }
  static __device__ __forceinline__ double shifted(double parts) { return parts; }
  __device__ __forceinline__ double excess() const { return 0.0; }
};

// Sums over a few logits whose largest and second are known, relative to the second.
template <int kSums, class T>
struct PartialSums {
  Reference<T> reference;
  T mass = 0, squares = 0, parts = 0;

  __device__ __forceinline__ explicit PartialSums(T second) : reference(second) {}

  template <bool kIsNear>
  __device__ __forceinline__ void add(T logit) {
    const T part = reference.template part<kIsNear>(logit);
    const T weight = Reference<T>::weight(part);
    mass += weight;
    if constexpr (kSums == kAllSums) {
      squares = fma(weight, weight, squares);
      parts = fma(weight, part, parts);
    }
  }

  __device__ __forceinline__ void add_any(T logit) {
    if (reference.near) add<true>(logit);
    else add<false>(logit);
  }

  // Relative to the largest and without its term, which is at most as large as that of the second, which stays: taking
  // it off costs no more than a bit.
  __device__ __forceinline__ RowState<T> state(T largest) const {
    const T part = reference.near ? reference.template part<true>(largest) : reference.template part<false>(largest);
    const T weight = Reference<T>::weight(part), others = mass - weight;
    const T shift = largest == reference.second ? T(0) : bounded_shift(reference.second - largest);
    const T excess = reference.excess(), scale = exp_of_shift(shift, excess);
    RowState<T> state{largest, reference.second, 1, times(scale, others), 0, 0};
    if constexpr (kSums == kAllSums) {
      state.mass_squares = times(times(scale, scale), fma(-weight, weight, squares));
      const T shifted = Reference<T>::shifted(fma(-weight, part, parts));
      state.mass_shifted = times(scale, fma(shift + excess, others, shifted));
    }
    return state;
  }
};

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
