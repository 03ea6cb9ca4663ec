// As device_on_host.h.
#pragma once

#include <cstdint>

template <class Value>
Value __shfl_xor_sync(unsigned mask, Value value, int offset);
template <class Value>
Value __shfl_sync(unsigned mask, Value value, int source);
int __any_sync(unsigned mask, int value);

namespace dynams {

float saturated_product(float a, float b);
void meet(int barrier, int threads);
void announce(int barrier, int threads);
uint32_t raise(uint32_t* word, uint32_t value);
uint32_t arrive(uint32_t* count);
void see_arrivals();
uint32_t fresh(const uint32_t* word);
void wait_for_launch_before();

}  // namespace dynams
