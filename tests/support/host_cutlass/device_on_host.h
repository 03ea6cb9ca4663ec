// The kernels' own operations, declared alone: with CUTLASS's headers, which take CUDA's, only types are asked for.
#pragma once

#include <cmath>
#include <cstdint>

namespace dynams {

float max_nan(float a, float b);
float exp2_fast(float x);
float fma_saturated(float a, float b, float c);
float float_from_bits(uint32_t bits);
double double_from_words(uint32_t low, uint32_t high);
uint32_t bits_of(float value);
uint32_t low_word(double value);
uint32_t high_word(double value);
float times(float a, float b);
double times(double a, double b);
template <class Element>
struct Packed;
template <class T>
T& in_shared_memory();

}  // namespace dynams
