// Memory of the allocator's that nobody has touched yet.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dynams {

// An allocation from this size on is freshly mapped by glibc, always.
constexpr int64_t kSurelyFresh = 32 << 20;

// Makes a part of an allocation present before it is written: one call, where each page's first touch would trap. Huge
// pages would take half the time once the system has some at hand, and many times as long where it must make them.
inline void populate(void* data, int64_t bytes) {
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

// What a selection of k values is written into.
struct SelectionOutput {
  void* values;
  int64_t* indices;
  int64_t value_size;
  bool fresh_values, fresh_indices;

  // `fresh`: allocated for this call.
  SelectionOutput(void* values, int64_t* indices, int64_t value_size, int64_t k, bool fresh)
      : values(values),
        indices(indices),
        value_size(value_size),
        fresh_values(fresh && k * value_size >= kSurelyFresh),
        fresh_indices(fresh && k * kIndexSize >= kSurelyFresh) {}

  // Before `count` are written from `place` on.
  void prepare(int64_t place, int64_t count) const {
    if (fresh_values) populate(values_at(place), count * value_size);
    if (fresh_indices) populate(indices + place, count * kIndexSize);
  }

  void* values_at(int64_t place) const { return static_cast<char*>(values) + place * value_size; }

 private:
  static constexpr int64_t kIndexSize = sizeof(int64_t);
};

}  // namespace dynams
